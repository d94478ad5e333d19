"""The files of a source: found, shared out, and told apart from changed ones."""

import dataclasses
import errno
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.sources.pair import Part
from align_keras.utils.errors import InputError
from align_keras.utils.files import read_regular
from align_keras.utils.remote import is_url, list_url, stat_url

# A part's share of small files: starting it costs little, and the work is spread.
FILES_A_PART = 200
BYTES_A_PART = 16_000_000

# Limits in bytes, uncompressed: what is longer is none of a corpus's pages, images or
# captions, and is counted, not read. A page, and a record of a web archive.
MAX_PAGE_BYTES = MAX_WARC_BYTES = 64_000_000
# Bytes of the metadata of one page. The Python objects take 30 times the memory.
MAX_WAT_BYTES = 8_000_000
MAX_TFRECORD_BYTES = 256_000_000
# A JSON file of captions is read as a whole; COCO's has 90 million.
MAX_JSON_BYTES = 1_000_000_000
# A caption, or what else is said of an image, in a shard.
MAX_TEXT_BYTES = 1_000_000
# Names in a tar, and the HTTP headers of a response.
MAX_HEADER_BYTES = 64_000
RECORDS_A_PART = 10_000


class SourceFile(NamedTuple):
    """A file: name in its folder, bytes, and its time of change, or remote version."""

    name: str
    size: int
    modified: int | str


def list_files(folder: str, suffixes: str | tuple[str, ...]) -> list[SourceFile]:
    """Finds the files with such endings below a folder, by name, no hidden ones."""
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
    # The bytes of the names: the same order whatever the machine's language.
    return sorted(matching_files, key=lambda file: os.fsencode(file.name))


def one_file(path: str) -> SourceFile | None:
    """Returns the `SourceFile` of a path, named within its folder; None if gone."""
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
    except ValueError:  # A NUL or half of a surrogate pair: no file has such a name.
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
    """Makes each file a part: `list_parts` of archives and shards."""
    return [dataclasses.replace(whole, files=(file.name,)) for file in files]


def grouped_files(whole: Part, files: list[SourceFile]) -> list[Part]:
    """Shares small files out, at most 200 or 16 MB a part."""
    groups: list[list[str]] = []
    size = 0
    for file in files:
        size += file.size
        if not groups or len(groups[-1]) == FILES_A_PART or size > BYTES_A_PART:
            groups.append([])
            size = file.size
        groups[-1].append(file.name)
    return [dataclasses.replace(whole, files=tuple(names)) for names in groups]


def fingerprint(words: Iterable[str], files: Iterable[SourceFile]) -> str:
    """Names what a source holds by its files' names, sizes and times, unread."""
    digest = hashlib.blake2b(digest_size=16)
    for word in words:
        digest.update(os.fsencode(word) + b"\0")
    for file in files:
        line = f"{file.size} {file.modified}"
        digest.update(os.fsencode(file.name) + b"\0" + line.encode() + b"\0")
    return digest.hexdigest()


def count_os_error(counter: DropCounter, path: str, error: OSError) -> None:
    """Counts a file that can't be opened: "unreadable" if that lasts, or "vanished"."""
    lasting = isinstance(error, PermissionError | IsADirectoryError)
    lasting |= error.errno == errno.EINVAL  # A pipe or a device.
    lasting &= not is_url(path)
    reason = "unreadable" if lasting else "vanished"
    reason = "oversized" if error.errno == errno.EFBIG else reason
    counter.drop(reason, path, error.strerror or type(error).__name__)


def read_whole(path: str, counter: DropCounter) -> bytes | None:
    """Reads a file, or counts why it can't be read."""
    try:
        return read_regular(path, MAX_PAGE_BYTES)
    except OSError as error:
        count_os_error(counter, path, error)
        return None


def record_ranges(
    whole: Part, name: str, total: int, size: int = RECORDS_A_PART
) -> list[Part]:
    """Shares the records of a file out, `size` a part, at least one part."""
    starts = range(0, max(total, 1), size)
    ends = [min(start + size, total) for start in starts]
    return [
        Part(whole.kind, whole.root, (name,), start, end, total, whole.options)
        for start, end in zip(starts, ends, strict=True)
    ]


def read_range(part: Part, counter: DropCounter, load: Callable) -> Iterator:
    """Yields a part's records, which `load` takes from (path, time of change)."""
    file = one_file(part.path)
    if file is None:
        raise FileNotFoundError(errno.ENOENT, "no such file", part.path)
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
