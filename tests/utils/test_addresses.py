"""Addresses with passwords are refused, and query strings are kept in memory only."""

import pytest

from align_keras.utils import addresses
from align_keras.utils.addresses import drop_queries, with_query, without_query
from align_keras.utils.errors import InputError


@pytest.fixture(autouse=True)
def no_known_queries(monkeypatch):
    monkeypatch.setattr(addresses, "_queries", {})


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://me:S3cr@host/db",
        "https://me:S3cr@host:80/t.csv?page=2",
        "http://:S3cr@host/",
    ],
)
def test_an_address_with_a_password_is_refused(address):
    with pytest.raises(InputError, match="password") as caught:
        without_query(address)
    assert "S3cr" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://me@host:5432/db?port=1",
        "http://host:80/a@b/t.csv",
        "http://[::1]:80/t.csv",
        "s3://bucket/a?b.tar",
        "see https://host/t?token=7",
        "C:\\photos",
    ],
)
def test_other_texts_are_unchanged(text):
    assert without_query(text) == with_query(text) == text


def test_a_renewed_signature_replaces_the_old_one():
    plain = "https://host/t.csv"
    for signature in ("old", "new"):
        address = f"{plain}?X-Amz-Date=1&X-Amz-Signature={signature}"
        assert without_query(address) == plain
        assert without_query(plain) == plain
        assert with_query(plain) == address


def test_two_files_that_differ_in_their_query_are_refused():
    without_query("https://host/t.csv?page=1")
    with pytest.raises(InputError, match="t.csv"):
        without_query("https://host/t.csv?page=2")


def test_messages_have_no_query_strings():
    text = "404 for 'https://h/t?sig=1', (http://h:80/u?a=1&b=2) and why? https://h/v"
    assert drop_queries(text) == (
        "404 for 'https://h/t', (http://h:80/u) and why? https://h/v"
    )
