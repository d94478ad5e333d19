"""Files on object stores and web servers: `s3://`, `gs://`, `hf://`, `http(s)://`.

The files are read by fsspec. Its file systems use the credentials of the provider's
tools and read options from environment variables such as `FSSPEC_S3`. A request with a
temporary error (status 500 or 429, a broken or stalled connection) is repeated after a
pause, by the file systems of the stores themselves, and by tenacity for web servers.

A web server may redirect a request at most `MAX_REDIRECTS` times, and only to `http`
and `https` addresses. A redirect to a loopback, private or other local address is
refused, except to the host and port of the user's address. A public server therefore
can't make this machine read from its local network.
"""

import asyncio
import collections
import contextlib
import errno
import functools
import io
import ipaddress
import logging
import os
import posixpath
import re
import socket
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urljoin, urlsplit

from align_keras.utils.addresses import drop_queries, with_query, without_query
from align_keras.utils.errors import InputError, needs
from align_keras.utils.progress import say

_EXTRAS = {"s3": "s3", "gs": "gcs", "http": "http", "https": "http"}
# "memory" is fsspec's store in this process for tests.
SCHEMES = (*_EXTRAS, "hf", "memory")
WRITABLE = ("s3", "gs", "memory")
# A scheme has at least two letters, because a Windows drive has one.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
# Bytes of one request.
BLOCK_BYTES = 4 * 2**20
# Number of blocks that a process caches. The records of a shard are read in order, and
# their images are read soon afterwards.
_MAX_CACHED_BLOCKS = 16
# Maximum number of times that a request to a web server is sent.
TRIES = 6
# Seconds. Each pause between two tries is twice as long as the previous one.
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 8.0
# Seconds without a byte after which a connection counts as stalled.
STALL_SECONDS = 30.0
# Maximum number of redirects of a request, which is the default of aiohttp.
MAX_REDIRECTS = 10
# Metadata fields that identify the content of an object, in order of preference.
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
# Bytes of a file that `read_url` reads as a whole.
_MAX_FILE_BYTES = 512_000_000
# Types of errors of connections in Python, aiohttp, botocore, google-auth and httpx.
_CONNECTION_ERRORS = (
    "TimeoutError",
    "ConnectionError",
    "ClientConnectionError",
    "HTTPClientError",
    "TransportError",
)
_Result = TypeVar("_Result")


class RemoteFile(NamedTuple):
    """File on a store or web server.

    Attributes:
        name: str, path relative to the listed folder.
        size: int, bytes.
        version: str, identifier of the content such as an ETag, or "".
    """

    name: str
    size: int
    version: str


def is_url(path: str | bytes | os.PathLike) -> bool:
    """Returns True for an address such as `s3://bucket/a.tar`, except `file://`."""
    match = _URL.match(os.fsdecode(path))
    return match is not None and match[1].lower() != "file"


