"""Tests of folders of prepared images, alone and in mixtures."""

import json
import os

import tensorflow_datasets as tfds
from PIL import Image

from align_keras.config.data_config import DataConfig
from align_keras.datasets import PreparedPairs, open_corpus
from align_keras.runs.run_corpora import prepare_corpus


def write_folder(folder, sizes):
    """Writes a folder whose images have the given numbers of pixels per side."""
    (folder / "images").mkdir(parents=True)
    rows = []
    for number, size in enumerate(sizes):
        name = f"images/{number}.png"
        image = Image.new("RGB", (size, size), (number, 0, 0))
        image.save(folder / name, compress_level=6)
        row = {"id": f"a/{number}", "image": name, "caption": [f"red {number}", "red"]}
        row |= {"category": "colors", "split": "test" if number == 1 else "train"}
        rows.append(row)
    table = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "pairs.jsonl").write_text(table)
    return str(folder)


def read(builder, split="all"):
    return {
        row["id"].decode(): row
        for row in tfds.as_numpy(
            builder.as_dataset(
                split=split, decoders={"image": tfds.decode.SkipDecoding()}
            )
        )
    }


def test_a_folder_is_stored_unchanged(tmp_path):
    folder = write_folder(tmp_path / "colors", (320, 80, 9))
    builder = open_corpus(folder, data_dir=tmp_path / "data")
    assert isinstance(builder, PreparedPairs)
    assert set(read(builder, "test")) == {"a/1"}
    rows = read(builder)
    assert set(rows) == {"a/0", "a/1", "a/2"}
    for number, name in enumerate(sorted(rows)):
        assert rows[name]["captions"].tolist() == [b"red %d" % number, b"red"]
        assert rows[name]["category"] == b"colors"
        file = tmp_path / f"colors/images/{number}.png"
        assert rows[name]["image"] == file.read_bytes()


def test_a_changed_folder_is_read_again(tmp_path):
    folder = write_folder(tmp_path / "colors", (9, 9))
    before = open_corpus(folder, data_dir=tmp_path / "data").builder_config.name
    assert open_corpus(folder, data_dir=tmp_path / "data").builder_config.name == before
    os.utime(tmp_path / "colors/images/0.png", (0, 0))
    after = open_corpus(folder, data_dir=tmp_path / "data").builder_config.name
    assert after != before


def test_a_mixture_may_have_several_folders(tmp_path):
    folders = [write_folder(tmp_path / name, (9, 9, 9, 9)) for name in "ab"]
    data = DataConfig(
        corpus="+".join(folders),
        corpus_repeats={folders[1]: 3},
        tfds_data_dir=str(tmp_path / "data"),
    )
    mixture = prepare_corpus(data, image_size=64)
    assert mixture.shares(dict.fromkeys(folders, 4)) == [4, 12]
    ids = {row["id"].decode() for row in tfds.as_numpy(mixture.as_dataset(split="all"))}
    assert len(ids) == 8 and f"{folders[1]}/a/0" in ids
