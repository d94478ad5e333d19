"""Removal of passwords and tokens in addresses from messages and stored files.

`redacted` hides the secrets in every message. `InputError`, `say`, the errors of the
command line and the errors of `utils.remote` call it. `without_secrets` returns the
address that is stored. It also remembers the secrets of the address for this process,
so that `with_secrets` can add them when a connection is opened. Child processes inherit
up to 60,000 bytes of secrets in an environment variable. A worker without the secret of
an address reports the error of a connection without it. A later process receives the
secrets from the user's arguments again, or reads them from `~/.netrc`.
"""

import functools
import json
import os
import re
import threading
import urllib.parse
from collections.abc import Mapping

# Environment variable that passes secrets to child processes.
SECRETS_VARIABLE = "ALIGN_KERAS_ADDRESS_SECRETS"
# Bytes. Linux can't start a process if a variable has more than 128 KiB.
MAX_VARIABLE_BYTES = 60_000
_HIDDEN = "***"
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_DATABASES = ("postgresql", "postgres")
# Names of parameters whose values are secrets, such as sslpassword, access_token and
# X-Amz-Signature.
_SECRET_NAME = re.compile(
    r"passw(or)?d|passwd|pwd|passphrase|secret|token|signature|credential|authorization"
    r"|(api|access|account|shared|private)[-_]?key|^(sig|auth|key|pass)$",
    re.IGNORECASE,
)
# An assignment such as `password=…` in a connection string of libpq or in an option.
_ASSIGNED = re.compile(
    r"\b((?:ssl)?passw(?:or)?d|passwd|pgpassword)(\s*=\s*)"
    r"('(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|[^\s&;,'\"`)]+)",
    re.IGNORECASE,
)
# Token of the Hugging Face Hub.
_HUB_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{20,}\b")
# An address within a text ends at the next space, quote or address. The password of a
# database may contain quotes.
_ADDRESS = re.compile(
    rf"(?:(?i:{'|'.join(_DATABASES)})://[^\s:/@\"`<>]*:(?:(?!{_SCHEME.pattern})\S)+@"
    rf"|{_SCHEME.pattern})(?:(?!{_SCHEME.pattern})[^\s\"`<>])+"
)
# First parameter of a database address. Earlier question marks belong to the password.
_FIRST_PARAMETER = re.compile(r"\?[A-Za-z_]\w*=")
# Hosts of a database address with their ports.
_HOSTS = re.compile(r"[^:,]*(?::\d*)?(?:,[^:,]*(?::\d*)?)*")
_SEPARATOR = re.compile("([&?;#])")
# Matches the characters that must be escaped in a password. A percent sign begins an
# escape.
_NOT_IN_PASSWORD = re.compile(r"%(?![0-9A-Fa-f]{2})|[^A-Za-z0-9%._~!$&'()*+,;=-]")


class _Secrets:
    """Thread-safe table from addresses without secrets to addresses with secrets.

    The table also contains the address of each server with its user and password.

    Args:
        text: str, JSON object with the entries of the parent process.
    """

    def __init__(self, text: str = "{}") -> None:
        self._lock = threading.Lock()
        self._addresses: dict[str, str] = json.loads(text)
        self._shared = dict(self._addresses)
        self._shared_bytes = len(text)
        self._thread = threading.local()

    def add(self, clean: str, whole: str) -> None:
        """Stores an address and replaces an entry with other secrets.

        Args:
            clean: str, address without secrets.
            whole: str, the same address with its secrets.
        """
        self._thread.latest = clean, whole
        entries = {clean: whole}
        if _server(clean) != _server(whole):
            entries[_server(clean)] = _server(whole)
        if entries.items() <= self._addresses.items():
            return
        with self._lock:
            self._addresses.update(entries)
            self._share(entries)

    def get(self, clean: str) -> str | None:
        """Returns the address with its secrets, or None.

        If an address was stored with different secrets, the last secrets from this
        thread have priority over the last secrets from any thread.
        """
        latest_clean, latest_whole = getattr(self._thread, "latest", ("", ""))
        if clean == latest_clean:
            return latest_whole
        if clean in self._addresses:
            return self._addresses[clean]
        server = _server(clean)
        if server in self._addresses:
            return self._addresses[server] + clean[len(server) :]
        return None

    def reset_lock(self) -> None:
        """Replaces the lock after a fork, since another thread may have held it."""
        self._lock = threading.Lock()

    def _share(self, entries: Mapping[str, str]) -> None:
        """Adds entries to the environment variable if they fit into its size limit."""
        is_changed = False
        for clean, whole in entries.items():
            previous = self._shared.pop(clean, None)
            if previous is not None:
                is_changed = True
                self._shared_bytes -= _entry_bytes(clean, previous)
            size = _entry_bytes(clean, whole)
            if self._shared_bytes + size <= MAX_VARIABLE_BYTES:
                is_changed = True
                self._shared[clean] = whole
                self._shared_bytes += size
        if is_changed:
            os.environ[SECRETS_VARIABLE] = json.dumps(self._shared)