def open_url(url: str) -> io.BufferedReader:
    """Opens a remote file for reading bytes at any position.

    The file is requested in blocks of 4 MiB, and a process caches the last 16 blocks.
    Small reads are therefore cheap. The attribute `raw.version` identifies the content.

    Raises:
        OSError: as `open` does. The errno is EHOSTUNREACH if the server can't be
            reached and ESTALE if the file has changed since it was opened.
        InputError: if the scheme is not supported or a package isn't installed.

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
    """Lists the files of a remote folder and its subfolders, sorted by name.

    Hidden files are skipped. The list is empty if the folder doesn't exist.

    Args:
        url: str, address of the folder.
        suffixes: str or tuple of str, lower-case endings of the names. The case of a
            name is ignored.

    Raises:
        OSError: as `open_url`. Web servers can't list folders.
        InputError: as `open_url`.
    """
    url = without_query(url)
    fs, path = file_system(url)
    if url.lower().startswith("http"):
        raise OSError(
            errno.EINVAL, "web servers can't list folders. Pass a file instead", url
        )
    path, files = path.rstrip("/"), []
    for object_path, info in send(lambda: fs.find(path, detail=True), url).items():
        name = object_path[len(path) :].lstrip("/")
        hidden = name.startswith(".") or "/." in name
        if name and not name.endswith("/") and not hidden:
            if name.lower().endswith(suffixes):
                files.append(RemoteFile(name, info["size"], _version(info)))
    return sorted(files, key=lambda file: os.fsencode(file.name))


def stat_url(url: str) -> RemoteFile | None:
    """Returns the `RemoteFile` of an address, or None for a folder.

    Raises:
        FileNotFoundError: if the address doesn't exist.
    """
    url = without_query(url)
    info = _read_info(url)
    if info["type"] == "directory":
        return None
    return RemoteFile(os.path.basename(url), info["size"], _version(info))


def _read_info(url: str) -> dict[str, Any]:
    """Returns the metadata of an address from its file system."""
    fs, path = file_system(url)
    info = send(lambda: fs.info(path), url)
    if info["type"] == "file" and info["size"] is None:
        raise OSError(errno.EINVAL, "the server sends no Content-Length", url)
    return info


def join_url(folder: str, name: str) -> str:
    """Returns the address of a file in a folder and resolves `..`.

    The result has the server or the bucket of the folder for any name.

    Example:

    >>> join_url("https://example.org/tables", "../images/cat.jpg")
    'https://example.org/images/cat.jpg'
    >>> join_url("s3://bucket/tables", "../../other/cat.jpg")
    's3://bucket/other/cat.jpg'
    """
    scheme, _, location = folder.partition("://")
    server, _, path = location.partition("/")
    # `normpath` keeps two leading slashes.
    full_path = posixpath.normpath(posixpath.join("/", path, name)).lstrip("/")
    return f"{scheme}://{server}/{full_path}"


def cached_version(url: str) -> str:
    """Returns the version that a file had when this process last opened it."""
    url = without_query(url)
    with _lock:
        version = _versions.get(url)
    return UrlReader(url).version if version is None else version


def read_url(url: str, offset: int = 0, size: int | None = None) -> bytes:
    """Reads a range of a remote file, from the cached blocks or by one request.

    Args:
        url: str, address of the file.
        offset: int, position of the first byte.
        size: int, number of bytes, or None for the whole file.

    Raises:
        OSError: as `open_url`. The errno is EFBIG if the whole file exceeds 512 MB.
        InputError: as `open_url`.
    """
    url = without_query(url)
    is_whole = size is None
    if size is None:
        size = _read_info(url)["size"] or 0
        if size > _MAX_FILE_BYTES:
            raise OSError(errno.EFBIG, f"more than {_MAX_FILE_BYTES:,} bytes", url)
    content = _read_cached(url, offset, size)
    if content is None and size > 0:
        fs, path = file_system(url)
        stop = offset + size

        def fetch() -> bytes:
            answer = fs.cat_file(path, start=offset, end=stop)
            if is_whole and len(answer) < size:
                raise ShortAnswerError(f"{size - len(answer):,} bytes are missing")
            return answer

        content = send(fetch, url)
        if len(content) > size:
            raise OSError(errno.EINVAL, "the server doesn't support ranges", url)
    return content or b""


@functools.cache
def _open_file_system(scheme: str) -> Any:
    """Returns the file system of a scheme."""
    import fsspec

    options: dict[str, Any] = {"use_listings_cache": False}
    seconds = STALL_SECONDS
    if scheme == "s3":
        options["config_kwargs"] = {
            "connect_timeout": seconds,
            "read_timeout": seconds,
        }
    elif scheme in ("http", "https"):
        with needs("http", f"{scheme}:// needs aiohttp and tenacity"):
            import aiohttp
            import tenacity  # noqa: F401
        timeout = aiohttp.ClientTimeout(None, sock_connect=seconds, sock_read=seconds)
        traces = [_redirect_check(aiohttp)]
        # `trust_env` reads passwords from ~/.netrc.
        options["client_kwargs"] = {
            "timeout": timeout,
            "trace_configs": traces,
            "trust_env": True,
        }
        options["headers"] = {"Accept-Encoding": "identity"}
        options["max_redirects"] = MAX_REDIRECTS
    # These loggers print tracebacks of exceptions that are raised anyway.
    for name in ("gcsfs", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    with needs(_EXTRAS.get(scheme, ""), f"{scheme}:// needs its file system of fsspec"):
        return fsspec.filesystem(scheme, **options)


def file_system(url: str) -> tuple[Any, str]:
    """Returns the fsspec file system of an address and the path in it.

    Raises:
        OSError: with the errno EINVAL if the address of a web server has no valid host
            or port.
        InputError: if the scheme is not supported or a package isn't installed.
    """
    match = _URL.match(url)
    scheme = match[1].lower() if match else ""
    if scheme not in SCHEMES:
        raise InputError(
            f"An address must begin with {', '.join(f'{s}://' for s in SCHEMES[:-1])}. "
            f"Received: {url!r}. Copy the files to such an address or to a local "
            "folder."
        )
    if scheme in ("http", "https") and not _has_valid_server(url):
        raise OSError(errno.EINVAL, "invalid web address", url)
    with _explained_errors(url):
        fs = _open_file_system(scheme)
    return fs, fs._strip_protocol(with_query(url))


class RefusedRedirectError(Exception):
    """Error for a redirect to an address that must not be read."""


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
    """Checks the target of a redirect.

    Args:
        origin: str, address that the user passed.
        target: str, address to which the server redirects.

    Raises:
        RefusedRedirectError: if the target is neither a public address nor on the
            server of the origin.
    """
    parts = urlsplit(target)
    name = f"{parts.scheme}://{parts.hostname or ''}"
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise RefusedRedirectError(
            f"redirects to {name}, but only http and https are supported"
        )
    if _server_of(target) == _server_of(origin):
        return
    try:
        addresses = await asyncio.get_running_loop().getaddrinfo(parts.hostname, None)
    except socket.gaierror:  # The request fails with the same error and is repeated.
        return
    for *_, address in addresses:
        if not _is_public(str(address[0])):
            raise RefusedRedirectError(
                f"redirects to {name}, an address of a local network. Pass this "
                "address directly"
            )


def _server_of(url: str) -> tuple[str, int]:
    """Returns the host and the port of an address."""
    try:
        parts = urlsplit(url)
        default = 443 if parts.scheme == "https" else 80
        return parts.hostname or "", parts.port or default
    except ValueError:  # The request reports the invalid address.
        return url, 0


def _has_valid_server(url: str) -> bool:
    """Returns True if an address has a valid host and port."""
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _is_public(address: str) -> bool:
    ip = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(ip, "ipv4_mapped", None)
    return (mapped or ip).is_global


# Web servers whose last request failed every time.
_unreachable_servers: set[tuple[str, int]] = set()


def send(call: Callable[[], _Result], url: str) -> _Result:
    """Calls a function that sends a request.

    Requests to web servers are repeated after temporary errors. The file systems of
    stores do this themselves. After a web server could not be reached, each address of
    it is requested only once, until one succeeds. A long list of images on a dead
    server thus fails quickly.

    Args:
        call: callable without arguments.
        url: str, address for the messages.

    Returns:
        The result of `call`.

    Raises:
        OSError: if the request fails, with the address as its file name.
    """
    with _explained_errors(url):
        return _send_to_web(call, url) if _is_web(url) else call()


@contextlib.contextmanager
def _explained_errors(url: str) -> Iterator[None]:
    """Replaces errors of file systems with an `OSError` that names the address."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # Each file system raises different types.
        raise _explain(error, url) from error


