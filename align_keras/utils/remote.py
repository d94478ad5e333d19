"""Files on object stores and web servers: `s3://`, `gs://`, `hf://`, `http(s)://`.

By fsspec, whose file systems find credentials where the provider's tools do, and
options in `FSSPEC_S3` and the like. Requests that fail for a while (500, 429, a broken
or a stalled connection) are sent again after a pause; what was read isn't read again.

A web server may redirect a request at most `MAX_REDIRECTS` times, to `http` and `https`
addresses alone. A redirect to a loopback, private or other local address is refused
unless it goes to the host and port that the user named, so that no public server can
make this machine read from its own network.
"""

import asyncio
import collections
import errno
import functools
import io
import ipaddress
import itertools
import logging
import os
import posixpath
import random
import re
import socket
import threading
import time
import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urljoin, urlsplit

from align_keras.utils.addresses import redacted, with_secrets, without_secrets
from align_keras.utils.errors import InputError, needs
from align_keras.utils.progress import say

_EXTRAS = {"s3": "s3", "gs": "gcs", "http": "http", "https": "http"}
# The last is fsspec's in-process one, for tests.
SCHEMES = (*_EXTRAS, "hf", "memory")
WRITABLE = ("s3", "gs", "memory")
# A drive of Windows has one letter.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
# Bytes of one read, and the number of blocks that a process keeps. The records of a
# shard are read one after another, and their images soon after.
BLOCK_BYTES, _BLOCKS = 4 * 2**20, 16
# Six tries within half a minute, unless the file system itself waits longer.
TRIES, FIRST_PAUSE, LONGEST_PAUSE, _PATIENCE = 6, 0.5, 8.0, 30.0
# No byte for so long is a stalled connection.
STALL_SECONDS = 30.0
# The same as aiohttp's default. Browsers stop at 20.
MAX_REDIRECTS = 10
# Addresses of one server that were given up in a row, after which requests to this
# server are sent once instead of six times, until one is answered.
GIVEN_UP = 3
# Fields that identify the content of an object, by preference.
_VERSIONS = (
    "generation",
    "ETag",
    "etag",
    "blob_id",
    "Last-Modified",
    "LastModified",
    "created",
    "mtime",
)
_MAX_WHOLE = 512_000_000
_BUSY = (errno.EBUSY, getattr(errno, "EREMOTEIO", errno.EIO), errno.EIO)
_Result = TypeVar("_Result")

# Numbers of repeated requests of this process, by reason.
retries: collections.Counter[str] = collections.Counter()


class RemoteFile(NamedTuple):
    """A file: its name in the listed folder, its bytes, what names its content."""

    name: str
    size: int
    version: str


def is_url(path: str | bytes | os.PathLike) -> bool:
    """Returns True for an address, such as `s3://bucket/a.tar`, other than `file:`."""
    match = _URL.match(os.fsdecode(path))
    return match is not None and match[1].lower() != "file"


def open_url(url: str) -> io.BufferedReader:
    """Opens a file for reading its bytes, seekable; small reads are cheap.

    It is read in blocks of 4 MiB, of which a process keeps the last 16. A block that
    can't be had is asked for again, after a pause; one of a file that has changed since
    it was opened raises `OSError` with the errno ESTALE. `.raw.version` names the
    content.

    Raises:
        OSError: as `open` does; of another errno if the server can't be reached.
        InputError: for another scheme, or if a package isn't installed.

    Example:

    >>> import fsspec
    >>> with fsspec.open("memory://shards/a.txt", "wb") as file:
    ...     _ = file.write(b"a cat on a mat")
    >>> with open_url("memory://shards/a.txt") as file:
    ...     file.seek(2), file.read(3)
    (2, b'cat')
    """
    return io.BufferedReader(UrlReader(url), 1 << 16)


