"""Sources of the kind `webdataset`: tar files from img2dataset.

A sample consists of successive members whose names are equal up to the first dot: an
image, `.txt` (caption) and `.json` (metadata).
"""

import json
import tarfile
from collections.abc import Iterator
from typing import IO, Any

from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.sources.location import member_location
from align_keras.corpus.sources.pair import (
    Part,
    SourceKind,
    SourcePair,
    pair_of_shard,
    pairs_of_sources,
)
from align_keras.corpus.sources.source_files import (
    MAX_HEADER_BYTES,
    MAX_TEXT_BYTES,
    whole_files,
)
from align_keras.corpus.sources.uid_subset import UidFilter
from align_keras.utils.files import open_regular, size_of
from align_keras.utils.pillow_images import IMAGE_SUFFIXES

_BLOCK = tarfile.BLOCKSIZE
# Types of members with long names and other headers. Their size is limited.
_HEADER_TYPES = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
# Suffix of a member of a sample → (offset, size) in bytes.
_Spans = dict[str, tuple[int, int]]


def _read_part(part: Part, counter: DropCounter) -> Iterator[SourcePair]:
    """Yields the pairs of a shard in its order."""
    uid_filter = UidFilter(part, counter)
    with open_regular(part.path) as file:
        for key, sample in _samples(file, part.path, counter):
            yield from _pairs(file, part, key, sample, uid_filter, counter)
    uid_filter.finish()


def _samples(
    file: Any, path: str, counter: DropCounter
) -> Iterator[tuple[str, _Spans]]:
    """Yields (name up to the first dot, spans of the members) of each sample."""
    current = ""
    sample: _Spans = {}
    for name, offset, size in _members(file, path, counter):
        folder, slash, base = name.rpartition("/")
        stem, dot, suffix = base.partition(".")
        key = folder + slash + stem
        if key != current and sample:
            yield current, sample
            sample = {}
        current = key
        sample[dot + suffix.lower()] = (offset, size)
    if sample:
        yield current, sample


def _members(
    file: Any, path: str, counter: DropCounter
) -> Iterator[tuple[str, int, int]]:
    """Yields (name, offset, size) of the files in a tar, and counts damaged areas."""
    length = size_of(file)
    position = last_end = 0
    damage_start = None
    while (position := _skip_zeros(file, position, length)) < length:
        start = position
        for member, position in _tar_members(file, start):
            _count_damage(damage_start, path, counter)
            damage_start = None
            last_end = position
            if member.isfile() and member.offset_data + member.size <= length:
                yield member.name, member.offset_data, member.size
        if position == start:
            damage_start = start if damage_start is None else damage_start
            position += _BLOCK
    file.seek(max(length - _BLOCK, 0))
    if last_end >= length or length % _BLOCK or file.read(_BLOCK).strip(b"\0"):
        counter.drop("truncated shard", path, "the end of the archive is missing")
    else:
        _count_damage(damage_start, path, counter)


def _count_damage(position: int | None, path: str, counter: DropCounter) -> None:
    """Counts a damaged area that starts at a position, if any."""
    if position is not None:
        counter.drop("broken record", path, f"no member at byte {position}")


def _skip_zeros(file: Any, position: int, length: int) -> int:
    """Returns the position of the next block that is not zeros, or `length`."""
    while position < length:
        file.seek(position)
        chunk = file.read(1 << 20)
        if remaining := len(chunk.lstrip(b"\0")):
            return position + (len(chunk) - remaining) // _BLOCK * _BLOCK
        position += len(chunk) or length
    return length


class _Member(tarfile.TarInfo):
    """Member of a tar. Headers that could fill the memory raise an error."""

    # Python calls this private method for each header. Recent Pythons do not call the
    # public `frombuf`. The stubs of `tarfile` lack the private names.
    def _proc_member(self, *arguments: Any) -> Any:
        is_too_long = self.type in _HEADER_TYPES and self.size > MAX_HEADER_BYTES
        if is_too_long or self.size < 0 or self.type == tarfile.GNUTYPE_SPARSE:
            problem = "unsupported header"
            raise tarfile.InvalidHeaderError(problem)  # type: ignore[attr-defined]
        return super()._proc_member(*arguments)  # type: ignore[misc]

    def _proc_gnusparse_10(self, *arguments: Any) -> Any:
        raise ValueError("the member is a sparse file, whose map can have any length")


def _tar_members(file: Any, offset: int) -> Iterator[tuple[tarfile.TarInfo, int]]:
    """Yields (member, position after it) from an offset to the next invalid header."""
    file.seek(offset)
    try:
        tar: Any = tarfile.TarFile(fileobj=file, tarinfo=_Member)
        while (member := tar.next()) is not None and tar.offset > member.offset:
            tar.members.clear()  # Otherwise `tar` would store all members in memory.
            yield member, tar.offset
    except OSError:
        raise
    except Exception:  # A damaged header can raise any error.
        return


def _pairs(
    file: IO[bytes],
    part: Part,
    key: str,
    sample: _Spans,
    uid_filter: UidFilter,
    counter: DropCounter,
) -> list[SourcePair]:
    """Returns the pairs of a sample, or counts the reason why it has no pair."""
    path = part.path
    row = _metadata(file, sample)
    if not uid_filter.keeps(row, f"{path} {key}"):
        return []
    if ".txt" in sample:
        row["caption"] = _read(file, *sample[".txt"]).decode("utf-8", "replace")
    span = next((sample[suffix] for suffix in IMAGE_SUFFIXES if suffix in sample), None)
    image = span and member_location("bytes", span, path)
    pair = pair_of_shard(counter, f"{path} {key}", row, image, sample)
    return pairs_of_sources(pair, row, part)


def _metadata(file: IO[bytes], sample: _Spans) -> dict[str, Any]:
    try:
        row = json.loads(_read(file, *sample[".json"])) if ".json" in sample else {}
    except (ValueError, RecursionError):
        return {}  # The `.txt` member may still have a caption.
    return row if isinstance(row, dict) else {}


def _read(file: IO[bytes], offset: int, size: int) -> bytes:
    file.seek(offset)
    return file.read(min(size, MAX_TEXT_BYTES))


WEBDATASET = SourceKind(
    suffixes=(".tar",),
    list_parts=whole_files,
    read=_read_part,
)
