"""Tests of the reader of shards, against TensorFlow Datasets."""

import os
import shutil
import subprocess
import sys

import pytest

from align_keras.corpus.shard_folder import (
    has_all_shards,
    index_digest,
    place_shards,
    read_shard,
    shard_counts,
)
from align_keras.utils.errors import InputError
from tests.helpers.scored_corpus import write_shards


@pytest.fixture(
    scope="module",
    params=["tfrecord", pytest.param("array_record", marks=pytest.mark.ci)],
)
def shards(request, tmp_path_factory):
    if request.param == "array_record":
        pytest.importorskip("array_record")
    return write_shards(tmp_path_factory.mktemp("corpus"), file_format=request.param)


def read_all(folder):
    return [
        image
        for name, count in shard_counts(folder).items()
        for image in read_shard(os.path.join(folder, name), count)
    ]


def test_images_and_captions_equal_those_that_tfds_reads(shards):
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(shards)
    skip = {"image": tfds.decode.SkipDecoding()}
    expected = {}
    for split in builder.info.splits:
        if builder.info.file_format.value == "array_record":
            rows = builder.as_data_source(split, decoders=skip)
        else:
            rows = tfds.as_numpy(builder.as_dataset(split, decoders=skip))
        expected |= {bytes(row["id"]).decode(): row for row in rows}
    images = read_all(shards)
    assert sorted(image.id for image in images) == sorted(expected)
    for image in images:
        row = expected[image.id]
        assert image.image == bytes(row["image"])
        assert image.captions == [text.decode() for text in row["captions"]]
        assert image.languages == [text.decode() for text in row["languages"]]


def test_damaged_shards_are_reported_in_one_line(shards, tmp_path):
    folder = shutil.copytree(shards, tmp_path / "shards")
    name, count = next(iter(shard_counts(folder).items()))
    path = folder / name
    with pytest.raises(InputError, match=str(count + 1)):
        list(read_shard(path, count + 1))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="shard") as caught:
        list(read_shard(path, count))
    assert "\n" not in str(caught.value)


def test_a_folder_without_shards_is_reported(tmp_path):
    with pytest.raises(InputError, match="index.json"):
        shard_counts(tmp_path)


def test_equal_shards_are_placed_once(shards, tmp_path):
    place_shards(shards, tmp_path / "placed")
    assert index_digest(tmp_path / "placed") == index_digest(shards)
    before = (tmp_path / "placed").stat().st_mtime_ns
    place_shards(shards, tmp_path / "placed")
    assert (tmp_path / "placed").stat().st_mtime_ns == before


@pytest.mark.parametrize("is_missing", [True, False])
def test_damaged_shards_are_placed_again(shards, tmp_path, is_missing):
    # Hard links would damage the shards of the other tests.
    source = shutil.copytree(shards, tmp_path / "source")
    placed = tmp_path / "placed"
    shutil.copytree(shards, placed)
    name = next(iter(shard_counts(placed)))
    if is_missing:
        (placed / name).unlink()
    else:
        os.truncate(placed / name, 10)
    assert has_all_shards(source) and not has_all_shards(placed)
    place_shards(source, placed)
    assert (placed / name).read_bytes() == (shards / name).read_bytes()
    assert has_all_shards(placed) and not has_all_shards(tmp_path)


@pytest.mark.ci
def test_shards_are_read_without_tensorflow(shards):
    script = """
import sys
from align_keras.corpus.shard_folder import read_shard, shard_counts
for name, count in shard_counts(sys.argv[1]).items():
    assert len(list(read_shard(f"{sys.argv[1]}/{name}", count))) == count
assert "tensorflow" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script, str(shards)], check=True)