def list_url(url: str, suffixes: str | tuple[str, ...] = "") -> list[RemoteFile]:
    """Lists the files of a folder and its subfolders, in the order of their names.

    Names end in one of `suffixes`, capitals alike; hidden files are left out. A folder
    that isn't there is an empty one. Raises as `open_url`; web servers have no folders.
    """
    url = without_secrets(url)
    fs, path = file_system(url)
    if url.lower().startswith("http"):
        raise OSError(errno.EINVAL, "web servers list no folders; name a file", url)
    path, files = path.rstrip("/"), []
    for object_path, info in retrying(lambda: fs.find(path, detail=True), url).items():
        name = object_path[len(path) :].lstrip("/")
        hidden = name.startswith(".") or "/." in name
        if name and not name.endswith("/") and not hidden:
            if name.lower().endswith(suffixes):
                files.append(RemoteFile(name, info["size"], _version(info)))
    return sorted(files, key=lambda file: os.fsencode(file.name))


def stat_url(url: str) -> RemoteFile | None:
    """The `RemoteFile` of an address; None for a folder. Raises if nothing is there."""
    url = without_secrets(url)
    info = _about(url)
    if info["type"] == "directory":
        return None
    return RemoteFile(os.path.basename(url), info["size"], _version(info))


def _about(url: str) -> dict[str, Any]:
    fs, path = file_system(url)
    info = retrying(lambda: fs.info(path), url)
    if info["type"] == "file" and info["size"] is None:
        raise OSError(errno.EINVAL, "its server doesn't tell its size", url)
    return info


def join_url(folder: str, name: str) -> str:
    """Returns the address of a name in a folder, `..` resolved."""
    scheme, _, path = folder.partition("://")
    return f"{scheme}://{posixpath.normpath(posixpath.join(path, name))}"


def known_version(url: str) -> str:
    """The version of a file as this process last opened it."""
    url = without_secrets(url)
    with _lock:
        version = _versions.get(url)
    return UrlReader(url).version if version is None else version


def read_url(url: str, offset: int = 0, size: int | None = None) -> bytes:
    """Reads a range of a file by one request or none; without `size` all of it."""
    url = without_secrets(url)
    is_whole = size is None
    if size is None:
        size = _about(url)["size"] or 0
        if size > _MAX_WHOLE:
            raise OSError(errno.EFBIG, f"more than {_MAX_WHOLE:,} bytes", url)
    content = _kept(url, offset, size)
    if content is None and size > 0:
        fs, path = file_system(url)
        stop = offset + size

        def fetch() -> bytes:
            answer = fs.cat_file(path, start=offset, end=stop)
            if is_whole and len(answer) < size:
                raise ShortAnswerError(f"{size - len(answer):,} bytes lack")
            return answer

        content = retrying(fetch, url)
        if len(content) > size:
            raise OSError(errno.EINVAL, "its server answers no ranges", url)
    return content or b""


@functools.cache
def _opened(scheme: str) -> Any:
    """Returns a file system that leaves repeating to `retrying`."""
    import fsspec

    options: dict[str, Any] = {"use_listings_cache": False}
    seconds = STALL_SECONDS
    if scheme == "s3":
        timeouts = {"connect_timeout": seconds, "read_timeout": seconds}
        options["config_kwargs"] = {**timeouts, "retries": {"total_max_attempts": 1}}
    elif scheme in ("http", "https"):
        with needs("http", f"{scheme}:// is read by aiohttp"):
            import aiohttp
        timeout = aiohttp.ClientTimeout(None, sock_connect=seconds, sock_read=seconds)
        traces = [_redirect_check(aiohttp)]
        options["client_kwargs"] = {"timeout": timeout, "trace_configs": traces}
        options["headers"] = {"Accept-Encoding": "identity"}
        options["max_redirects"] = MAX_REDIRECTS
    for name in ("gcsfs", "asyncio"):  # Log with tracebacks what is raised as well.
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    with needs(_EXTRAS.get(scheme, ""), f"{scheme}:// needs fsspec's file system"):
        fs = fsspec.filesystem(scheme, **options)
    if scheme == "s3":
        fs.retries = 1
    return fs


