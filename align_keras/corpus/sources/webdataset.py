"""Kind `webdataset`: tar files of samples, as img2dataset writes them.

A sample is the members that follow one another with the same name up to the first
dot: a picture, `.txt` with its caption, `.json` with the columns that came with it.
"""

import json
import os
import tarfile

from align_keras.corpus.pair_files import PICTURE_SUFFIXES
from align_keras.corpus.sources.location import member_location
from align_keras.corpus.sources.part import Part
from align_keras.corpus.sources.source_files import count_os_error, where
from align_keras.corpus.sources.source_pair import pair_from_columns
from align_keras.utils.files import open_regular

SUFFIXES = (".tar",)
_BLOCK = tarfile.BLOCKSIZE
# No caption, and no metadata of one picture, is longer.
_MAX_TEXT_BYTES = 16_000_000


def list_parts(kind, root, files, options):
    """Makes each shard a part."""
    return [Part(kind, root, (file.name,)) for file in files]


def read(part, counter):
    """Yields the pairs of a shard, in its order."""
    path = os.path.join(part.root, part.files[0])
    try:
        with open_regular(path) as file:
            for key, sample in _samples(file, path, counter):
                pair = _pair(file, path, key, sample, counter)
                if pair is not None:
                    yield pair
    except OSError as error:
        count_os_error(counter, path, error)


def _samples(file, path, counter):
    """Yields (key, {suffix: (offset, size)})."""
    current, sample = None, {}
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


def _members(file, path, counter):
    """Yields (name, offset, size) of files; what isn't a tar's is counted."""
    length = os.fstat(file.fileno()).st_size
    if not length:
        counter.drop("empty shard", where(path), "0 bytes")
        return
    end = 0
    while end < length:
        try:
            for member in _tar_members(file, end):
                _count_gap(file, end, member.offset, path, counter)
                end = member.offset_data + -(-member.size // _BLOCK) * _BLOCK
                if member.isfile() and member.offset_data + member.size <= length:
                    yield member.name, member.offset_data, member.size
            break
        # A PAX header is broken, of which tarfile converts numbers, or the one behind.
        except (tarfile.TarError, ValueError):
            _count_gap(file, end, end + _BLOCK, path, counter)
            end += _BLOCK
    file.seek(max(length - _BLOCK, 0))
    if end >= length or length % _BLOCK or file.read(_BLOCK).strip(b"\0"):
        counter.drop("truncated shard", where(path), "the end of the archive lacks")
    else:
        _count_gap(file, end, length, path, counter)


def _tar_members(file, offset):
    file.seek(offset)
    # Zeros end an archive, but joined ones go on, and so do broken ones.
    tar = tarfile.TarFile(fileobj=file, ignore_zeros=True)
    while (member := tar.next()) is not None:
        tar.members.clear()  # It would keep them all.
        yield member


def _count_gap(file, start, end, path, counter):
    """Counts what lies between members, unless it's zeros."""
    file.seek(start)
    while start < end:
        chunk = file.read(min(end - start, 1 << 20))
        if chunk.strip(b"\0"):
            counter.drop("broken record", where(path), f"no member at byte {start}")
            return
        start += len(chunk) or end


def _pair(file, path, key, sample, counter):
    place = where(f"{path} {key}")
    row = _metadata(file, sample)
    if ".txt" in sample:
        row["caption"] = _read(file, *sample[".txt"]).decode("utf-8", "replace")
    if row.get("status") not in (None, "success"):
        counter.filter("not downloaded", place, str(row.get("error_message")))
        return None
    span = next((sample[own] for own in PICTURE_SUFFIXES if own in sample), None)
    if span is None:
        counter.drop("missing", place, f"no picture among {', '.join(sorted(sample))}")
        return None
    return pair_from_columns(member_location("bytes", span, path), row)


def _metadata(file, sample):
    try:
        row = json.loads(_read(file, *sample[".json"])) if ".json" in sample else {}
    except (ValueError, RecursionError):
        return {}  # The caption may be in `.txt`.
    return row if isinstance(row, dict) else {}


def _read(file, offset, size):
    file.seek(offset)
    return file.read(min(size, _MAX_TEXT_BYTES))
