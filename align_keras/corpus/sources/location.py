"""Locations of images, and a reader of the images at these locations.

A location is a single line with one of these forms:

- the path of a file,
- an address (`file:`, `data:`, web address or address in an object store),
- `bytes:OFFSET,SIZE:PATH`, bytes of a tar or TFRecord file,
- `warc:OFFSET:PATH`, a record of a web archive,
- `parquet:GROUP,ROW,COLUMN:PATH`, a cell of a Parquet file.
"""

import base64
import binascii
import functools
import os
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, unquote_to_bytes, urlsplit

from align_keras.corpus.parquet_tables import open_parquet
from align_keras.corpus.sources.warc_records import read_response
from align_keras.utils.addresses import is_url
from align_keras.utils.errors import ImageError
from align_keras.utils.files import MAX_FILE_BYTES, open_regular, size_of
from align_keras.utils.remote import cached_version, read_url
from align_keras.utils.remote_requests import SCHEMES


def is_remote(location: str) -> bool:
    """Returns True for a web address. Its image must be downloaded before it is read.

    Example:

    >>> is_remote("https://example.org/a.jpg"), is_remote("/images/a.jpg")
    (True, False)
    """
    return location[:8].lower().startswith(("http://", "https://"))


def is_from_web(location: str) -> bool:
    """Returns True for an address that an untrusted web page may use.

    Paths are excluded, because a page could use the paths of private files.
    """
    return is_remote(location) or location[:5].lower() == "data:"


def path_location(path: str) -> str:
    """Returns the location of an absolute path.

    If UTF-8 cannot encode the path, its location is a `file:` address.
    """
    try:
        path.encode()
        return path
    except UnicodeEncodeError:
        pass
    try:
        return "file://" + quote(os.fsencode(path))
    except UnicodeEncodeError:
        # No file name can contain unpaired surrogates, so replacing them is harmless.
        return path.encode("utf-8", "replace").decode()


def url_path(url: str) -> str:
    """Returns the path of a `file:` address, without query and fragment."""
    return os.fsdecode(unquote_to_bytes(urlsplit(url).path))


def member_location(kind: str, numbers: Iterable[int | str], path: str) -> str:
    """Returns the location of an image within a file.

    Args:
        kind: "bytes", "warc" or "parquet".
        numbers: position in the file, as described for this module.
        path: path or address of the file.
    """
    return f"{kind}:{','.join(map(str, numbers))}:{path_location(path)}"


def read_location(location: str) -> bytes:
    """Reads the bytes of an image. They are not decoded.

    Args:
        location: location of an image on this machine or in an object store.

    Returns:
        At least one.

    Raises:
        ImageError: with the reason "missing", "empty", "truncated", "unreadable" or
            "oversized".

    Example:

    >>> read_location("data:image/gif;base64,R0lG")
    b'GIF'
    """
    if is_remote(location):
        raise ImageError("missing", f"{location[:200]} is not downloaded yet")
    try:
        content = _read(location)
    except ImageError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise ImageError("missing", f"no file {location[:200]}") from None
    except Exception as error:  # A damaged file can raise any error in a reader.
        problem = " ".join(str(error).split()) or type(error).__name__
        raise ImageError("unreadable", problem) from error
    if not content:
        raise ImageError("empty", "0 bytes")
    return content


def _read(location: str) -> bytes:
    kind, _, remainder = location.partition(":")
    is_address = kind in SCHEMES and remainder.startswith("//")
    # `isabs` recognizes paths with a drive letter on Windows.
    if is_address or location.startswith("/") or os.path.isabs(location):
        return _read_bytes(location)
    if kind == "file":
        return _read_bytes(url_path(location))
    if kind.lower() == "data":
        return _data(remainder)
    number_list, _, file_location = remainder.partition(":")
    numbers = number_list.split(",")
    path = (
        url_path(file_location) if file_location.startswith("file:") else file_location
    )
    if kind == "bytes":
        return _read_bytes(path, int(numbers[0]), int(numbers[1]))
    if kind == "warc":
        return read_response(path, int(numbers[0]))
    if kind == "parquet":
        group, row, column = int(numbers[0]), int(numbers[1]), numbers[2]
        remote = is_url(path)
        version = cached_version(path) if remote else os.stat(path).st_mtime_ns
        return image_of_cell(_column(path, version, group, column)[row].as_py(), path)
    raise ImageError("missing", f"{location[:200]} is not the location of an image")


def _read_bytes(path: str, offset: int = 0, size: int | None = None) -> bytes:
    if (size or 0) > MAX_FILE_BYTES:
        raise ImageError("oversized", f"{size:,} bytes")
    if is_url(path):
        content = read_url(path, offset, size)
    else:
        with open_regular(path) as file:
            if size is None and size_of(file) > MAX_FILE_BYTES:
                raise ImageError("oversized", f"{size_of(file):,} bytes")
            file.seek(offset)
            content = file.read() if size is None else file.read(size)
    if size is not None and len(content) < size:
        missing_bytes = size - len(content)
        raise ImageError("truncated", f"{path} ends {missing_bytes:,} bytes early")
    return content


def _data(text: str) -> bytes:
    header, comma, body = text.partition(",")
    content = unquote_to_bytes(body)
    if not header.lower().rstrip().endswith(";base64"):
        return content
    content = b"".join(content.split())
    try:
        return base64.b64decode(content + b"=" * (-len(content) % 4))
    except binascii.Error as error:
        raise ImageError("unreadable", f"data address: {error}") from None


# The cache has an entry for each of two threads, since a thread reads the rows of a
# group one after another.
@functools.lru_cache(maxsize=2)
def _column(path: str, modified: int | str, group: int, column: str) -> Any:
    """Reads a column of a row group of a Parquet file."""
    with open_parquet(path) as file:
        return file.read_row_group(group, columns=[column]).column(column)


def image_of_cell(value: Any, path: str) -> bytes:
    """Returns the bytes of an image in a cell of a table.

    Hugging Face stores images as `{bytes, path}`. A table of images on this machine has
    no bytes, and paths that are absolute or relative to the table.

    Args:
        value: the value of the cell.
        path: path or address of the table.

    Raises:
        ImageError: if the cell has no image.
        OSError: if the file of the image cannot be read.
    """
    file = None
    if isinstance(value, dict):
        value, file = value.get("bytes"), value.get("path")
    if value is not None:
        return value
    if not file:
        raise ImageError("missing", "no image in this row")
    if is_url(path) or is_url(file):
        raise ImageError("missing", f"no bytes in this row, only the path {file:.200}")
    file = os.path.join(os.path.dirname(path), file)
    return _read_bytes(file)