def file_system(url: str) -> tuple[Any, str]:
    """Returns fsspec's file system of an address, and the path in it.

    The path of a web server has the user and the password that are known for it.

    Raises:
        OSError: with the errno EINVAL if the host or the port of a web server's address
            is not valid.
        InputError: for another scheme, or if a package isn't installed.
    """
    match = _URL.match(url)
    scheme = match[1].lower() if match else ""
    if scheme not in SCHEMES:
        raise InputError(
            f"an address must begin with {', '.join(f'{s}://' for s in SCHEMES[:-1])}, "
            f"received {url!r}; copy the files to one of these, or to a local folder."
        )
    if scheme in ("http", "https") and not _has_valid_server(url):
        raise OSError(errno.EINVAL, "no valid web address", redacted(url))
    fs = retrying(lambda: _opened(scheme), url)
    return fs, fs._strip_protocol(with_secrets(url))


class RefusedRedirectError(Exception):
    """A web server redirects to an address that is not followed."""


def _redirect_check(aiohttp: Any) -> Any:
    """Returns the `aiohttp.TraceConfig` that checks each redirect.

    References:
        OWASP, Server-Side Request Forgery Prevention Cheat Sheet.
    """

    async def remember_origin(_: Any, context: Any, request: Any) -> None:
        context.origin = str(request.url)

    async def check(_: Any, context: Any, redirect: Any) -> None:
        headers = redirect.response.headers
        location = headers.get("Location") or headers.get("URI") or ""
        await _check_redirect(context.origin, urljoin(str(redirect.url), location))

    trace = aiohttp.TraceConfig(
        trace_config_ctx_factory=lambda **_: types.SimpleNamespace(origin="")
    )
    trace.on_request_start.append(remember_origin)
    trace.on_request_redirect.append(check)
    return trace


async def _check_redirect(origin: str, target: str) -> None:
    """Raises `RefusedRedirectError` for what is neither public nor the origin's."""
    parts = urlsplit(target)
    name = f"{parts.scheme}://{parts.hostname or ''}"
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise RefusedRedirectError(f"redirects to {name}; only http and https are read")
    if _server_of(target) == _server_of(origin):
        return
    try:
        addresses = await asyncio.get_running_loop().getaddrinfo(parts.hostname, None)
    except socket.gaierror:  # The request itself will fail, and is repeated.
        return
    for *_, address in addresses:
        if not _is_public(str(address[0])):
            raise RefusedRedirectError(
                f"redirects to {name}, an address of a local network; name it directly"
            )


def _server_of(url: str) -> tuple[str, int]:
    try:
        parts = urlsplit(url)
        default = 443 if parts.scheme == "https" else 80
        return parts.hostname or "", parts.port or default
    except ValueError:  # No valid address, which its own request reports.
        return url, 0


def _has_valid_server(url: str) -> bool:
    """Returns True if the host and the port of an address can be read."""
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _is_public(address: str) -> bool:
    ip = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(ip, "ipv4_mapped", None)
    return (mapped or ip).is_global


# Addresses given up in a row since a server last answered, by its name and port.
_given_up: collections.Counter[tuple[str, int]] = collections.Counter()


def retrying(call: Callable[[], _Result], url: str) -> _Result:
    """Calls a function that asks a server, again while it fails for a while.

    A server of which `GIVEN_UP` addresses failed in a row is asked once only, so that a
    long list of its images ends soon when the server is down.
    """
    server = _server_of(url)
    tries = TRIES if _given_up[server] < GIVEN_UP else 1
    begun = time.monotonic()
    for number in itertools.count(1):
        try:
            result = call()
            _given_up.pop(server, None)
            return result
        except InputError:
            raise
        except Exception as error:  # Each file system has its kinds.
            reason, lasting = _reason(error, url)
            waited = time.monotonic() - begun
            if lasting is not None:
                _given_up.pop(server, None)
                raise lasting from error
            if number >= tries or waited > _PATIENCE:
                times = f"{number} time{'s' * (number > 1)}"
                if _is_short(error):
                    _given_up.pop(server, None)
                    text = f"answers fewer bytes than it promises (tried {times})"
                    raise OSError(errno.EIO, text, redacted(url)) from error
                _given_up[server] += 1
                text = f"can't be reached ({reason}; tried {times})"
                raise OSError(errno.EHOSTUNREACH, text, redacted(url)) from error
            pause = min(FIRST_PAUSE * 2 ** (number - 1), LONGEST_PAUSE)
            pause = max(pause * random.uniform(0.5, 1), _asked_pause(error))
        retries[reason] += 1
        say(f"{url}: {reason}; trying again in {pause:.1f} s ({number} of {TRIES - 1})")
        time.sleep(pause)
    raise AssertionError