def _entry_bytes(clean: str, whole: str) -> int:
    """Returns the size of an entry in a JSON object, with its colon and comma."""
    return len(json.dumps(clean)) + len(json.dumps(whole)) + 4


_secrets_of_addresses = _Secrets(os.environ.get(SECRETS_VARIABLE) or "{}")
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _secrets_of_addresses.reset_lock())


def redacted(text: str, *addresses: str) -> str:
    """Replaces passwords and tokens of addresses, and tokens of the Hub, by `***`.

    Args:
        text: str, such as a message or an address.
        addresses: str, addresses whose secrets are hidden everywhere in the text.

    >>> redacted("postgresql://me:a/b@host/db?sslpassword=x&port=1 is away")
    'postgresql://me:***@host/db?sslpassword=***&port=1 is away'
    >>> redacted("host=db password='a b' user=me")
    'host=db password=*** user=me'
    >>> redacted("hf_abcdefghijklmnopqrstuvwxyz was refused")
    '*** was refused'
    """
    for address in addresses:
        for secret in _secrets(address):
            text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", _HIDDEN, text)
    if "://" in text:
        text = _ADDRESS.sub(lambda match: _hidden(match[0]), text)
    if "=" in text:
        text = _ASSIGNED.sub(rf"\1\2{_HIDDEN}", text)
    if "hf_" in text:
        text = _HUB_TOKEN.sub(_HIDDEN, text)
    return text


def without_secrets(text: str) -> str:
    """Removes passwords and tokens from an address and remembers them.

    `with_secrets` adds them again. The address may be part of a longer text, such as
    `pairs=https://host/table.csv`.

    >>> without_secrets("https://me:pw@host/t.csv?token=a&page=2")
    'https://me@host/t.csv?page=2'
    """
    starts = [match.start() for match in _SCHEME.finditer(text)]
    if not starts:
        return text
    parts = [text[: starts[0]]]
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        address = text[start:end]
        clean, whole = _split(address)
        parts.append(clean)
        if clean != address:
            _secrets_of_addresses.add(clean, whole)
    return "".join(parts)


def with_secrets(address: str) -> str:
    """Returns an address with its passwords and tokens.

    The secrets come from the following sources, by priority:

    1. the address itself,
    2. an address from which `without_secrets` removed the secrets,
    3. another address of the same server, for the user and the password,
    4. `~/.netrc`.

    Addresses that differ only in their secrets have the same address without secrets.
    The last secrets from this thread then have priority over the last secrets from
    other threads. A thread that calls `without_secrets` first therefore gets its
    secrets back.
    """
    clean, whole = _split(address)
    if clean != address:
        return whole
    return _secrets_of_addresses.get(address) or _with_netrc(address)


def _server(address: str) -> str:
    """Returns the scheme, the user and the host of an address."""
    scheme, _, remainder = address.partition("://")
    return f"{scheme}://{re.split('[/?#]', remainder, maxsplit=1)[0]}"


def _parts(address: str) -> tuple[str, str, str | None, str, str]:
    """Splits an address into scheme, user, password, host with path, and parameters.

    The password is None if the address has none. The parameters start with `?`, or with
    `#` if there is only a fragment.
    """
    scheme, _, remainder = address.partition("://")
    at = _end_of_login(scheme, remainder)
    login, remainder = (
        (remainder[:at], remainder[at + 1 :]) if at >= 0 else ("", remainder)
    )
    user, colon, password = login.partition(":")
    path = re.split("[?#]", remainder, maxsplit=1)[0]
    return scheme, user, password if colon else None, path, remainder[len(path) :]


def _end_of_login(scheme: str, remainder: str) -> int:
    """Returns the position of the `@` after user and password, or -1."""
    is_database = scheme.lower() in _DATABASES
    if is_database:
        match = _FIRST_PARAMETER.search(remainder)
        head = remainder[: match.start()] if match else remainder
        authority = head
    else:
        head = remainder.partition("?")[0]
        authority = re.split("[/#]", head, maxsplit=1)[0]
    at = authority.rfind("@")
    if at < 0 and _has_broken_password(is_database, authority):
        at = head.rfind("@")
        if at < 0:
            at = remainder.rfind("@")
    return at