def _is_web(url: str) -> bool:
    return url.lower().startswith("http")


def _send_to_web(call: Callable[[], _Result], url: str) -> _Result:
    import tenacity

    def failure(state: tenacity.RetryCallState) -> Any:
        return state.outcome and state.outcome.exception()

    def report(state: tenacity.RetryCallState) -> None:
        reason = _detail(failure(state))
        pause, number = state.upcoming_sleep, state.attempt_number
        say(f"{url}: {reason}. Trying again in {pause:.1f} s ({number} of {TRIES - 1})")

    def pause_after(state: tenacity.RetryCallState) -> float:
        pause = tenacity.wait_exponential(multiplier=FIRST_PAUSE, max=LONGEST_PAUSE)(
            state
        )
        return max(pause, _retry_after(failure(state)))

    server = _server_of(url)
    tries = 1 if server in _unreachable_servers else TRIES
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(_is_temporary),
        stop=tenacity.stop_after_attempt(tries),
        wait=pause_after,
        before_sleep=report,
        reraise=True,
    )
    try:
        result = retrying(call)
    except Exception as error:
        if _is_temporary(error) and not _is_incomplete(error):
            _unreachable_servers.add(server)
        raise
    _unreachable_servers.discard(server)
    return result


def _explain(error: Exception, url: str) -> OSError:
    """Returns an `OSError` with a known errno for the error of a file system."""
    chain = list(_chain(error))
    status = _status(error)
    names = _type_names(error)
    detail = _detail(error)
    refused = next(
        (link for link in chain if isinstance(link, RefusedRedirectError)), None
    )
    if refused:
        return OSError(errno.EINVAL, str(refused), url)
    if "TooManyRedirects" in names:
        return OSError(errno.EINVAL, f"redirects more than {MAX_REDIRECTS} times", url)
    if "InvalidURL" in names:
        return OSError(errno.EINVAL, "invalid web address", url)
    stale = isinstance(error, OSError) and error.errno == errno.ESTALE
    if isinstance(error, FileExistsError):
        return FileExistsError(errno.EEXIST, "the file already exists", url)
    if stale or "FileExpired" in names or status == 412:
        return OSError(errno.ESTALE, "the file changed while it was read", url)
    if names & {"NoCredentialsError", "DefaultCredentialsError"}:
        problem = "no credentials. Log in with the provider's tools, or set "
        problem += """FSSPEC_S3='{"anon": true}' for public files"""
        return PermissionError(errno.EACCES, problem, url)
    if status in (401, 403) or "PermissionError" in names or "Forbidden:" in detail:
        return PermissionError(errno.EACCES, f"access was denied ({detail})", url)
    if _is_incomplete(error):
        return OSError(errno.EIO, "the server sent an incomplete response", url)
    if _is_temporary(error):
        return OSError(errno.EHOSTUNREACH, f"can't be reached ({detail})", url)
    if status in (404, 410) or "FileNotFoundError" in names:
        return FileNotFoundError(errno.ENOENT, "no such file or bucket", url)
    return OSError(errno.EINVAL, detail, url)