def _reason(error: Exception, url: str) -> tuple[str, OSError | None]:
    """Says why a request failed, with the `OSError` of what trying again can't mend."""
    chain = list(_chain(error))
    status = next(filter(None, map(_status, chain)), None)
    names = {base.__name__ for one in chain for base in type(one).__mro__}
    cause = next((one for one in reversed(chain) if str(one)), error)
    text = f"{status or type(cause).__name__} {' '.join(str(cause).split())}"
    text = redacted(text, with_secrets(url))[:100]
    url = redacted(url)
    if refused := next((x for x in chain if isinstance(x, RefusedRedirectError)), None):
        return str(refused), OSError(errno.EINVAL, str(refused), url)
    if "TooManyRedirects" in names:
        problem = f"redirects more than {MAX_REDIRECTS} times"
        return problem, OSError(errno.EINVAL, problem, url)
    if "InvalidURL" in names:
        return text, OSError(errno.EINVAL, "no valid web address", url)
    stale = isinstance(error, OSError) and error.errno == errno.ESTALE
    if stale or "FileExpired" in names or status == 412:
        return text, OSError(errno.ESTALE, "it changed while it was read", url)
    if names & {"NoCredentialsError", "DefaultCredentialsError", "NoAuthTokenError"}:
        problem = "no credentials; log in by the provider's tools, or set "
        problem += """FSSPEC_S3='{"anon": true}' for what is public"""
        return text, PermissionError(errno.EACCES, problem, url)
    if status in (401, 403) or "PermissionError" in names or "Forbidden:" in text:
        return text, PermissionError(errno.EACCES, f"no right to it ({text})", url)
    # A broken answer's has a status of its kind, 400.
    broken = "ClientPayloadError" in names
    if broken or status in (408, 429) or (status or 0) >= 500:
        return text, None
    connection = {"TimeoutError", "ConnectionError", "ClientError", "HTTPClientError"}
    connection |= {"IncompleteReadError", "ConnectionClosedError", "TransportError"}
    if names & connection - ({"ClientError"} if status else set()):
        return text, None
    if status in (404, 410) or "FileNotFoundError" in names:
        return text, FileNotFoundError(errno.ENOENT, "no such file or bucket", url)
    if isinstance(error, OSError) and error.errno in _BUSY:
        return text, None
    if isinstance(error, FileExistsError):
        return text, FileExistsError(errno.EEXIST, "it is there already", url)
    return text, OSError(errno.EINVAL, text, url)


def _is_short(error: BaseException) -> bool:
    """Returns True if an answer ended before its Content-Length."""
    names = {base.__name__ for one in _chain(error) for base in type(one).__mro__}
    return bool(names & {"ClientPayloadError", "ShortAnswerError"})


class ShortAnswerError(ConnectionError):
    """A range of a file came with fewer bytes than it has."""


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        yield error
        error = error.__cause__ or error.__context__


