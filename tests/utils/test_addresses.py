"""Passwords of addresses: hidden in messages, kept out of what is stored, and used."""

import pytest

from align_keras.utils import addresses, progress
from align_keras.utils.addresses import redacted, with_secrets, without_secrets
from align_keras.utils.errors import InputError


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch, tmp_path):
    monkeypatch.setenv(addresses._VARIABLE, "{}")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    addresses._netrc.cache_clear()


SECRETS = [
    ("postgresql://me:S3cr@host/db", "postgresql://me@host/db"),
    ("postgresql://me:a/S3cr@host:5432/db", "postgresql://me@host:5432/db"),
    ("postgresql://me:a@S3cr@host/db", "postgresql://me@host/db"),
    ("postgresql://me:1/S3cr@host/db", "postgresql://me@host/db"),
    ("postgres:///db?user=me&password=S3cr", "postgres:///db?user=me"),
    ("postgresql://h/db?sslpassword=S3cr&port=1", "postgresql://h/db?port=1"),
    ("http://me:S3cr@host/t.csv", "http://me@host/t.csv"),
    ("http://me:S3cr/x@host/t.csv", "http://me@host/t.csv"),
    ("https://h/t.csv?X-Amz-Signature=S3cr&n=2", "https://h/t.csv?n=2"),
    ("https://h/t.csv?access_token=S3cr", "https://h/t.csv"),
    ("https://h/t.csv?api_key=S3cr", "https://h/t.csv"),
    ("https://h/t.csv?sig=S3cr", "https://h/t.csv"),
]


@pytest.mark.parametrize("address, clean", SECRETS)
def test_a_secret_is_taken_out_and_used(address, clean):
    assert without_secrets(address) == clean
    assert "S3cr" in with_secrets(clean)
    for text in (address, f"`{address}` is away", f"({address}); try again"):
        assert "S3cr" not in redacted(text)
        assert "S3cr" not in str(InputError(text))
    assert redacted("password is S3cr", address).endswith(" ***")


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:8000/a@2x.png",
        "http://localhost:80/a@b:c@d.png",
        "http://[::1]:80/a@b",
        "http://nas:5000/photo/cat@2x.jpg",
        "https://nas:/photo/cat@2x.jpg",
        "http://me@host/t.csv?page=2&keys=3",
        "s3://bucket/a:b@c.tar",
        "hf://datasets/me/set@main/t.csv",
        "postgresql://me@/db?host=/tmp/pg",
        "k must be a number; received k=3, token_ids=[1].",
        "~/photos/a@b:c.png",
    ],
)
def test_what_has_no_secret_stays(text):
    assert without_secrets(text) == redacted(text) == with_secrets(text) == text


def test_several_addresses_of_one_argument():
    text = "a=http://me:S3cr@h/x.csv,b=http://you:T0p@g/y.csv"
    clean = "a=http://me@h/x.csv,b=http://you@g/y.csv"
    assert without_secrets(text) == clean
    assert with_secrets("http://you@g/z.png") == "http://you:T0p@g/z.png"
    assert "S3cr" not in redacted(text) and "T0p" not in redacted(text)


@pytest.mark.parametrize(
    "text",
    [
        "host=h password=S3cr",
        "password = 'a S3cr'",
        'passwd="S3cr"',
        "sslpassword=S3cr",
    ],
)
def test_connection_strings(text):
    assert "S3cr" not in redacted(text)


def test_messages_hide_it(capsys):
    progress.say("http://me:S3cr@host/t.csv: 500; trying again")
    assert capsys.readouterr().err.startswith("http://me:***@host/t.csv: 500")


def test_the_users_netrc(tmp_path):
    (tmp_path / "netrc").write_text(
        "machine host login me password S3cr/x\ndefault login any password other\n"
    )
    assert with_secrets("https://host/t.csv") == "https://me:S3cr%2Fx@host/t.csv"
    assert with_secrets("https://you@host/t.csv") == "https://you@host/t.csv"
    assert with_secrets("https://elsewhere/t.csv") == "https://elsewhere/t.csv"
