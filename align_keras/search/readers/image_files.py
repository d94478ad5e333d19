"""Image files of an index: listing and reading."""

import dataclasses
import datetime
import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from typing import Any, NamedTuple

from align_keras.corpus.drop_counter import printable
from align_keras.search.readers.corpus_images import (
    corpus_shards,
    find_records,
    is_record,
    read_shard_record,
)
from align_keras.search.readers.raw_preview import (
    RAW_SUFFIXES,
    has_raw_reader,
    no_raw_error,
)
from align_keras.utils.addresses import is_url
from align_keras.utils.errors import ImageError
from align_keras.utils.files import MAX_FILE_BYTES, is_special
from align_keras.utils.pillow_images import IMAGE_SUFFIXES
from align_keras.utils.remote import list_url, open_url, stat_url

# Image formats that are not decoded. An index reports these files as left out.
UNSUPPORTED_SUFFIXES = (".jxl", ".psd", ".psb", ".xcf", ".exr", ".hdr", ".tga")
_IMAGE_SUFFIXES = IMAGE_SUFFIXES + RAW_SUFFIXES
_SUFFIXES = tuple(os.fsencode(suffix) for suffix in _IMAGE_SUFFIXES)
_RAW_SUFFIXES = tuple(os.fsencode(suffix) for suffix in RAW_SUFFIXES)
_UNSUPPORTED_SUFFIXES = tuple(os.fsencode(suffix) for suffix in UNSUPPORTED_SUFFIXES)
UNSUPPORTED_FORMAT = "format that is not read"
TOO_MANY_BYTES = f"more than {MAX_FILE_BYTES:,} bytes"
CHANGING = "changes while it is read"
UNREACHABLE = "can't be reached"
INCOMPLETE = "can't be read to its end"
CANNOT_OPEN = "can't be opened"
MISSING = "missing"
_NUL_DETAIL = "the name contains NUL"
# Nanoseconds. Latest time (in the year 2262) that a 64-bit integer of the databases can
# store.
_LATEST = 2**63 - 1


@dataclasses.dataclass
class ImageFile:
    """Image file, or record of a corpus.

    Attributes:
        file: absolute path, address or name of a record. A path may contain
            bytes that are not UTF-8.
        size: size in bytes.
        mtime_ns: time of the last change in nanoseconds. For an address, a
            negative number that identifies the version of the content.
        captions: captions of a record, or None for a file.
    """

    file: bytes
    size: int
    mtime_ns: int
    captions: list[str] | None = None

    def __post_init__(self) -> None:
        self.mtime_ns = max(-_LATEST, min(self.mtime_ns, _LATEST))


class SkippedFile(NamedTuple):
    """File that is not read, or folder or shard that cannot be listed.

    Attributes:
        file: path or address.
        reason: reason. For a folder or shard, it begins with "folder: " or
            "shard: ".
        detail: the problem in detail, or "".
    """

    file: bytes
    reason: str
    detail: str = ""


def find_images(root: bytes) -> Iterator[ImageFile | SkippedFile]:
    """Yields the image files of a folder and its subfolders in the order of the names.

    The files of a folder come before its subfolders, and the records of a built corpus
    come first. Hidden files are skipped. Symbolic links to folders are not followed.

    Args:
        root: path or address of the folder.
    """
    if is_url(root):
        yield from _find_at_address(os.fsdecode(root))
        return
    shards = corpus_shards(root)
    for shard in shards:
        try:
            for record in find_records(shard):
                yield ImageFile(record.file, record.size, record.mtime_ns)
        except OSError as error:
            yield SkippedFile(shard, f"shard: {error.strerror}")
        except ValueError as error:
            problem = " ".join(str(error).split())
            yield SkippedFile(shard, f"shard: {problem[:100]}")
    folders = [] if shards else [root]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as listed:
                entries = sorted(listed, key=lambda entry: entry.name)
        except OSError as error:
            yield SkippedFile(folder, f"folder: {error.strerror}")
            continue
        subfolders = []
        for entry in entries:
            if entry.name.startswith(b"."):
                continue
            try:
                if entry.is_dir(follow_symlinks=False):
                    subfolders.append(entry.path)
                    continue
                image = _find_entry(entry)
            except OSError as error:
                image = SkippedFile(entry.path, str(error.strerror))
            if image is not None:
                yield image
        folders.extend(reversed(subfolders))


def _find_entry(entry: os.DirEntry[bytes]) -> ImageFile | SkippedFile | None:
    """Returns the file of a directory entry, or None if it is not an image."""
    name = entry.name.lower()
    if name.endswith(_UNSUPPORTED_SUFFIXES):
        return _unsupported_file(entry.path)
    if not name.endswith(_SUFFIXES):
        return None
    status = entry.stat()
    if stat.S_ISREG(status.st_mode):
        return ImageFile(entry.path, status.st_size, status.st_mtime_ns)
    # Links to folders are not followed.
    if stat.S_ISDIR(status.st_mode):
        return None
    return SkippedFile(entry.path, "no regular file")


def _unsupported_file(file: bytes) -> SkippedFile:
    suffix = os.path.splitext(os.fsdecode(file))[1].lower()
    return SkippedFile(file, UNSUPPORTED_FORMAT, suffix)


def encode_path(path: str | os.PathLike[str]) -> bytes:
    """Returns a path of a table as bytes.

    Surrogates that represent no byte are escaped. No file has such a name, so that the
    row of the table is reported and left out.
    """
    try:
        return os.fsencode(path)
    except UnicodeEncodeError:
        return os.fsencode(printable(os.fspath(path)))