def _is_temporary(error: BaseException) -> bool:
    """Returns True if the request may succeed later."""
    status = _status(error)
    names = _type_names(error)
    # aiohttp raises a ClientPayloadError with the status 400 for a broken response.
    if "ClientPayloadError" in names:
        return True
    if status is not None:
        return status in (408, 429) or status >= 500
    return not names.isdisjoint(_CONNECTION_ERRORS)


def _is_incomplete(error: BaseException) -> bool:
    """Returns True if a response ended before its Content-Length."""
    return bool(_type_names(error) & {"ClientPayloadError", "ShortAnswerError"})


def _type_names(error: BaseException) -> set[str]:
    """Returns the names of the types of an error and of its causes."""
    return {base.__name__ for link in _chain(error) for base in type(link).__mro__}


def _detail(error: BaseException) -> str:
    """Returns the status and the text of an error in one line."""
    causes = [link for link in _chain(error) if str(link)]
    cause = causes[-1] if causes else error
    text = " ".join(str(cause).split())
    return drop_queries(f"{_status(error) or type(cause).__name__} {text}")[:100]


class ShortAnswerError(ConnectionError):
    """Error for a response with fewer bytes than requested."""


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yields an exception and the exceptions that caused it."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        yield error
        error = error.__cause__ or error.__context__


def _status(error: BaseException) -> int | None:
    """Returns the HTTP status of an error or of its first cause with one, or None."""
    return next(filter(None, map(_status_of_type, _chain(error))), None)


def _status_of_type(error: BaseException) -> int | None:
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore raised the exception.
        return response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    status = getattr(response, "status_code", None)  # requests and httpx set this.
    # aiohttp sets `status`. gcsfs and urllib set `code`. Errors of aiohttp without a
    # response have the status 0, and reading their `code` prints a warning.
    for name in ("status", "code"):
        if status is None:
            status = getattr(error, name, None)
    text = str(status)
    return int(text) if text.isdecimal() else None


