"""Shards by TensorFlow's own writer, and broken ones."""

import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from align_keras.corpus.sources import read_location, tfrecord_files
from align_keras.corpus.sources.tfrecord_files import (
    feature_integers,
    feature_values,
    masked_crc,
)
from tests.helpers.source_reading import IMG2DATASET, read_source

SHARD = IMG2DATASET / "tfrecord/00000.tfrecord"


def test_shards_of_img2dataset():
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


def test_tensorflow_reads_the_same(tmp_path):
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
        {"caption": b"no picture"},
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
            } == {name: own for name, own in row.items() if isinstance(own, bytes)}
            integers = {name: own for name, own in row.items() if type(own) is int}
            assert feature_integers(message) == integers
    pairs, counter = read_source(path)
    assert [pair.caption for pair in pairs] == ["Käse", "cat"]
    assert [read_location(pair.image) for pair in pairs] == [bytes(300), b"\xff"]
    assert counter.bad == {"missing": 1} and counter.filtered == {"not downloaded": 1}


def test_every_cut_keeps_the_records_before_it(tmp_path):
    content = SHARD.read_bytes()
    first = struct.unpack_from("<Q", content)[0] + 16
    path = tmp_path / "a.tfrecord"
    for size in range(0, len(content), 7):
        path.write_bytes(content[:size])
        pairs, counter = read_source(path)
        assert len(pairs) == (size >= first), size
        reason = "truncated shard" if size else "empty shard"
        assert counter.bad == ({} if size == first else {reason: 1})


def test_wrong_lengths_are_found(tmp_path):
    content = bytearray(SHARD.read_bytes())
    first = struct.unpack_from("<Q", content)[0] + 16
    content[first] ^= 1
    path = tmp_path / "a.tfrecord"
    path.write_bytes(content)
    pairs, counter = read_source(path)
    assert len(pairs) == 1 and counter.bad == {"broken record": 1}


def test_a_broken_message_costs_itself_alone(tmp_path):
    content = bytearray(SHARD.read_bytes())
    first = struct.unpack_from("<Q", content)[0] + 16
    content[12:40] = b"\xff" * 28
    content[first - 4 : first] = masked_crc(bytes(content[12 : first - 4])).to_bytes(
        4, "little"
    )
    path = tmp_path / "a.tfrecord"
    path.write_bytes(content + content[first:])
    pairs, counter = read_source(path)
    assert len(pairs) == 2 and counter.bad == {"broken record": 1}


def test_a_flipped_bit_of_a_caption_is_found(tmp_path):
    content = bytearray(SHARD.read_bytes())
    content[content.index(b'"red"')] ^= 1
    path = tmp_path / "a.tfrecord"
    path.write_bytes(content)
    pairs, counter = read_source(path)
    assert [pair.caption for pair in pairs] == ["Käse auf 木"]
    assert counter.bad == {"broken record": 1}
    assert "checksum" in counter.examples["broken record"]


@pytest.mark.parametrize("message", [b"\xff" * 1_000_000, b"\x0a\0" * 1_001])
def test_long_numbers_and_many_fields_take_no_time(message, monkeypatch):
    monkeypatch.setattr(tfrecord_files, "MAX_RECORD_FIELDS", 1_000)
    with pytest.raises(ValueError, match="64 bits|fields"):
        feature_values(message)


@given(st.binary(max_size=100))
def test_noise_is_no_message(noise):
    try:
        for spans in feature_values(noise).values():
            assert all(0 <= s <= s + size <= len(noise) for s, size in spans)
    except (ValueError, IndexError):
        pass


def test_the_checksum_against_a_record_of_tensorflow():
    content = SHARD.read_bytes()
    [expected] = struct.unpack_from("<I", content, 8)
    assert masked_crc(content[:8]) == expected