def stat_file(file: bytes) -> ImageFile:
    """Reads the size and the time of a local file or of an object at an address.

    Raises:
        OSError: if the file is missing or unreachable, the address is a folder, or the
            name contains NUL.
    """
    if b"\0" in file:
        # The functions of `os` raise ValueError for such a name.
        raise OSError(errno.EINVAL, _NUL_DETAIL, os.fsdecode(file))
    if is_url(file):
        status = stat_url(os.fsdecode(file))
        if status is None:
            raise IsADirectoryError(errno.EISDIR, "it is a folder", os.fsdecode(file))
        return ImageFile(file, status.size, _version_stamp(status.version))
    file_status = os.stat(file)
    return ImageFile(file, file_status.st_size, file_status.st_mtime_ns)


def _version_stamp(version: str) -> int:
    """Returns a number for a version of an object's content."""
    # The number is negative and thus differs from all times of files.
    digest = hashlib.blake2b(version.encode(), digest_size=7).digest()
    return -(2**62) - int.from_bytes(digest, "big")


def _find_at_address(url: str) -> Iterator[ImageFile | SkippedFile]:
    try:
        objects = list_url(url, _IMAGE_SUFFIXES + UNSUPPORTED_SUFFIXES)
    except OSError as error:
        yield SkippedFile(os.fsencode(url), f"folder: {error.strerror}")
        return
    for name, size, version in objects:
        file = os.fsencode(f"{url.rstrip('/')}/{name}")
        if name.lower().endswith(UNSUPPORTED_SUFFIXES):
            yield _unsupported_file(file)
        else:
            yield ImageFile(file, size, _version_stamp(version))


def read_file(file: bytes) -> tuple[bytes, ImageFile]:
    """Reads the content of a file, an address or a record of a corpus.

    Returns:
        The content, and `ImageFile`, its current size and time.

    Raises:
        ImageError: if the file cannot be read, or changes while it is read.
    """
    if b"\0" in file:
        raise ImageError(MISSING, _NUL_DETAIL)
    # RAW files are large, so their content is not read if it can't be decoded.
    if file.lower().endswith(_RAW_SUFFIXES) and not has_raw_reader():
        raise no_raw_error()
    try:
        if is_record(file):
            return _read_record(file)
        return _read_at_address(file) if is_url(file) else _read_local(file)
    except FileNotFoundError:
        raise ImageError(MISSING, "no such file") from None
    except OSError as error:
        reasons = {
            errno.ESTALE: CHANGING,
            errno.EHOSTUNREACH: UNREACHABLE,
            errno.EIO: INCOMPLETE,
        }
        reason = reasons.get(error.errno or 0, CANNOT_OPEN)
        raise ImageError(reason, str(error.strerror)) from error


def check_some_reached(errors: list[ImageError], count: int) -> None:
    """Raises the last error if all of several files were unreachable.

    In that case the server or the connection is down, and the caller should stop. If
    only some files are unreachable, the caller reports and skips them.

    Args:
        errors: errors that occurred while reading the files.
        count: number of files.

    Raises:
        OSError: the error of `open_url`.
    """
    unreachable = [error for error in errors if error.reason == UNREACHABLE]
    if count > 1 and len(unreachable) == count:
        raise unreachable[-1].__cause__ or unreachable[-1]


def _read_record(file: bytes) -> tuple[bytes, ImageFile]:
    record = read_shard_record(file)
    source = ImageFile(file, record.size, record.mtime_ns, record.captions)
    return record.image, source


def _read_at_address(file: bytes) -> tuple[bytes, ImageFile]:
    with open_url(os.fsdecode(file)) as opened:
        # The raw stream of `open_url` has the attributes `size` and `version`.
        status: Any = opened.raw
        _check_size(status.size)
        source = ImageFile(file, status.size, _version_stamp(status.version))
        return opened.read(), source


def _read_local(file: bytes) -> tuple[bytes, ImageFile]:
    if is_special(os.fsdecode(file)):
        raise ImageError(CANNOT_OPEN, "no regular file")
    for _ in range(3):
        with open(file, "rb") as opened:
            before = os.fstat(opened.fileno())
            _check_size(before.st_size)
            content = opened.read(before.st_size + 1)
            after = os.fstat(opened.fileno())
        size = after.st_size
        mtime_ns = after.st_mtime_ns
        is_unchanged = (before.st_size, before.st_mtime_ns) == (size, mtime_ns)
        if is_unchanged and len(content) == size:
            return content, ImageFile(file, size, mtime_ns)
    raise ImageError(CHANGING, "another program is writing it")


def _check_size(size: int) -> None:
    if size > MAX_FILE_BYTES:
        detail = f"{size:,} bytes are more than {MAX_FILE_BYTES:,}"
        raise ImageError(TOO_MANY_BYTES, detail)


def content_hash(content: bytes) -> bytes:
    """Returns a hash of 16 bytes, which identifies a renamed or copied image."""
    return hashlib.blake2b(content, digest_size=16).digest()


def date_of(mtime_ns: int) -> str | None:
    """Returns the time of a file as a local ISO date, or None if it is out of range.

    This date is used for images without EXIF metadata.
    """
    if abs(mtime_ns) >= _LATEST:
        return None
    try:
        return datetime.datetime.fromtimestamp(mtime_ns // 10**9).isoformat(" ")
    except (OverflowError, OSError, ValueError):
        return "1970-01-01 00:00:00"
