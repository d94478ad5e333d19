"""The images of a built corpus, each named by its record's place in a shard.

`tfrecord:OFFSET:PATH` is the record that begins there, `array_record:NUMBER:PATH` that
of a number. A path is absolute, so that no file's can be mistaken for one of these.
"""

import functools
import glob
import os
import struct
from collections.abc import Iterator

from align_keras.corpus.image import ImageError
from align_keras.corpus.sources.tfrecord_files import feature_values, masked_crc
from align_keras.utils.errors import needs
from align_keras.utils.files import MAX_FILE_BYTES, open_regular

_DESCRIPTION, _CONFIG = b"features.json", b"corpus.yaml"
_KINDS = (b"tfrecord:", b"array_record:")


def is_record(file: bytes) -> bool:
    """Says whether this names an image in a shard."""
    return file.startswith(_KINDS)


def shard_of(file: bytes) -> bytes:
    """Returns the path of a record's shard."""
    return file.split(b":", 2)[2]


def corpus_shards(folder: bytes) -> list[bytes]:
    """Finds the shards of a built corpus, in order: of a folder with `features.json`,
    or of what `corpus build --out` named, which has `corpus.yaml`; else none.
    """
    place = glob.escape(folder)
    found = glob.glob(os.path.join(place, _DESCRIPTION))
    if os.path.isfile(os.path.join(folder, _CONFIG)):
        found += sorted(glob.glob(os.path.join(place, b"*", b"*", _DESCRIPTION)))
    return [
        shard
        for file in found
        for shard in sorted(entry.path for entry in os.scandir(os.path.dirname(file)))
        if _kind(shard)
    ]


def find_records(
    shard: bytes, problems: list[tuple[bytes, str]]
) -> Iterator[tuple[bytes, int, int]]:
    """Yields a shard's records: name, size, the shard's time; `problems` get others."""
    try:
        modified = os.stat(shard).st_mtime_ns
        if _kind(shard) == b"array_record:":
            count = _array_records(shard, modified).num_records()
            if not count:  # Of a broken file, too.
                raise ValueError("holds no record")
            for number in range(count):
                yield b"array_record:%d:%b" % (number, shard), 0, modified
        else:
            with open_regular(os.fsdecode(shard)) as file:
                for offset, length in _lengths(file):
                    yield b"tfrecord:%d:%b" % (offset, shard), length, modified
    except OSError as error:
        problems.append((shard, f"shard: {error.strerror}"))
    except ValueError as error:  # ArrayRecord's, too.
        problems.append((shard, f"shard: {' '.join(str(error).split())[:100]}"))


def read_record(file: bytes) -> tuple[bytes, list[str], int, int]:
    """Reads an image, its captions, the record's size and the shard's time."""
    kind, place, shard = file.split(b":", 2)
    size = 0
    try:
        modified = os.stat(shard).st_mtime_ns
        if kind == b"array_record":
            (message,) = _array_records(shard, modified).read([int(place)])
        else:
            with open_regular(os.fsdecode(shard)) as opened:
                opened.seek(int(place))
                message = _message(opened)
            size = len(message)
        values = feature_values(message)
        captions = [
            message[start : start + length].decode("utf-8", "replace")
            for start, length in values.get("captions", [])
        ]
        (start, length), *_ = values["image"]
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ImageError("missing", f"no shard: {error.strerror}") from None
    except OSError as error:
        raise ImageError("can't be opened", f"shard: {error.strerror}") from None
    except (ValueError, IndexError, KeyError) as error:
        raise ImageError("unreadable", f"broken record: {error}") from None
    return message[start : start + length], captions, size, modified


def _kind(shard):
    name = os.path.basename(shard)
    return next((kind for kind in _KINDS if b"." + kind[:-1] + b"-" in name), None)


def _lengths(file):
    """Yields (offset, length) of a TFRecord file's records, by their headers alone."""
    end, offset = os.fstat(file.fileno()).st_size, 0
    while offset < end:
        file.seek(offset)
        length = _length(file)
        yield offset, length
        offset += length + 16
        if offset > end:
            raise ValueError("ends within a record")


def _length(file):
    header = file.read(12)
    if len(header) < 12 or masked_crc(header[:8]) != struct.unpack("<I", header[8:])[0]:
        raise ValueError("is no TFRecord, or broken")
    (length,) = struct.unpack("<Q", header[:8])
    return length


def _message(file):
    length = _length(file)
    if length > MAX_FILE_BYTES:
        raise ValueError(f"of {length:,} bytes")
    message, checksum = file.read(length), file.read(4)
    if masked_crc(message) != int.from_bytes(checksum, "little"):
        raise ValueError("wrong checksum")
    return message


@functools.lru_cache(maxsize=16)
def _array_records(shard, modified):
    with needs("corpus", "a corpus stored as array_record is read by array_record"):
        from array_record.python import array_record_module
    return array_record_module.ArrayRecordReader(os.fsdecode(shard))