def _retry_after(error: BaseException) -> float:
    """Returns the seconds of the Retry-After header, at most 60, or 0.0 without it."""
    for link in _chain(error):
        text = (getattr(link, "headers", None) or {}).get("Retry-After", "")
        if str(text).isdecimal():
            return min(float(text), 60.0)
    return 0.0


def _version(info: dict[str, Any]) -> str:
    """Returns the identifier of the content from the metadata of a file."""
    version = next((info[name] for name in _VERSIONS if info.get(name)), "")
    # Some file systems return a time as a datetime and others as a number.
    version = version.timestamp() if hasattr(version, "timestamp") else version
    return str(version).strip('"')


_lock = threading.Lock()
_blocks: collections.OrderedDict[tuple[str, int], bytes] = collections.OrderedDict()
_versions: dict[str, str] = {}


def _read_cached(url: str, offset: int, size: int) -> bytes | None:
    """Returns a range of a file from the cached blocks, or None if one is missing."""
    numbers = range(offset // BLOCK_BYTES, -(-(offset + size) // BLOCK_BYTES))
    with _lock:
        if len(numbers) > _MAX_CACHED_BLOCKS:
            return None
        if any((url, number) not in _blocks for number in numbers):
            return None
        parts = [_blocks[url, number] for number in numbers]
    start = offset - numbers.start * BLOCK_BYTES
    return b"".join(parts)[start : start + size]


class UrlReader(io.RawIOBase):
    """Raw stream of a remote file that requests ranges.

    Args:
        url: str, address of the file.

    Attributes:
        size: int, bytes.
        version: str, identifier of the content such as an ETag, or "".
    """

    def __init__(self, url: str) -> None:
        self.url = url = without_query(url)
        self._position = 0
        self._fs, self._path = file_system(url)
        self._file: Any = None
        self._info = _read_info(url)
        if self._info["type"] == "directory":
            raise IsADirectoryError(errno.EISDIR, "the address is a folder", url)
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
            raise OSError(errno.EINVAL, "the position is negative", self.url)
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
        """Returns a block of `BLOCK_BYTES` from the cache or from the server."""
        key = self.url, number
        with _lock:
            if key in _blocks and _versions.get(self.url) == self.version:
                _blocks.move_to_end(key)
                return _blocks[key]
        start = number * BLOCK_BYTES
        end = min(start + BLOCK_BYTES, self.size)
        content = send(lambda: self._fetch(start, end), self.url)
        with _lock:
            if _versions.get(self.url) == self.version:
                _blocks[key] = content
            while len(_blocks) > _MAX_CACHED_BLOCKS:
                _blocks.popitem(last=False)
        return content

    def _fetch(self, start: int, end: int) -> bytes:
        if self._file is None:
            options = _conditional_options(self._info) if _is_web(self.url) else {}
            self._file = self._fs.open(self._path, cache_type="none", **options)
            info = getattr(self._file, "details", self._info)
            if _version(info) not in ("", self.version):
                raise OSError(errno.ESTALE, "", self.url)
        self._file.seek(start)
        content = self._file.read(end - start)
        if len(content) != end - start:
            raise ShortAnswerError(f"{end - start - len(content):,} bytes are missing")
        return content


def _conditional_options(info: dict[str, Any]) -> dict[str, Any]:
    """Returns options of a web file that make requests fail if the file has changed."""
    headers = {"Accept-Encoding": "identity"}
    if info.get("ETag", "W/").startswith("W/"):
        headers["If-Unmodified-Since"] = info.get("Last-Modified", "")
    else:
        headers["If-Match"] = info["ETag"]
    headers = {name: value for name, value in headers.items() if value}
    return {"size": info["size"], "headers": headers}


def clear_caches() -> None:
    """Clears the cached file systems, blocks, versions and unreachable servers.

    Call it after the credentials or the content of a store have changed during a
    process.
    """
    with _lock:
        _blocks.clear()
        _versions.clear()
    _unreachable_servers.clear()
    _open_file_system.cache_clear()
