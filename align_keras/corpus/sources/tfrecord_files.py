"""Sources of the kind `tfrecord`: shards of `tf.train.Example` from img2dataset.

The files are parsed without TensorFlow, whose import takes seconds and 700 MB in each
worker. This parser also returns the position of an image in the file.
"""

import functools
import itertools
import struct
from collections.abc import Callable, Iterator
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
    MAX_TEXT_BYTES,
    MAX_TFRECORD_BYTES,
    whole_files,
)
from align_keras.corpus.sources.uid_subset import UidFilter
from align_keras.utils.errors import needs
from align_keras.utils.files import open_regular, size_of

_IMAGE_FEATURES = ("jpg", "jpeg", "png", "webp", "image")
# Maximum number of fields of a record. A damaged record can have any number of fields.
MAX_RECORD_FIELDS = 1_000_000


def _read_part(part: Part, counter: DropCounter) -> Iterator[SourcePair]:
    """Yields the pairs of a shard in its order."""
    uid_filter = UidFilter(part, counter)
    with open_regular(part.path) as file:
        for offset, message in read_messages(file, part.path, counter):
            yield from _pairs(part, offset, message, uid_filter, counter)
    uid_filter.finish()


def read_messages(
    file: IO[bytes], path: str, counter: DropCounter
) -> Iterator[tuple[int, bytes]]:
    """Yields (offset, bytes) of each record's message, and counts damaged records.

    Args:
        file: opened TFRecord file.
        path: path of the file for the messages of `counter`.
        counter: `DropCounter` of damaged records.
    """
    size = size_of(file)
    offset = 0
    while offset < size:
        header = file.read(12)
        if len(header) < 12:
            counter.drop("truncated shard", path, f"at byte {offset}")
            return
        length, checksum = struct.unpack("<QI", header)
        # After a wrong length, the position of the next record is unknown.
        if masked_crc(header[:8]) != checksum:
            detail = f"wrong checksum at byte {offset}, later records cannot be read"
            counter.drop("broken record", path, detail)
            return
        if offset + length + 16 > size:
            detail = f"the record at byte {offset} is incomplete"
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


def _pairs(
    part: Part,
    offset: int,
    message: bytes,
    uid_filter: UidFilter,
    counter: DropCounter,
) -> list[SourcePair]:
    """Returns the pairs of a record, or counts the reason why it has no pair."""
    position = f"{part.path} byte {offset}"
    try:
        # The first value of each feature is used.
        spans = {name: values[0] for name, values in feature_values(message).items()}
        row: dict[str, Any] = {
            name: message[start : start + min(size, MAX_TEXT_BYTES)].decode(
                "utf-8", "replace"
            )
            for name, (start, size) in spans.items()
            if name not in _IMAGE_FEATURES
        }
        row |= feature_integers(message)
    except (ValueError, IndexError) as error:
        counter.drop("broken record", position, str(error))
        return []
    if not uid_filter.keeps(row, position):
        return []
    span = next((spans[name] for name in _IMAGE_FEATURES if name in spans), None)
    image = span and member_location("bytes", (offset + span[0], span[1]), part.path)
    pair = pair_of_shard(counter, position, row, image, spans)
    return pairs_of_sources(pair, row, part)


def feature_values(message: bytes) -> dict[str, list[tuple[int, int]]]:
    """Finds the values of the bytes features of a `tf.train.Example`.

    Args:
        message: serialized example.

    Returns:
        Name of a feature → list of tuples (offset, size) in the message.

    Raises:
        ValueError or IndexError: if the message is damaged.
    """
    spans_of_features = {}
    fields: Callable = functools.partial(_fields, message, itertools.count())
    for features in fields(0, len(message), 1):  # Example.features
        for entry in fields(*features, 1):  # Features.feature
            # If an entry repeats its key or value, the last one is valid.
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
    """Returns the first value of each integer feature of a `tf.train.Example`.

    Args:
        message: serialized example.

    Returns:
        Name of a feature → int.

    Raises:
        ValueError or IndexError: if the message is damaged.
    """
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
    """Returns the first value of an `Int64List`, or None if it is empty."""
    if start == stop:
        return None
    tag, start = _varint(message, start)
    if tag == 0x0A:  # A packed list begins with its length.
        _, start = _varint(message, start)
    elif tag != 0x08:  # Only the tag of a single value is valid here.
        return None
    if start >= stop:
        return None
    return _varint(message, start)[0]


def _fields(
    message: bytes, steps: Iterator[int], start: int, stop: int, number: int
) -> Iterator[tuple[int, int]]:
    """Yields the positions (start, stop) of the fields that have a field number."""
    # `steps` counts the fields of the whole record, and raises ValueError if there are
    # more than `MAX_RECORD_FIELDS`.
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
            raise ValueError(f"an invalid protocol buffer at byte {start}")


def _varint(message: bytes, start: int) -> tuple[int, int]:
    """Decodes a variable-length integer. Returns it and the position after it."""
    value = 0
    for shift in range(0, 70, 7):  # Numbers have at most 64 bits.
        byte = message[start]
        start += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, start
    raise ValueError(f"a number of more than 64 bits before byte {start}")


def masked_crc(content: bytes) -> int:
    """Returns the checksum of TFRecord files, a CRC-32C that is rotated and shifted."""
    with needs("corpus", "Checksums of TFRecord files need google-crc32c"):
        import google_crc32c
    crc = google_crc32c.value(content)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


TFRECORD_FILES = SourceKind(
    suffixes=(".tfrecord", ".tfrecords"),
    list_parts=whole_files,
    read=_read_part,
)
