"""Images of a built corpus, whose records are stored in shards.

An index identifies a record by a name: `tfrecord:OFFSET:PATH` for a record at a byte
offset of a TFRecord file, and `array_record:NUMBER:PATH` for a numbered record of an
ArrayRecord file. Paths of image files are absolute, so no path looks like such a name.
"""

import functools
import glob
import os
import struct
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

from align_keras.corpus.sources.tfrecord_files import feature_values, masked_crc
from align_keras.utils.errors import TENSORFLOW_EXTRA, ImageError, needs
from align_keras.utils.files import open_regular

_DESCRIPTION = b"features.json"
_CONFIG = b"corpus.yaml"
_PREFIXES = (b"tfrecord:", b"array_record:")


class RecordEntry(NamedTuple):
    """Entry in the list of a shard's records.

    Attributes:
        file: name of the record.
        size: size of the record in bytes, or 0 if it is unknown.
        mtime_ns: time of the shard in nanoseconds.
    """

    file: bytes
    size: int
    mtime_ns: int


class ShardRecord(NamedTuple):
    """Content of a record.

    Attributes:
        image: the encoded image.
        captions: list of str.
        size: size of the record in bytes, or 0 if it is unknown.
        mtime_ns: time of the shard in nanoseconds.
    """

    image: bytes
    captions: list[str]
    size: int
    mtime_ns: int


def is_record(file: bytes) -> bool:
    """Returns True for the name of a record in a shard."""
    return file.startswith(_PREFIXES)


def shard_of(file: bytes) -> bytes:
    """Returns the path of the shard that contains a record."""
    return file.split(b":", 2)[2]


def corpus_shards(folder: bytes) -> list[bytes]:
    """Returns the shards of a built corpus in order, or [] for other folders.

    Args:
        folder: path of a data set, which contains `features.json`, or of the output of
            `align-keras corpus build --out`, which contains `corpus.yaml`.
    """
    pattern = glob.escape(folder)
    descriptions = glob.glob(os.path.join(pattern, _DESCRIPTION))
    if os.path.isfile(os.path.join(folder, _CONFIG)):
        below = os.path.join(pattern, b"*", b"*", _DESCRIPTION)
        descriptions += sorted(glob.glob(below))
    shards = []
    for description in descriptions:
        paths = sorted(entry.path for entry in os.scandir(os.path.dirname(description)))
        shards += [path for path in paths if _prefix(path) is not None]
    return shards


def find_records(shard: bytes) -> Iterator[RecordEntry]:
    """Yields the records of a shard.

    Raises:
        OSError: if the shard cannot be read.
        ValueError: if it is damaged. The records before the damage are yielded first.
    """
    mtime_ns = os.stat(shard).st_mtime_ns
    if _prefix(shard) == b"array_record:":
        count = _array_records(shard, mtime_ns).num_records()
        # The reader returns 0 for a broken file.
        if not count:
            raise ValueError("contains no record")
        for number in range(count):
            yield RecordEntry(b"array_record:%d:%b" % (number, shard), 0, mtime_ns)
    else:
        with open_regular(os.fsdecode(shard)) as file:
            for offset, length in _offsets_and_lengths(file):
                name = b"tfrecord:%d:%b" % (offset, shard)
                yield RecordEntry(name, length, mtime_ns)


def read_shard_record(file: bytes) -> ShardRecord:
    """Reads the image and the captions of a record.

    Raises:
        OSError: if the shard cannot be read.
        ImageError: if the record is damaged.
    """
    prefix, position, shard = file.split(b":", 2)
    size = 0
    try:
        mtime_ns = os.stat(shard).st_mtime_ns
        if prefix == b"array_record":
            (message,) = _array_records(shard, mtime_ns).read([int(position)])
        else:
            with open_regular(os.fsdecode(shard)) as opened:
                opened.seek(int(position))
                message = _read_message(opened)
            size = len(message)
        values = feature_values(message)
        captions = [
            message[start : start + length].decode("utf-8", "replace")
            for start, length in values.get("captions", [])
        ]
        start, length = values["image"][0]
    except (ValueError, IndexError, KeyError) as error:
        raise ImageError("unreadable", f"broken record: {error}") from None
    image = message[start : start + length]
    return ShardRecord(image, captions, size, mtime_ns)


def _prefix(shard: bytes) -> bytes | None:
    """Returns the prefix of the record names of a shard, or None for other files."""
    name = os.path.basename(shard)
    for prefix in _PREFIXES:
        file_format = prefix.removesuffix(b":")
        if b"." + file_format + b"-" in name:
            return prefix
    return None


def _offsets_and_lengths(file: IO[bytes]) -> Iterator[tuple[int, int]]:
    """Yields offset and length of each record of a TFRecord file."""
    # Only the headers of the records are read.
    end = os.fstat(file.fileno()).st_size
    offset = 0
    while offset < end:
        file.seek(offset)
        length = _read_length(file)
        yield offset, length
        offset += length + 16
        if offset > end:
            raise ValueError("ends within a record")


def _read_length(file: IO[bytes]) -> int:
    """Reads the header of a record and returns the length of its message."""
    header = file.read(12)
    if len(header) < 12 or masked_crc(header[:8]) != struct.unpack("<I", header[8:])[0]:
        raise ValueError("is not a TFRecord file, or is damaged")
    (length,) = struct.unpack("<Q", header[:8])
    return length


def _read_message(file: IO[bytes]) -> bytes:
    length = _read_length(file)
    message = file.read(length)
    checksum = file.read(4)
    if masked_crc(message) != int.from_bytes(checksum, "little"):
        raise ValueError("wrong checksum")
    return message


@functools.lru_cache(maxsize=16)
def _array_records(shard: bytes, mtime_ns: int) -> Any:
    """Returns the reader of a shard."""
    # The argument `mtime_ns` is part of the cache key, so that a changed shard is
    # opened again.
    sentence = "A corpus in array_record needs the package array_record"
    with needs(TENSORFLOW_EXTRA, sentence):
        from array_record.python import array_record_module
    return array_record_module.ArrayRecordReader(os.fsdecode(shard))
