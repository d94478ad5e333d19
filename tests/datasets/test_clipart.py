"""Tests of the corpus clipart with a small folder in its format and with real files."""

import pathlib
import struct
import zlib

import pytest
import tensorflow_datasets as tfds
from PIL import Image

from align_keras.datasets import open_corpus
from align_keras.datasets.clipart import CLIPART_DIR

DRAWING = """<svg xmlns="http://www.w3.org/2000/svg"><metadata>
<rdf:RDF xmlns:cc="http://web.resource.org/cc/"
  xmlns:dc="http://purl.org/dc/elements/1.1/"
  xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><cc:Work>
<dc:title>{title}</dc:title><dc:description>{description}</dc:description>
<dc:subject><rdf:Bag><rdf:li>{keyword}</rdf:li></rdf:Bag></dc:subject>
<dc:creator><cc:Agent><dc:title>Jane Doe</dc:title></cc:Agent></dc:creator>
</cc:Work></rdf:RDF></metadata></svg>
"""


def add(root, name, title, description="", keyword="unsorted", color=(0, 0, 0)):
    for kind in ("png", "svg"):
        (root / kind / name).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 4), color).save((root / "png" / name).with_suffix(".png"))
    (root / "svg" / name).with_suffix(".svg").write_text(
        DRAWING.format(title=title, description=description, keyword=keyword), "utf-8"
    )


def chunk(kind, content):
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


@pytest.fixture
def root(tmp_path, monkeypatch):
    folder = tmp_path / "openclipart"
    add(folder, "animals/cavallo_jane_doe_01", "Cavallo", "A horse.", "mammal", "brown")
    add(folder, "unsorted/horse", "Cavallo", color="brown")
    for number in range(61):
        add(folder, f"shapes/star_{number}pt5step", "gramastar", color="gold")
    for number in range(40):
        add(folder, f"icons/thing{chr(97 + number % 26) * 3}{number // 26}", "Flat",
            color=(number, 0, 0))  # fmt: skip
    (folder / "svg/animals/cavallo_jane_doe_01.svg").chmod(0o644)
    (folder / "svg/unsorted/horse.svg").write_text("<svg><<<")
    add(folder, "computer/bomb", "A chip")
    header = struct.pack(">IIBBBBB", 16_000, 14_464, 8, 2, 0, 0, 0)
    (folder / "png/computer/bomb.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"\0" * 99)
    )
    monkeypatch.setenv("ALIGN_KERAS_CLIPART_DIR", str(folder))
    return folder


def test_a_small_collection_is_built(root, tmp_path):
    builder = open_corpus("clipart", data_dir=tmp_path / "data")
    metadata = builder.info.metadata
    assert metadata["kept"] == 42
    assert metadata["dropped"] == {
        "only captions that too many images share": 61,
        "oversized": 1,
    }
    assert metadata["filtered"] == ["only captions that too many images share"]
    assert metadata["examples"]["oversized"].startswith("computer/bomb.png: 16000 × ")
    assert metadata["notes"]["images_without_metadata"] == 1
    examples = {
        example["id"].decode(): example
        for example in tfds.as_numpy(builder.as_dataset(split="all"))
    }
    horse = examples["animals/cavallo_jane_doe_01"]
    assert horse["captions"].tolist() == [b"Cavallo", b"A horse."]
    assert horse["category"] == b"animals"
    # 8 pixels and a margin on both sides.
    assert horse["image"].shape == (10, 10, 3)
    # The image of a damaged SVG file has the file name as its caption.
    assert examples["unsorted/horse"]["captions"].tolist() == [b"horse"]
    assert examples["unsorted/horse"]["image_key"] == horse["image_key"]
    assert examples["icons/thingaaa0"]["captions"].tolist() == [b"thingaaa"]


def test_images_with_equal_pixels_are_in_the_same_split(root, tmp_path):
    builder = open_corpus("clipart", data_dir=tmp_path / "data")
    keys = {
        split: {
            example["image_key"]
            for example in tfds.as_numpy(builder.as_dataset(split=split))
        }
        for split in ("train", "test")
    }
    assert keys["test"] and not keys["train"] & keys["test"]


@pytest.mark.release
@pytest.mark.skipif(
    not pathlib.Path(CLIPART_DIR, "svg").is_dir(), reason="needs openclipart"
)
def test_the_real_collection_is_built(tmp_path, monkeypatch):
    monkeypatch.delenv("ALIGN_KERAS_CLIPART_DIR", raising=False)
    builder = open_corpus("clipart", data_dir=tmp_path)
    metadata = builder.info.metadata
    assert 6_500 < metadata["kept"] < 6_900
    assert 10 < metadata["dropped"]["oversized"] < 30
    assert set(metadata["dropped"]) == {
        "only captions that too many images share",
        "oversized",
        "white on white",
    }
    assert 100 < metadata["dropped"]["white on white"] < 150
    splits = builder.info.splits
    assert 0.03 < splits["test"].num_examples / metadata["kept"] < 0.07