def _has_broken_password(is_database: bool, authority: str) -> bool:
    """Returns True if the text after a colon is part of a password and not a port.

    Such a password contains a character that should be escaped, such as a slash.
    """
    if authority.startswith("["):
        return False
    if is_database:
        return _HOSTS.fullmatch(authority.partition("/")[0]) is None
    port = authority.partition(":")[2]
    return port != "" and not port.isdecimal()


def _split(address: str) -> tuple[str, str]:
    """Returns an address without its secrets, and with escaped secrets."""
    scheme, user, password, path, query = _parts(address)
    clean_query = _public_parameters(query)
    if password is None and clean_query == query:
        return address, address
    login = f"{user}@" if user else ""
    clean = f"{scheme}://{login}{path}{clean_query}"
    if password is not None:
        escaped = _NOT_IN_PASSWORD.sub(
            lambda match: urllib.parse.quote(match[0], safe=""), password
        )
        login = f"{user}:{escaped}@"
    return clean, f"{scheme}://{login}{path}{query}"


def _public_parameters(query: str) -> str:
    """Removes the secret parameters from the parameters and the fragment."""
    parameters = _SEPARATOR.split(query)
    pieces = []
    start = ""
    for separator, parameter in zip(parameters[1::2], parameters[2::2], strict=True):
        if separator in "?#":
            start = separator
        if not _is_secret(parameter):
            pieces += [start or separator, parameter]
            start = ""
    return "".join(pieces)


def _is_secret(parameter: str) -> bool:
    name = urllib.parse.unquote(parameter.partition("=")[0])
    return "=" in parameter and _SECRET_NAME.search(name) is not None


def _hidden(address: str) -> str:
    """Returns an address whose secrets are replaced by `***`."""
    scheme, user, password, path, query = _parts(address)
    parameters = _SEPARATOR.split(query)
    query = "".join(
        f"{text.partition('=')[0]}={_HIDDEN}" if _is_secret(text) else text
        for text in parameters
    )
    login = ""
    if password is not None:
        login = f"{user}:{_HIDDEN}@"
    elif user:
        login = f"{user}@"
    return f"{scheme}://{login}{path}{query}"


def _secrets(address: str) -> list[str]:
    """Returns the secrets of an address, escaped and unescaped, longest first."""
    if "://" not in address:
        return []
    _, _, password, _, query = _parts(address)
    secrets = (
        [] if password is None else [password, *re.split('[/@:?#=&"<>]', password)]
    )
    for parameter in _SEPARATOR.split(query):
        if _is_secret(parameter):
            secrets.append(parameter.partition("=")[2])
    unescaped_secrets = map(urllib.parse.unquote, secrets)
    return sorted({*secrets, *unescaped_secrets} - {""}, key=len, reverse=True)


def _with_netrc(address: str) -> str:
    """Adds the user and the password of a web server from `~/.netrc`."""
    scheme, user, _, remainder, query = _parts(address)
    if scheme.lower() not in ("http", "https"):
        return address
    try:
        host = urllib.parse.urlsplit(f"//{remainder}").hostname or ""
    except ValueError:  # The request reports that the address is not valid.
        return address
    login, password = _netrc(os.environ.get("NETRC")).get(host, ("", ""))
    if not password or (user and user != login):
        return address
    login, password = (urllib.parse.quote(text, safe="") for text in (login, password))
    return f"{scheme}://{login}:{password}@{remainder}{query}"


@functools.cache
def _netrc(path: str | None) -> dict[str, tuple[str, str]]:
    """Reads a netrc file without its default entry.

    Args:
        path: str, file to read, or None for `~/.netrc`.

    Returns:
        dict from host to user and password.
    """
    # The import is local, because few commands use addresses of web servers.
    import netrc

    try:
        hosts = netrc.netrc(path).hosts
    except (OSError, netrc.NetrcParseError):
        return {}
    return {
        host: (login or "", password or "")
        for host, (login, _, password) in hosts.items()
        if host != "default"
    }


def forget_secrets() -> None:
    """Forgets the secrets of all addresses and the content of `~/.netrc`.

    `~/.netrc` is read again when a secret is needed.
    """
    global _secrets_of_addresses
    _secrets_of_addresses = _Secrets()
    os.environ.pop(SECRETS_VARIABLE, None)
    _netrc.cache_clear()
