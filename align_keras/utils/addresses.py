"""Recognition of addresses, and addresses without passwords and query strings.

An address with a password is refused. A presigned address has its signature in the
query string, so `without_query` removes the query string from an address that is
printed or stored. It remembers the query string in this process, and `with_query` adds
it to a request.
"""

import os
import re
from urllib.parse import urlsplit

from align_keras.utils.errors import InputError

HUB_PREFIX = "hf://"
KAGGLE_PREFIX = "kaggle://"
# Pattern of the address of a server.
HOST_AND_PORT = r"(?:[\w.-]+|\[[0-9a-fA-F:]+\]):[0-9]{1,5}"
# A scheme has at least two letters, because a Windows drive has one.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_WEB = re.compile("https?://", re.IGNORECASE)
_LOGIN = re.compile(r"(?P<start>[A-Za-z][A-Za-z0-9+.-]*://[^\s/@:]*):[^\s/@]*@")
_QUERY = re.compile(r"(https?://[^\s?'\"`<>]*)\?[^\s'\"`<>)]*", re.IGNORECASE)
_queries: dict[str, str] = {}


def is_url(path: str | bytes | os.PathLike) -> bool:
    """Returns True for an address such as `s3://bucket/a.tar`, except `file://`."""
    match = _URL.match(os.fsdecode(path))
    return match is not None and match[1].lower() != "file"


def is_hub_name(name: str) -> bool:
    """Returns True for names of models on the Hugging Face Hub and on Kaggle."""
    return name.startswith((HUB_PREFIX, KAGGLE_PREFIX))


def password_error(address: str) -> InputError:
    """Returns the error for an address with a password.

    Args:
        address: the address or its start without the password.
    """
    return InputError(
        f"An address must not contain a password. Received: one in {address}. Use "
        "$PGPASSWORD or ~/.pgpass for PostgreSQL, ~/.netrc for a web server, and the "
        "login of the provider's own tools for a cloud."
    )


def without_query(address: str) -> str:
    """Removes the query string of a web address and remembers it for requests.

    Raises:
        InputError: if the address has a password, or if this process knows the address
            with another query string. A signature may be renewed.

    Example:

    >>> without_query("https://host/t.csv?X-Amz-Signature=a1")
    'https://host/t.csv'
    >>> with_query("https://host/t.csv")
    'https://host/t.csv?X-Amz-Signature=a1'
    """
    login = _LOGIN.match(address)
    if login is not None:
        raise password_error(login["start"])
    plain, _, query = address.partition("?")
    if not query or not _WEB.match(address):
        return address
    if _queries.get(plain, query) != query and "sig" not in query.lower():
        raise InputError(
            "Addresses must differ in more than their query strings, which are not "
            f"stored. Received: {plain} with two query strings. Copy one of the files."
        )
    _queries[plain] = query
    return plain


def with_query(address: str) -> str:
    """Returns an address with the query string that `without_query` removed."""
    query = _queries.get(address)
    return address if query is None else f"{address}?{query}"


def known_queries() -> dict[str, str]:
    """Returns the query strings by address, for `remember_queries` in a worker."""
    return dict(_queries)


def remember_queries(queries: dict[str, str]) -> None:
    """Adds the query strings of another process."""
    _queries.update(queries)


def drop_queries(text: str) -> str:
    """Removes the query strings of all web addresses in a message.

    Example:

    >>> drop_queries("404 for 'https://host/t.csv?sig=a1'")
    "404 for 'https://host/t.csv'"
    """
    return _QUERY.sub(r"\1", text)


def server_of(url: str) -> tuple[str, int]:
    """Returns the host and the port of an address."""
    try:
        parts = urlsplit(url)
        default = 443 if parts.scheme == "https" else 80
        return parts.hostname or "", parts.port or default
    except ValueError:  # The request reports the invalid address.
        return url, 0
