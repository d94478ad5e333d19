"""Kind `tfrecord`: shards of `tf.train.Example`, as img2dataset writes them. Read
without TensorFlow, whose import takes a worker seconds and 700 MB; of a message only
the first bytes of each feature count, so that the image's place in the file is known.
"""

import functools
import itertools
import struct
from collections.abc import Callable, Iterator
from typing import IO, Any

from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.sources.location import member_location
from align_keras.corpus.sources.pair import Part, SourceKind, SourcePair, pair_of_shard
from align_keras.corpus.sources.source_files import (
    MAX_TEXT_BYTES,
    MAX_TFRECORD_BYTES,
    whole_files,
)
from align_keras.utils.errors import needs
from align_keras.utils.files import open_regular, size_of

_IMAGES = ("jpg", "jpeg", "png", "webp", "image")
# Fields that are read of one record. A damaged record can claim any number of fields.
MAX_RECORD_FIELDS = 1_000_000


def _read_part(part: Part, counter: DropCounter) -> Iterator[SourcePair]:
    """Yields the pairs of a shard, in its order."""
    with open_regular(part.path) as file:
        for offset, message in _messages(file, part.path, counter):
            if pair := _pair(part.path, offset, message, counter):
                yield pair


def _messages(
    file: IO[bytes], path: str, counter: DropCounter
) -> Iterator[tuple[int, bytes]]:
    """Yields (offset, bytes) of the records' messages."""
    size = size_of(file)
    offset = 0
    while offset < size:
        header = file.read(12)
        if len(header) < 12:
            counter.drop("truncated shard", path, f"at byte {offset}")
            return
        length, checksum = struct.unpack("<QI", header)
        # Behind a wrong length there is no telling where the next record begins.
        if masked_crc(header[:8]) != checksum:
            detail = f"wrong checksum at byte {offset}, nothing behind it can be read"
            counter.drop("broken record", path, detail)
            return
        if offset + length + 16 > size:
            detail = f"the record at byte {offset} has no end"
            counter.drop("truncated shard", path, detail)
            return
        if length > MAX_TFRECORD_BYTES:
            counter.drop("oversized record", path, f"at byte {offset}")
            file.seek(length + 4, 1)
        else:
            message, checksum = file.read(length), file.read(4)
            if masked_crc(message) == int.from_bytes(checksum, "little"):
                yield offset + 12, message
            else:
                detail = f"wrong checksum of the record at byte {offset}"
                counter.drop("broken record", path, detail)
        offset += length + 16


def _pair(
    path: str, offset: int, message: bytes, counter: DropCounter
) -> SourcePair | None:
    position = f"{path} byte {offset}"
    try:
        # The first value of each feature is used.
        spans = {name: values[0] for name, values in feature_values(message).items()}
        row: dict[str, Any] = {
            name: message[start : start + min(size, MAX_TEXT_BYTES)].decode(
                "utf-8", "replace"
            )
            for name, (start, size) in spans.items()
            if name not in _IMAGES
        }
        row |= feature_integers(message)
    except (ValueError, IndexError) as error:
        counter.drop("broken record", position, str(error))
        return None
    span = next((spans[name] for name in _IMAGES if name in spans), None)
    image = span and member_location("bytes", (offset + span[0], span[1]), path)
    return pair_of_shard(counter, position, row, image, spans)


def feature_values(message: bytes) -> dict[str, list[tuple[int, int]]]:
    """Finds the (offset, size) of each value of an example's features of bytes."""
    spans_of_features = {}
    fields: Callable = functools.partial(_fields, message, itertools.count())
    for features in fields(0, len(message), 1):  # Example.features
        for entry in fields(*features, 1):  # Features.feature
            # The last key and value of an entry count, were there several.
            names, values = list(fields(*entry, 1)), list(fields(*entry, 2))
            for feature in values[-1:] if names else ():
                for bytes_list in fields(*feature, 1):
                    values = list(fields(*bytes_list, 1))
                    if values:
                        name = message[slice(*names[-1])].decode()
                        spans_of_features[name] = [
                            (start, stop - start) for start, stop in values
                        ]
    return spans_of_features


def feature_integers(message: bytes) -> dict[str, int]:
    """Returns the first integer of each feature of integers of an example."""
    integers = {}
    fields: Callable = functools.partial(_fields, message, itertools.count())
    for features in fields(0, len(message), 1):  # Example.features
        for entry in fields(*features, 1):  # Features.feature
            names, values = list(fields(*entry, 1)), list(fields(*entry, 2))
            for feature in values[-1:] if names else ():
                for start, stop in fields(*feature, 3):  # Feature.int64_list
                    value = _first_integer(message, start, stop)
                    if value is not None:
                        integers[message[slice(*names[-1])].decode()] = value
    return integers


def _first_integer(message: bytes, start: int, stop: int) -> int | None:
    """Returns the first value of an Int64List, which is packed or not, or None."""
    if start == stop:
        return None
    tag, start = _varint(message, start)
    if tag == 0x0A:  # Field 1, packed: its length comes first.
        _, start = _varint(message, start)
    elif tag != 0x08:
        return None
    if start >= stop:
        return None
    return _varint(message, start)[0]


def _fields(
    message: bytes, steps: Iterator[int], start: int, stop: int, number: int
) -> Iterator[tuple[int, int]]:
    """Yields (start, stop) of a message's fields of a number; `steps` counts all."""
    while start < stop:
        if next(steps) == MAX_RECORD_FIELDS:
            raise ValueError(f"more than {MAX_RECORD_FIELDS:,} fields")
        tag, start = _varint(message, start)
        kind = tag & 7
        if kind == 2:
            length, start = _varint(message, start)
            if start + length > stop:
                raise ValueError("a field is longer than its message")
            if tag >> 3 == number:
                yield start, start + length
            start += length
        elif kind == 0:
            _, start = _varint(message, start)
        elif kind in (1, 5):
            start += 8 if kind == 1 else 4
        else:
            raise ValueError(f"no protocol buffer at byte {start}")


def _varint(message: bytes, start: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):  # Numbers have at most 64 bits.
        byte = message[start]
        start += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, start
    raise ValueError(f"a number of more than 64 bits before byte {start}")


def masked_crc(content: bytes) -> int:
    """The checksum of TFRecord files, CRC-32C with its bits turned."""
    with needs("corpus", "checksums of TFRecord files are computed by google-crc32c"):
        import google_crc32c
    crc = google_crc32c.value(content)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


TFRECORD_FILES = SourceKind(
    suffixes=(".tfrecord", ".tfrecords"),
    list_parts=whole_files,
    read=_read_part,
)
