"""Locations of images.

A location is one line: a path, an address (`file:`, `data:`, of an object or of the
web), or a member of an archive, `KIND:NUMBERS:PATH`: `bytes:OFFSET,SIZE:` in a tar or
TFRecord file, `warc:OFFSET:`, `parquet:GROUP,ROW,COLUMN:`. The path comes last.
"""

import base64
import binascii
import functools
import os
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, unquote_to_bytes, urlsplit

from align_keras.corpus.image import ImageError
from align_keras.corpus.parquet_tables import open_parquet
from align_keras.corpus.sources.warc_records import read_response
from align_keras.utils.files import MAX_FILE_BYTES, open_regular, size_of
from align_keras.utils.remote import SCHEMES, cached_version, is_url, read_url


def is_remote(location: str) -> bool:
    """Says whether a location is a web address, whose image must be fetched first.

    Example:

    >>> is_remote("https://example.org/a.jpg"), is_remote("/images/a.jpg")
    (True, False)
    """
    return location[:8].lower().startswith(("http://", "https://"))


def is_from_web(location: str) -> bool:
    """Returns True if a web page may name the location. Paths could be private."""
    return is_remote(location) or location[:5].lower() == "data:"


def path_location(path: str) -> str:
    """Returns the location, which UTF-8 can hold, of an absolute path."""
    try:
        path.encode()
        return path
    except UnicodeEncodeError:
        pass
    try:
        return "file://" + quote(os.fsencode(path))
    except UnicodeEncodeError:  # Halves of surrogate pairs, which name no file.
        return path.encode("utf-8", "replace").decode()


def url_path(url: str) -> str:
    """Returns the path that a `file:` address names, without query and fragment."""
    return os.fsdecode(unquote_to_bytes(urlsplit(url).path))


def member_location(kind: str, numbers: Iterable[int | str], path: str) -> str:
    """Returns the location of a member of a bytes, warc or parquet file."""
    return f"{kind}:{','.join(map(str, numbers))}:{path_location(path)}"


def read_location(location: str) -> bytes:
    """Reads an image's bytes, at least one; whether they are an image shows later.

    Args:
        location: str, not of a remote image, which must be fetched before.

    Raises:
        ImageError: "missing", "empty", "truncated", "unreadable" or "oversized".

    Example:

    >>> read_location("data:image/gif;base64,R0lG")
    b'GIF'
    """
    if is_remote(location):
        raise ImageError("missing", f"{location[:200]} isn't fetched yet")
    try:
        content = _read(location)
    except ImageError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise ImageError("missing", f"no file {location[:200]}") from None
    except Exception as error:  # Readers raise whatever a broken file leads to.
        problem = " ".join(str(error).split()) or type(error).__name__
        raise ImageError("unreadable", problem) from error
    if not content:
        raise ImageError("empty", "0 bytes")
    return content


def _read(location: str) -> bytes:
    kind, _, remainder = location.partition(":")
    is_address = kind in SCHEMES and remainder.startswith("//")
    # The latter also of a drive of Windows.
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
        return _cell(_column(path, version, group, column), row)
    raise ImageError("missing", f"{location[:200]} is no location of an image")


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
        raise ImageError("truncated", f"{path} ends {size - len(content):,} early")
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


# A process reads the rows of a group one after another: two groups, for two threads.
@functools.lru_cache(maxsize=2)
def _column(path: str, modified: int | str, group: int, column: str) -> Any:
    """One column of a row group; `modified` tells a file from an older one."""
    with open_parquet(path) as file:
        return file.read_row_group(group, columns=[column]).column(column)


def _cell(cells: Any, row: int) -> bytes:
    value = cells[row].as_py()
    if isinstance(value, dict):  # Hugging Face stores images in this form.
        value = value.get("bytes")
    if value is None:
        raise ImageError("missing", "no image in this row")
    return value
