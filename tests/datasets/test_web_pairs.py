import hashlib
import io
import json
import pathlib
import subprocess
import sys

import pytest
import tensorflow_datasets as tfds
from PIL import Image

from align_keras.config import DataConfig
from align_keras.config.corpus_config import ShardsConfig
from align_keras.datasets.build import damaged_shards, open_corpus, quiet
from align_keras.datasets.web_pairs import SHARDS, WebPairs, write_web_pairs
from align_keras.runs.run_corpora import prepare_corpus
from align_keras.utils.errors import InputError

ROOT = pathlib.Path(__file__).parents[2]


PICTURES = {"shorter_side": 346, "keep_aspect": True}


def pictures(count=40):
    for number in range(count):
        file = io.BytesIO()
        Image.new("RGB", (8 + number, 9), (number, 0, 99)).save(file, "JPEG")
        key = hashlib.sha256(bytes([number])).hexdigest()[:32]
        texts = {
            name: [f"{name} {number} {place}" for place in range(number % 3 + 1)]
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
            images=pictures,
            description="Pairs of a test.",
            notes={"config": {"sources": ["html:ä"], "pictures": PICTURES}},
            data_dir=str(folder),
            **options,
        )
        builder.download_and_prepare()
    return pathlib.Path(builder.data_dir)


def read(folder, split):
    """Reads a split back by TFDS, which has another way for ArrayRecord."""
    builder = tfds.builder_from_directory(folder)
    skip = {"image": tfds.decode.SkipDecoding()}
    if builder.info.file_format.value == "array_record":
        rows = builder.as_data_source(split, decoders=skip)
    else:
        rows = tfds.as_numpy(builder.as_dataset(split, decoders=skip))
    return builder, {bytes(row["id"]).decode(): row for row in rows}


@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
def test_everything_comes_back(tmp_path, file_format, capfd):
    if file_format == "array_record":
        pytest.importorskip("array_record")
    folder = build(tmp_path, file_format=file_format)
    assert capfd.readouterr().out == ""
    builder, found = read(folder, "train")
    notes = {"sources": ["html:ä"], "pictures": PICTURES}
    assert builder.info.metadata["config"] == notes
    assert list(builder.info.splits) == ["train"]
    expected = {own["id"]: own for own in pictures()}
    assert set(found) == set(expected)
    for key, own in expected.items():
        row = found[key]
        assert row["category"] == b""
        for name, value in own.items():
            if isinstance(value, list):
                assert [text.decode() for text in row[name]] == value
            elif isinstance(value, str):
                assert row[name].decode() == value
            else:
                assert row[name] == value


def test_the_test_split_is_of_the_pixels(tmp_path):
    folder = build(tmp_path / "a", test_fraction=0.3)
    _, train = read(folder, "train")
    _, test = read(folder, "test")
    assert len(train) + len(test) == 40 and not set(train) & set(test)
    assert 3 < len(test) < 25
    # More go to the test, none of it comes back.
    _, more = read(build(tmp_path / "b", test_fraction=0.5), "test")
    assert set(test) < set(more)


SCRIPT = """
import pathlib, sys
from tests.datasets.test_web_pairs import build
build(pathlib.Path(sys.argv[1]), file_format=sys.argv[2])
"""


@pytest.mark.release
@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
def test_equal_pictures_are_equal_bytes_in_any_process(tmp_path, file_format):
    if file_format == "array_record":
        pytest.importorskip("array_record")
    build(tmp_path / "here", file_format=file_format)
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "there"), file_format]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    made = {}
    for place in ("here", "there"):
        files = [path for path in (tmp_path / place).rglob("*") if path.is_file()]
        made[place] = {path.name: path.read_bytes() for path in files}
    assert len(made["here"]) >= 4
    assert made["here"] == made["there"]


def test_a_corpus_that_training_would_enlarge_is_refused(tmp_path):
    folder = build(tmp_path)
    data = DataConfig(corpus=str(folder))
    assert prepare_corpus(data, 289).info.splits["train"].num_examples == 40
    words = r"at least 569 pixels.*with 346; .*images\.shorter_side=569"
    with pytest.raises(InputError, match=words):
        prepare_corpus(data, 475)
    # Evaluation takes what there is.
    assert open_corpus(str(folder)).info.splits["train"].num_examples == 40


def test_shards_that_differ_from_their_index_are_named(tmp_path):
    config = ShardsConfig(test_fraction=0.0)
    write_web_pairs(tmp_path, pictures, config, notes={})
    folder = tmp_path / SHARDS
    assert damaged_shards(str(folder), whole=True) == []
    index = folder / "index.json"
    shards = json.loads(index.read_text())["shards"]
    index.rename(tmp_path / "index.json")
    assert damaged_shards(str(folder), whole=True) == []  # Without an index.
    (tmp_path / "index.json").rename(index)
    [name] = [shard["file"] for shard in shards]
    content = bytearray((folder / name).read_bytes())
    content[100] ^= 1
    (folder / name).write_bytes(content)
    assert damaged_shards(str(folder)) == []  # By the size.
    assert damaged_shards(str(folder), whole=True) == [name]
    (folder / name).write_bytes(content[:-1])
    with pytest.raises(InputError, match=f"{name} lacks or differs from index.json"):
        open_corpus(str(folder))
