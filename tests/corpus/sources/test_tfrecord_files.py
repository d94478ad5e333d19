"""Tests of TFRecord files from TensorFlow and img2dataset, complete and damaged."""

import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from align_keras.corpus.sources import tfrecord_files
from align_keras.corpus.sources.location import read_location
from align_keras.corpus.sources.tfrecord_files import (
    feature_integers,
    feature_values,
    masked_crc,
)
from tests.helpers.source_case import SourceCase
from tests.helpers.source_reading import IMG2DATASET, read_source

SHARD = IMG2DATASET / "tfrecord/00000.tfrecord"


def field(number, content):
    """Returns a field of bytes of a protocol buffer."""
    size = len(content)
    length = [size] if size < 128 else [size & 127 | 128, size >> 7]
    return bytes([number << 3 | 2, *length]) + content


def record(**features):
    """Returns a record of a TFRecord file."""
    entries = [
        field(1, field(1, name.encode()) + field(2, field(1, field(1, value))))
        for name, value in features.items()
    ]
    message = field(1, b"".join(entries))
    header = struct.pack("<Q", len(message))
    checksums = [masked_crc(part).to_bytes(4, "little") for part in (header, message)]
    return header + checksums[0] + message + checksums[1]


class TestTFRecord(SourceCase):
    kind = "tfrecord"
    path = "a.tfrecord"
    pairs = [("A cat", "caption", "en"), ("A dog", "caption", "de")]
    images = [b"cat" * 50, b"dog"]
    counts_losses = True

    def write(self, folder):
        first = record(jpg=self.images[0], caption=b"A cat", language=b"en")
        second = record(jpg=self.images[1], caption=b"A dog", language=b"de")
        (folder / "a.tfrecord").write_bytes(first + second)


def test_shards_of_img2dataset_are_read():
    pairs, counter = read_source(IMG2DATASET / "tfrecord")
    assert {pair.original_size for pair in pairs} == {(32, 24)}
    assert sorted(pair[1:5] for pair in pairs) == [
        ('A "red" cat, seen', "alt", "en", "https://example.org/p"),
        ("Käse auf 木", "title", "de", "https://example.org/q"),
    ]
    stored = {
        read_location(pair.image) for pair in read_source(IMG2DATASET / "webdataset")[0]
    }
    assert {read_location(pair.image) for pair in pairs} == stored
    for content in stored:
        assert Image.open(io.BytesIO(content)).size == (32, 24)
    assert counter.bad == {"empty caption": 1}


def test_shards_of_tensorflow_are_read(tmp_path):
    tf = pytest.importorskip("tensorflow")

    def feature(value):
        if isinstance(value, bytes):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value, b"2"]))
        if isinstance(value, int):
            return tf.train.Feature(int64_list=tf.train.Int64List(value=[value, -1]))
        return tf.train.Feature(float_list=tf.train.FloatList(value=[value]))

    rows = [
        {"jpg": bytes(300), "caption": "Käse".encode(), "width": 3, "nsfw": 0.5},
        {"image": b"\xff", "txt": b"cat", "status": b"success", "x": b""},
        {"caption": b"no image"},
        {"jpg": b"x", "caption": b"lost", "status": b"failed_to_resize"},
    ]
    path = tmp_path / "a #1.tfrecord"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for row in rows:
            features = {name: feature(value) for name, value in row.items()}
            features["empty"] = tf.train.Feature()
            example = tf.train.Example(features=tf.train.Features(feature=features))
            message = example.SerializeToString()
            writer.write(message)
            assert {
                name: message[start : start + size]
                for name, [(start, size), *_] in feature_values(message).items()
            } == {
                name: value for name, value in row.items() if isinstance(value, bytes)
            }
            integers = {
                name: value for name, value in row.items() if type(value) is int
            }
            assert feature_integers(message) == integers
    pairs, counter = read_source(path)
    assert [pair.caption for pair in pairs] == ["Käse", "cat"]
    assert [read_location(pair.image) for pair in pairs] == [bytes(300), b"\xff"]
    assert counter.bad == {"missing": 1} and counter.filtered == {"not downloaded": 1}


def end_of_first_record(content):
    return struct.unpack_from("<Q", content)[0] + 16


def test_a_truncated_shard_has_the_records_before_its_end(tmp_path):
    content = SHARD.read_bytes()
    first_end = end_of_first_record(content)
    path = tmp_path / "a.tfrecord"
    for size in range(0, len(content), 50):
        path.write_bytes(content[:size])
        pairs, counter = read_source(path)
        assert len(pairs) == (size >= first_end), size
        reason = "truncated shard" if size else "empty shard"
        assert counter.bad == ({} if size == first_end else {reason: 1})


def test_a_wrong_length_is_counted(tmp_path):
    content = bytearray(SHARD.read_bytes())
    content[end_of_first_record(content)] ^= 1
    path = tmp_path / "a.tfrecord"
    path.write_bytes(content)
    pairs, counter = read_source(path)
    assert len(pairs) == 1 and counter.bad == {"broken record": 1}


def test_only_a_damaged_message_is_dropped(tmp_path):
    content = bytearray(SHARD.read_bytes())
    end = end_of_first_record(content)
    content[12:40] = b"\xff" * 28
    checksum = masked_crc(bytes(content[12 : end - 4]))
    content[end - 4 : end] = checksum.to_bytes(4, "little")
    path = tmp_path / "a.tfrecord"
    path.write_bytes(content + content[end:])
    pairs, counter = read_source(path)
    assert len(pairs) == 2 and counter.bad == {"broken record": 1}


def test_a_caption_with_a_changed_bit_is_dropped(tmp_path):
    content = bytearray(SHARD.read_bytes())
    content[content.index(b'"red"')] ^= 1
    path = tmp_path / "a.tfrecord"
    path.write_bytes(content)
    pairs, counter = read_source(path)
    assert [pair.caption for pair in pairs] == ["Käse auf 木"]
    assert counter.bad == {"broken record": 1}
    assert "checksum" in counter.examples["broken record"]


@pytest.mark.parametrize("message", [b"\xff" * 1_000_000, b"\x0a\0" * 1_001])
def test_long_numbers_and_many_fields_raise_an_error(message, monkeypatch):
    monkeypatch.setattr(tfrecord_files, "MAX_RECORD_FIELDS", 1_000)
    with pytest.raises(ValueError, match="64 bits|fields"):
        feature_values(message)


@given(st.binary(max_size=100))
def test_noise_gives_valid_spans_or_an_error(noise):
    try:
        for spans in feature_values(noise).values():
            for start, size in spans:
                assert 0 <= start <= start + size <= len(noise)
    except (ValueError, IndexError):
        pass
