"""Files on object stores and web servers: `s3://`, `gs://`, `hf://`, `http(s)://`."""

import collections
import errno
import io
import os
import posixpath
import threading
from typing import Any, AnyStr, NamedTuple

from align_keras.utils.addresses import is_url, without_query
from align_keras.utils.remote_requests import (
    ShortAnswerError,
    file_system,
    forget_servers,
    is_web,
    send,
)

# Bytes of one request.
BLOCK_BYTES = 4 * 2**20
# Number of blocks that a process caches. The records of a shard are read in order, and
# their images are read soon afterwards.
_MAX_CACHED_BLOCKS = 16
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


class RemoteFile(NamedTuple):
    """File on a store or web server.

    Attributes:
        name: path relative to the listed folder.
        size: bytes.
        version: identifier of the content such as an ETag, or "".
    """

    name: str
    size: int
    version: str


def absolute_path(path: AnyStr) -> AnyStr:
    """Returns an absolute path or an unchanged address, both without a final `/`.

    Example:

    >>> absolute_path("s3://bucket/images/")
    's3://bucket/images'
    """
    if is_url(path):
        return path.rstrip("/" if isinstance(path, str) else b"/")
    return os.path.abspath(path)


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
        url: address of the folder.
        suffixes: lower-case endings of the names. The case of a
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
        url: address of the file.
        offset: position of the first byte.
        size: number of bytes, or None for the whole file.

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
        url: address of the file.

    Attributes:
        size: bytes.
        version: identifier of the content such as an ETag, or "".
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
        self._position = start[whence] + offset
        return self._position

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
            options = _conditional_options(self._info) if is_web(self.url) else {}
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
    forget_servers()
