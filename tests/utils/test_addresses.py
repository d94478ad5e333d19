"""Secrets in addresses: hidden in messages, removed from stored files, and restored."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from align_keras.utils import addresses, progress
from align_keras.utils.addresses import redacted, with_secrets, without_secrets
from align_keras.utils.errors import InputError


@pytest.fixture(autouse=True)
def no_stored_secrets(monkeypatch, tmp_path):
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    addresses.forget_secrets()
    yield
    addresses.forget_secrets()


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
    ("https://h/t.csv?Authorization=S3cr", "https://h/t.csv"),
    ("https://h/t.csv#access_token=S3cr", "https://h/t.csv"),
    ("https://h/t?n=2&sig=S3cr#a=1&token=S3cr", "https://h/t?n=2#a=1"),
    ("https://h/t?sig=S3cr&n=2#token=S3cr&a=1", "https://h/t?n=2#a=1"),
    ("http://me:S3cr#x@host/t.csv", "http://me@host/t.csv"),
    ("http://me:S3cr?x@host/t.csv", "http://me@host/t.csv"),
    ("postgresql://me:S3cr?b@host/db", "postgresql://me@host/db"),
    ("postgresql://me:a?S3cr@host/db?port=1", "postgresql://me@host/db?port=1"),
    ("postgresql://me:a?b=S3cr@host/db", "postgresql://me@host/db"),
    ("postgresql://me:S3cr#b@host/db", "postgresql://me@host/db"),
    ('postgresql://me:a"S3cr@host/db', "postgresql://me@host/db"),
    ("postgresql://me:a<S3cr@host/db", "postgresql://me@host/db"),
    ("postgresql://me:p@a/S3cr@host/db", "postgresql://me@host/db"),
]


@pytest.mark.parametrize("address, clean", SECRETS)
def test_a_secret_is_removed_and_restored(address, clean):
    assert without_secrets(address) == clean
    assert "S3cr" in with_secrets(clean)
    for text in (address, f"`{address}` is away", f"({address}); try again"):
        assert "S3cr" not in redacted(text)
        assert "S3cr" not in str(InputError(text))
    assert redacted("password is S3cr", address).endswith(" ***")


def test_a_password_with_spaces_is_hidden_with_the_help_of_its_address():
    address = "postgresql://me:a S3cr@host/db"
    assert without_secrets(address) == "postgresql://me@host/db"
    assert with_secrets("postgresql://me@host/db") == (
        "postgresql://me:a%20S3cr@host/db"
    )
    for text in (address, f"`{address}` is away", "password 'a S3cr' is wrong"):
        assert "S3cr" not in redacted(text, address)


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:8000/a@2x.png",
        "http://localhost:80/a@b:c@d.png",
        "http://[::1]:80/a@b",
        "https://[bad/t.csv",
        "http://nas:5000/photo/cat@2x.jpg",
        "https://nas:/photo/cat@2x.jpg",
        "http://me@host/t.csv?page=2&keys=3",
        "s3://bucket/a:b@c.tar",
        "hf://datasets/me/set@main/t.csv",
        "postgresql://me@/db?host=/tmp/pg",
        "postgresql://one:5432,two:5433/db?user=me@home",
        "postgresql://[::1]:5432/db?user=me@home",
        "https://h/t.csv?page=2;n=1&x#part?y",
        "k must be a number. Received: k=3, token_ids=[1].",
        "~/photos/a@b:c.png",
    ],
)
def test_text_without_secrets_is_unchanged(text):
    assert without_secrets(text) == redacted(text) == with_secrets(text) == text


def test_secrets_of_several_addresses_in_an_argument_are_removed():
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
def test_passwords_of_connection_strings_are_hidden(text):
    assert "S3cr" not in redacted(text)


def test_progress_messages_hide_passwords(capsys):
    progress.say("http://me:S3cr@host/t.csv: 500. Trying again")
    assert capsys.readouterr().err.startswith("http://me:***@host/t.csv: 500")


def test_passwords_are_read_from_netrc(tmp_path):
    (tmp_path / "netrc").write_text(
        "machine host login me password S3cr/x\ndefault login any password other\n"
    )
    assert with_secrets("https://host/t.csv") == "https://me:S3cr%2Fx@host/t.csv"
    assert with_secrets("https://you@host/t.csv") == "https://you@host/t.csv"
    assert with_secrets("https://elsewhere/t.csv") == "https://elsewhere/t.csv"


def test_netrc_is_used_after_a_token_of_the_same_server(tmp_path):
    (tmp_path / "netrc").write_text("machine host login me password S3cr\n")
    without_secrets("https://host/a.csv?token=a")
    assert with_secrets("https://host/b.csv") == "https://me:S3cr@host/b.csv"


def test_many_secrets_fit_into_the_environment_of_a_new_process():
    start = time.perf_counter()
    for number in range(3000):
        without_secrets(f"https://host/{number}.csv?sig={'x' * 300}")
    assert time.perf_counter() - start < 10
    assert len(os.environ[addresses.SECRETS_VARIABLE]) <= 60_000
    code = (
        "from align_keras.utils.addresses import with_secrets\n"
        "for number in (0, 2999): print(with_secrets(f'https://host/{number}.csv'))"
    )
    lines = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, text=True
    ).stdout.split()
    assert lines == [
        f"https://host/0.csv?sig={'x' * 300}",
        "https://host/2999.csv",
    ]
    assert with_secrets("https://host/2999.csv").endswith("x")


def test_an_outdated_secret_is_removed_from_the_environment(monkeypatch):
    monkeypatch.setattr(addresses, "MAX_VARIABLE_BYTES", 100)
    clean = without_secrets("https://host/a.csv?sig=old")
    without_secrets(f"https://host/a.csv?sig={'x' * 100}")
    assert clean not in json.loads(os.environ[addresses.SECRETS_VARIABLE])


def test_each_thread_gets_its_last_secret_of_an_address():
    first, second = (f"https://host/t.csv?token={name}" for name in "ab")
    for address in (first, second, first):
        assert with_secrets(without_secrets(address)) == address
    clean = without_secrets(first)
    thread = threading.Thread(target=without_secrets, args=[second])
    thread.start()
    thread.join()
    assert with_secrets(clean) == first


def test_secrets_from_all_threads_are_stored():
    def remember(start):
        for number in range(start, start + 50):
            without_secrets(f"https://host/{number}.csv?sig=S3cr")

    threads = [threading.Thread(target=remember, args=[50 * n]) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(400):
        assert with_secrets(f"https://host/{number}.csv").endswith("S3cr")
