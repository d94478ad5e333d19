"""Indexes a built corpus whose shards are TFRecord or ArrayRecord files."""

import struct

import pytest

from align_keras.corpus.sources.tfrecord_files import masked_crc
from align_keras.search import Index

CAPTIONS = {"red": ["a red wall", "paint"], "green": ["a meadow"], "blue": ["the sea"]}


def field(number, content):
    """Returns a field of a protobuf message, which contains bytes."""
    length = len(content)
    varint = b""
    while length >= 128:
        varint += bytes([length % 128 + 128])
        length //= 128
    return bytes([8 * number + 2]) + varint + bytes([length]) + content


def example(**features):
    """Returns the bytes of a `tf.train.Example`, without importing TensorFlow."""
    entries = b""
    for name, values in features.items():
        feature = field(1, b"".join(field(1, value) for value in values))
        entries += field(1, field(1, name.encode()) + field(2, feature))
    return field(1, entries)


def write_tfrecord(path, messages):
    with open(path, "wb") as file:
        for message in messages:
            for part in (struct.pack("<Q", len(message)), message):
                file.write(part + masked_crc(part).to_bytes(4, "little"))


@pytest.fixture(params=["tfrecord", "array_record"])
def shard(request, tmp_path, colors):
    """Returns the shard of a corpus with the files that an index reads."""
    folder = tmp_path / "out" / "web_pairs" / "1.0.0"
    folder.mkdir(parents=True)
    (folder / "features.json").write_text("{}")
    (tmp_path / "out" / "corpus.yaml").write_text("")
    shard = folder / f"web_pairs-train.{request.param}-00000-of-00001"
    messages = [
        example(image=[colors.image_bytes(color)], captions=map(str.encode, captions))
        for color, captions in CAPTIONS.items()
    ]
    if request.param == "tfrecord":
        write_tfrecord(shard, messages)
        return shard
    from array_record.python import array_record_module

    writer = array_record_module.ArrayRecordWriter(str(shard), "group_size:1")
    for message in messages:
        writer.write(message)
    writer.close()
    return shard


def test_images_of_a_corpus_are_indexed_with_captions(shard, tmp_path, colors):
    out = shard.parents[2]
    index = Index.build(tmp_path / "index", [out], colors.GOLDEN)
    assert index.changes.added == 3
    hit = index.query("red")[0]
    assert hit.captions == ["a red wall", "paint"]
    assert hit.columns["folder"] == "out/web_pairs/1.0.0"
    assert hit.path.endswith(f":{shard}")
    (sea,) = index.query("green", k=9, where="captions like '%sea%'")
    assert sea.captions == ["the sea"]
    assert Index.build(tmp_path / "index", [out]).changes.unchanged == 3


def test_a_corpus_in_a_subfolder_is_not_indexed(shard, tmp_path, photos, colors):
    """Only the folder that is passed as a source can be a corpus."""
    shard.parents[1].rename(photos / "data")
    index = Index.build(tmp_path / "index", [photos], colors.GOLDEN)
    assert index.changes.added == 3
    assert index.query("red")[0].path == str(photos / "red.png")


def test_a_broken_shard_removes_no_images(shard, tmp_path, colors):
    Index.build(tmp_path / "index", [shard.parent], colors.GOLDEN)
    shard.write_bytes(shard.read_bytes()[:9])
    index = Index.build(tmp_path / "index", [shard.parent])
    assert len(index) == 3 and index.changes.removed == 0
    assert sum(index.changes.unreadable.values()) == 1


@pytest.mark.parametrize("shard", ["tfrecord"], indirect=True)
def test_a_broken_record_is_skipped(shard, tmp_path, colors):
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 255
    shard.write_bytes(content)
    index = Index.build(tmp_path / "index", [shard.parent], colors.GOLDEN)
    assert len(index) == 2 and dict(index.changes.unreadable) == {"unreadable": 1}
