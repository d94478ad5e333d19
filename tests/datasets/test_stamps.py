"""Tests of the corpus stamps with a small folder in its format and with real stamps."""

import pathlib

import pytest
import tensorflow_datasets as tfds
from PIL import Image

from align_keras.datasets import open_corpus
from align_keras.datasets.stamps import STAMPS_DIR, stamp_caption

CAPTIONS = {
    "animals/cat": "A cat.\nach.utf8=x\nde.utf8=Eine Katze.\nfr.utf8=Un chat.\n",
    "animals/birds/rhea": "\ufeffA rhea.\nde.utf8=Ein Nandu.\n",
    "food/bread": "Bread.\ncs.utf8=Chléb.\n",
    "symbols/one": "One.\nde.utf8=Eins.\n",
}


@pytest.fixture
def root(tmp_path, monkeypatch):
    folder = tmp_path / "stamps"
    for number, (name, captions) in enumerate(CAPTIONS.items()):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGBA", (500, 250), (number, 0, 0, 255)).save(
            path.with_suffix(".png")
        )
        path.with_suffix(".txt").write_text(captions, "utf-8")
    Image.new("RGBA", (5, 5)).save(folder / "animals/cat_mirror.png")
    (folder / "animals/dog.svg").write_text("<svg/>")
    monkeypatch.setenv("ALIGN_KERAS_STAMPS_DIR", str(folder))
    return folder


def captions_of(builder):
    return {
        example["id"].decode(): example["captions"][0].decode()
        for example in tfds.as_numpy(builder.as_dataset(split="test"))
    }


def test_captions_are_in_english_by_default(root, tmp_path):
    builder = open_corpus("stamps", data_dir=tmp_path / "data")
    assert set(builder.info.splits) == {"test"}
    assert captions_of(builder) == {
        "animals/cat": "A cat.",
        "animals/birds/rhea": "A rhea.",
        "food/bread": "Bread.",
    }
    [example, *_] = tfds.as_numpy(builder.as_dataset(split="test"))
    assert example["image"].shape == (320, 320, 3)
    assert example["category"] in (b"animals", b"food")
    assert builder.info.metadata["dropped"] == {"no caption file": 1}


def test_the_configuration_selects_the_language(root, tmp_path):
    builder = open_corpus("stamps/de", data_dir=tmp_path / "data")
    assert captions_of(builder) == {
        "animals/cat": "Eine Katze.",
        "animals/birds/rhea": "Ein Nandu.",
    }
    assert builder.info.metadata["dropped"] == {
        "no caption file": 1,
        "no caption in de": 1,
    }
    assert builder.info.metadata["filtered"] == ["no caption file", "no caption in de"]
    assert set(captions_of(open_corpus("stamps/cs", data_dir=tmp_path / "data"))) == {
        "food/bread"
    }


def test_caption_files_with_unusual_bytes_are_read(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"Caf\xe9\tau lait\r\nde.utf8= Milch \r\nden.utf8=x\r\n")
    assert stamp_caption(path, "en") == "Caf\ufffd au lait"
    assert stamp_caption(path, "de") == "Milch"
    assert stamp_caption(path, "fr") == ""
    path.write_bytes(b"")
    assert stamp_caption(path, "en") == ""


@pytest.mark.skipif(
    not pathlib.Path(STAMPS_DIR).is_dir(), reason="needs tuxpaint-stamps-default"
)
@pytest.mark.release
def test_the_real_stamps_are_built(tmp_path, monkeypatch):
    monkeypatch.delenv("ALIGN_KERAS_STAMPS_DIR", raising=False)
    counts = {
        language: open_corpus(f"stamps/{language}", data_dir=tmp_path)
        .info.splits["test"]
        .num_examples
        for language in ("en", "de", "fr", "cs")
    }
    assert counts["en"] == 702
    assert all(650 < count <= 702 for count in counts.values())
