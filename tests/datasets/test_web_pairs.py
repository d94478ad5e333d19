"""Tests of the TFDS builder and the shards of a corpus."""

import hashlib
import io
import json
import pathlib
import subprocess
import sys

import pytest
import tensorflow_datasets as tfds
from PIL import Image

from align_keras.config.corpus_config import ShardsConfig
from align_keras.config.data_config import DataConfig
from align_keras.corpus.shard_folder import SHARDS
from align_keras.datasets.named_corpora import damaged_shards, open_corpus
from align_keras.datasets.pair_builder import quiet
from align_keras.datasets.web_pairs import WebPairs, write_web_pairs
from align_keras.runs.run_corpora import prepare_corpus
from align_keras.utils.errors import InputError

ROOT = pathlib.Path(__file__).parents[2]


IMAGE_CONFIG = {"shorter_side": 346, "keep_aspect": True}


def image_examples(count=40):
    for number in range(count):
        file = io.BytesIO()
        Image.new("RGB", (8 + number, 9), (number, 0, 99)).save(file, "JPEG")
        key = hashlib.sha256(bytes([number])).hexdigest()[:32]
        texts = {
            name: [f"{name} {number} {index}" for index in range(number % 3 + 1)]
            for name in ("captions", "rules", "languages", "page_urls", "sources")
        }
        yield {
            "id": f"{number:03}",
            "image": file.getvalue(),
            "image_key": key,
            "width": 800 + number,
            "height": 900,
            "location": f"/{number}.png",
            **texts,
        }


def build(folder, **options):
    with quiet():
        builder = WebPairs(
            images=image_examples,
            description="Pairs of a test.",
            notes={"config": {"sources": ["html:ä"], "images": IMAGE_CONFIG}},
            data_dir=str(folder),
            **options,
        )
        builder.download_and_prepare()
    return pathlib.Path(builder.data_dir)


def read(folder, split):
    """Reads a split with TFDS. Returns the builder and the examples by id."""
    builder = tfds.builder_from_directory(folder)
    skip = {"image": tfds.decode.SkipDecoding()}
    if builder.info.file_format.value == "array_record":
        rows = builder.as_data_source(split, decoders=skip)
    else:
        rows = tfds.as_numpy(builder.as_dataset(split, decoders=skip))
    return builder, {bytes(row["id"]).decode(): row for row in rows}


@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
def test_stored_examples_equal_the_written_examples(tmp_path, file_format, capfd):
    if file_format == "array_record":
        pytest.importorskip("array_record")
    folder = build(tmp_path, file_format=file_format)
    assert capfd.readouterr().out == ""
    builder, stored = read(folder, "train")
    notes = {"sources": ["html:ä"], "images": IMAGE_CONFIG}
    assert builder.info.metadata["config"] == notes
    assert list(builder.info.splits) == ["train"]
    expected = {example["id"]: example for example in image_examples()}
    assert set(stored) == set(expected)
    for key, example in expected.items():
        row = stored[key]
        assert row["category"] == b""
        for name, value in example.items():
            if isinstance(value, list):
                assert [text.decode() for text in row[name]] == value
            elif isinstance(value, str):
                assert row[name].decode() == value
            else:
                assert row[name] == value


def test_the_test_split_is_chosen_by_the_pixels(tmp_path):
    folder = build(tmp_path / "a", test_fraction=0.3)
    _, train = read(folder, "train")
    _, test = read(folder, "test")
    assert len(train) + len(test) == 40 and not set(train) & set(test)
    assert 3 < len(test) < 25
    # A larger fraction adds images to the test split and removes none.
    _, larger_test = read(build(tmp_path / "b", test_fraction=0.5), "test")
    assert set(test) < set(larger_test)


SCRIPT = """
import pathlib, sys
from tests.datasets.test_web_pairs import build
build(pathlib.Path(sys.argv[1]), file_format=sys.argv[2])
"""


@pytest.mark.release
@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
def test_two_processes_write_equal_bytes(tmp_path, file_format):
    if file_format == "array_record":
        pytest.importorskip("array_record")
    build(tmp_path / "first", file_format=file_format)
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "second"), file_format]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    contents = {}
    for name in ("first", "second"):
        files = [path for path in (tmp_path / name).rglob("*") if path.is_file()]
        contents[name] = {path.name: path.read_bytes() for path in files}
    assert len(contents["first"]) >= 4
    assert contents["first"] == contents["second"]


def test_images_too_small_for_training_raise(tmp_path):
    folder = build(tmp_path)
    data = DataConfig(corpus=str(folder))
    assert prepare_corpus(data, 289).info.splits["train"].num_examples == 40
    with pytest.raises(InputError, match="569"):
        prepare_corpus(data, 475)
    # Evaluation accepts images of any size.
    assert open_corpus(str(folder)).info.splits["train"].num_examples == 40


def test_shards_that_differ_from_their_index_are_named(tmp_path):
    config = ShardsConfig(test_fraction=0.0)
    write_web_pairs(tmp_path, image_examples, config, notes={})
    folder = tmp_path / SHARDS
    assert damaged_shards(str(folder), whole=True) == []
    index = folder / "index.json"
    shards = json.loads(index.read_text())["shards"]
    index.rename(tmp_path / "index.json")
    # Without an index, there is nothing to compare.
    assert damaged_shards(str(folder), whole=True) == []
    (tmp_path / "index.json").rename(index)
    [name] = [shard["file"] for shard in shards]
    content = bytearray((folder / name).read_bytes())
    content[100] ^= 1
    (folder / name).write_bytes(content)
    # The size has not changed, so only the checksum differs.
    assert damaged_shards(str(folder)) == []
    assert damaged_shards(str(folder), whole=True) == [name]
    (folder / name).write_bytes(content[:-1])
    with pytest.raises(InputError, match=name):
        open_corpus(str(folder))