def _status(error: BaseException) -> int | None:
    """The status of HTTP that an exception tells, as its library names it."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore
        return response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    status = getattr(response, "status_code", None)  # requests, httpx
    for name in ("status", "code"):  # aiohttp; gcsfs and urllib
        # aiohttp's errors without an answer have the status 0, and warn of `code`.
        if status is None:
            status = getattr(error, name, None)
    text = str(status)
    return int(text) if text.isdecimal() else None


def _asked_pause(error: BaseException) -> float:
    """The seconds of a Retry-After, at most a minute."""
    for one in _chain(error):
        text = (getattr(one, "headers", None) or {}).get("Retry-After", "")
        if str(text).isdecimal():
            return min(float(text), 60.0)
    return 0.0


def _version(info: dict[str, Any]) -> str:
    version = next((info[name] for name in _VERSIONS if info.get(name)), "")
    # Listed as a number by some file systems.
    version = version.timestamp() if hasattr(version, "timestamp") else version
    return str(version).strip('"')


_lock = threading.Lock()
_blocks: collections.OrderedDict[tuple[str, int], bytes] = collections.OrderedDict()
_versions: dict[str, str] = {}


def _kept(url: str, offset: int, size: int) -> bytes | None:
    """A range out of the blocks that are kept, or None."""
    numbers = range(offset // BLOCK_BYTES, -(-(offset + size) // BLOCK_BYTES))
    with _lock:
        if len(numbers) > _BLOCKS or any((url, n) not in _blocks for n in numbers):
            return None
        parts = [_blocks[url, number] for number in numbers]
    start = offset - numbers.start * BLOCK_BYTES
    return b"".join(parts)[start : start + size]


class UrlReader(io.RawIOBase):
    """File at an address, read by ranges."""

    def __init__(self, url: str) -> None:
        self.url = url = without_secrets(url)
        self._position = 0
        self._fs, self._path = file_system(url)
        self._file: Any = None
        self._info = _about(url)
        if self._info["type"] == "directory":
            raise IsADirectoryError(errno.EISDIR, "it is a folder", url)
        self.size, self.version = self._info["size"], _version(self._info)
        with _lock:
            if _versions.get(url) != self.version:
                for key in [key for key in _blocks if key[0] == url]:
                    del _blocks[key]
                _versions[url] = self.version

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}
        position = start[whence] + offset
        if position < 0:
            raise OSError(errno.EINVAL, "a negative place", self.url)
        self._position = position
        return position

    def readinto(self, buffer: Any) -> int:
        if self._position >= self.size or not len(buffer):
            return 0
        number, within = divmod(self._position, BLOCK_BYTES)
        chunk = memoryview(self._block(number))[within : within + len(buffer)]
        buffer[: len(chunk)] = chunk
        self._position += len(chunk)
        return len(chunk)

    def _block(self, number: int) -> bytes:
        key = self.url, number
        with _lock:
            if key in _blocks and _versions.get(self.url) == self.version:
                _blocks.move_to_end(key)
                return _blocks[key]
        start = number * BLOCK_BYTES
        content = b"".join(self._pieces(start, min(start + BLOCK_BYTES, self.size)))
        with _lock:
            if _versions.get(self.url) == self.version:
                _blocks[key] = content
            while len(_blocks) > _BLOCKS:
                _blocks.popitem(last=False)
        return content

    def _pieces(self, start: int, stop: int) -> Iterator[bytes]:
        """Yields a block's bytes; of a connection that breaks, smaller ones."""
        length = stop - start

        def fetch() -> bytes:
            nonlocal length
            end = min(start + length, stop)
            length = max(length // 4, 1 << 16)  # Should this fail.
            return self._fetch(start, end)

        while start < stop:
            content = retrying(fetch, self.url)
            length = 2 * len(content)
            yield content
            start += len(content)

    def _fetch(self, start: int, end: int) -> bytes:
        if self._file is None:
            options = _only_of(self._info) if self.url.startswith("http") else {}
            self._file = self._fs.open(self._path, cache_type="none", **options)
            info = getattr(self._file, "details", self._info)
            if _version(info) not in ("", self.version):
                raise OSError(errno.ESTALE, "", self.url)
        self._file.seek(start)
        content = self._file.read(end - start)
        if len(content) != end - start:
            raise ShortAnswerError(f"{end - start - len(content):,} bytes lack")
        return content


def _only_of(info: dict[str, Any]) -> dict[str, Any]:
    """Options of the web's file system, by which a server refuses other content."""
    headers = {"Accept-Encoding": "identity"}
    if info.get("ETag", "W/").startswith("W/"):
        headers["If-Unmodified-Since"] = info.get("Last-Modified", "")
    else:
        headers["If-Match"] = info["ETag"]
    headers = {name: value for name, value in headers.items() if value}
    return {"size": info["size"], "headers": headers}


def clear_caches() -> None:
    """Closes the opened stores and forgets cached blocks and unreachable servers.

    The next call reads everything again. Use it after the credentials or the content of
    a store changed within a process.
    """
    with _lock:
        _blocks.clear()
        _versions.clear()
    _given_up.clear()
    _opened.cache_clear()
