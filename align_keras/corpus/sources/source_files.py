"""Listing, division and fingerprints of the files of a source."""

import dataclasses
import errno
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.sources.pair import Part
from align_keras.utils.addresses import is_url
from align_keras.utils.errors import InputError
from align_keras.utils.files import read_regular
from align_keras.utils.remote import list_url, stat_url

# Limits of a part with small files. Reading such a part takes much longer than starting
# its task, but a source still has enough parts for all workers.
FILES_PER_PART = 200
BYTES_PER_PART = 16_000_000
# Number of records per part of a large file.
RECORDS_PER_PART = 10_000

# The following limits are in uncompressed bytes. Larger data is counted and not read,
# because no useful page, image or caption is so large.

# A web page, and a record of a web archive.
MAX_PAGE_BYTES = MAX_WARC_BYTES = 64_000_000
# Metadata of a page. Its Python objects need 30 times as much memory.
MAX_WAT_BYTES = 8_000_000
MAX_TFRECORD_BYTES = 256_000_000
# A JSON file of captions, which is read into memory completely. COCO's file has 90
# million bytes.
MAX_JSON_BYTES = 1_000_000_000
# A caption or the metadata of an image in a shard.
MAX_TEXT_BYTES = 1_000_000
# The header of a tar member with a long name, and the HTTP headers of a response.
MAX_HEADER_BYTES = 64_000


class SourceFile(NamedTuple):
    """File of a source.

    Attributes:
        name: path relative to the folder of the source.
        size: bytes.
        modified: modification time in nanoseconds, or str, version of a remote file.
    """

    name: str
    size: int
    modified: int | str


def list_files(folder: str, suffixes: str | tuple[str, ...]) -> list[SourceFile]:
    """Lists the files below a folder, sorted by name, without hidden files.

    Args:
        folder: path or address.
        suffixes: file name suffixes in lower case.
    """
    if is_url(folder):
        return [SourceFile(*file) for file in list_url(folder, suffixes)]
    matching_files = []
    for subfolder, subfolders, names in os.walk(folder):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for name in names:
            if name.startswith(".") or not name.lower().endswith(suffixes):
                continue
            path = os.path.join(subfolder, name)
            if file := one_file(path):
                matching_files.append(file._replace(name=os.path.relpath(path, folder)))
    # The order of the encoded names does not depend on the locale.
    return sorted(matching_files, key=lambda file: os.fsencode(file.name))


def one_file(path: str) -> SourceFile | None:
    """Returns the `SourceFile` of a path or address, or None if there is no file.

    The name is relative to the folder of the file. For a local folder, a `SourceFile`
    is returned as well.
    """
    try:
        if is_url(path):
            status = stat_url(path)
            return status and SourceFile(*status)
        state = os.stat(path)
    except FileNotFoundError:
        return None
    except OSError:
        if is_url(path):
            raise
        return None
    except ValueError:
        # A path with NUL or an unpaired surrogate. No file can have such a name.
        return None
    return SourceFile(os.path.basename(path), state.st_size, state.st_mtime_ns)


def is_folder(path: str) -> bool:
    """Returns True if a local or remote path is a folder that exists."""
    if not is_url(path):
        return os.path.isdir(path)
    try:
        return stat_url(path) is None
    except FileNotFoundError:
        return False


def whole_files(whole: Part, files: list[SourceFile]) -> list[Part]:
    """Returns one part for each file."""
    return [dataclasses.replace(whole, files=(file.name,)) for file in files]


def grouped_files(whole: Part, files: list[SourceFile]) -> list[Part]:
    """Groups small files into parts of at most 200 files and 16 MB."""
    groups: list[list[str]] = []
    size = 0
    for file in files:
        size += file.size
        if not groups or len(groups[-1]) == FILES_PER_PART or size > BYTES_PER_PART:
            groups.append([])
            size = file.size
        groups[-1].append(file.name)
    return [dataclasses.replace(whole, files=tuple(names)) for names in groups]


def fingerprint(words: Iterable[str], files: Iterable[SourceFile]) -> str:
    """Returns a hexadecimal fingerprint of strings and of the metadata of files.

    Args:
        words: such as the kind and the options of a source.
        files: `SourceFile`s. Their content is not read.
    """
    digest = hashlib.blake2b(digest_size=16)
    for word in words:
        digest.update(os.fsencode(word) + b"\0")
    for file in files:
        line = f"{file.size} {file.modified}"
        digest.update(os.fsencode(file.name) + b"\0" + line.encode() + b"\0")
    return digest.hexdigest()


def count_os_error(counter: DropCounter, path: str, error: OSError) -> None:
    """Counts a file that cannot be opened.

    The drop reason is "oversized" for a file that is too large, "unreadable" if another
    attempt would fail as well, and otherwise "vanished".
    """
    is_permanent = isinstance(error, PermissionError | IsADirectoryError)
    is_permanent |= (
        error.errno == errno.EINVAL
    )  # A pipe or a device cannot be read as a file.
    is_permanent &= not is_url(path)
    reason = "unreadable" if is_permanent else "vanished"
    reason = "oversized" if error.errno == errno.EFBIG else reason
    counter.drop(reason, path, error.strerror or type(error).__name__)


def read_whole(path: str, counter: DropCounter) -> bytes | None:
    """Reads a file. Counts an unreadable file and returns None for it."""
    try:
        return read_regular(path, MAX_PAGE_BYTES)
    except OSError as error:
        count_os_error(counter, path, error)
        return None


def record_ranges(
    whole: Part, name: str, total: int, size: int = RECORDS_PER_PART
) -> list[Part]:
    """Divides the records of a file into parts.

    Args:
        whole: `Part` for the whole source.
        name: name of the file.
        total: number of records. A file without records gives one part.
        size: number of records per part.
    """
    starts = range(0, max(total, 1), size)
    stops = [min(start + size, total) for start in starts]
    return [
        Part(whole.kind, whole.root, (name,), start, stop, total, whole.options)
        for start, stop in zip(starts, stops, strict=True)
    ]


def read_range(part: Part, counter: DropCounter, load: Callable) -> Iterator:
    """Yields the records of a part that is a range of a file.

    Args:
        part: range of records.
        counter: `DropCounter`. The first part of a file adds the counts of `load`.
        load: callable that takes the path and the modification time of the file. It
            returns the list of all records and the `DropCounter` of the dropped
            records.
    """
    file = one_file(part.path)
    if file is None:
        counter.drop("vanished", part.path, "no such file")
        return
    try:
        records, dropped = load(part.path, file.modified)
    except InputError as error:
        counter.drop("vanished", part.path, f"the file has changed: {error}")
        return
    if len(records) != part.total:
        counter.drop("vanished", part.path, "the file has changed")
        return
    if part.start == 0:
        counter.add(dropped)
    yield from records[part.start : part.stop]
