"""A built corpus as the source of an index: shards by TensorFlow and ArrayRecord."""

import pytest

from align_keras.search import Index

CAPTIONS = {"red": ["a red wall", "paint"], "green": ["a meadow"], "blue": ["the sea"]}


@pytest.fixture(params=["tfrecord", "array_record"])
def shard(request, tmp_path, colors):
    """`--out` of a corpus, as far as an index reads it."""
    import tensorflow as tf

    def values(*texts):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=texts))

    place = tmp_path / "out" / "web_pairs" / "1.0.0"
    place.mkdir(parents=True)
    (place / "features.json").write_text("{}")
    (tmp_path / "out" / "corpus.yaml").write_text("")
    shard = place / f"web_pairs-train.{request.param}-00000-of-00001"
    if request.param == "tfrecord":
        writer = tf.io.TFRecordWriter(str(shard))
    else:
        from array_record.python import array_record_module

        writer = array_record_module.ArrayRecordWriter(str(shard), "group_size:1")
    for color, captions in CAPTIONS.items():
        features = {
            "image": values(colors.image_bytes(color)),
            "captions": values(*map(str.encode, captions)),
        }
        example = tf.train.Example(features=tf.train.Features(feature=features))
        writer.write(example.SerializeToString())
    writer.close()
    return shard


def test_its_images_are_found(shard, tmp_path, colors):
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


def test_photos_above_a_data_set_are_photos(shard, tmp_path, photos, colors):
    """Only the folder that is named is looked at for a corpus."""
    shard.parents[1].rename(photos / "data")
    index = Index.build(tmp_path / "index", [photos], colors.GOLDEN)
    assert index.changes.added == 3
    assert index.query("red")[0].path == str(photos / "red.png")


def test_a_broken_shard_empties_no_index(shard, tmp_path, colors):
    Index.build(tmp_path / "index", [shard.parent], colors.GOLDEN)
    shard.write_bytes(shard.read_bytes()[:9])
    index = Index.build(tmp_path / "index", [shard.parent])
    assert len(index) == 3 and index.changes.gone == 0
    assert sum(index.changes.unreadable.values()) == 1


@pytest.mark.parametrize("shard", ["tfrecord"], indirect=True)
def test_a_broken_record_is_left_out(shard, tmp_path, colors):
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 255
    shard.write_bytes(content)
    index = Index.build(tmp_path / "index", [shard.parent], colors.GOLDEN)
    assert len(index) == 2 and dict(index.changes.unreadable) == {"unreadable": 1}
