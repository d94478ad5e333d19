"""Tests of the stamps as a classification data set."""

import pathlib

import numpy as np
import pytest
from PIL import Image

from align_keras.datasets import open_corpus
from align_keras.datasets.benchmarks.tfds_images import stamps_by_category
from align_keras.datasets.stamps import STAMPS_DIR, Stamps

CATEGORIES = {"animals": 12, "naturalforces": 3, "town": 9}


@pytest.fixture(scope="module")
def builder(tmp_path_factory):
    """A prepared corpus of stamps with the layout of tuxpaint-stamps-default."""
    root = tmp_path_factory.mktemp("root")
    random = np.random.default_rng(0)
    for category, count in CATEGORIES.items():
        (root / category / "sub").mkdir(parents=True)
        for number in range(count):
            pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            if number == 1 and category == "town":
                pixels = np.zeros((8, 8, 3), np.uint8)
            path = root / category / "sub" / f"{number}.png"
            Image.fromarray(pixels).save(path)
            path.with_suffix(".txt").write_text(f"Thing {number}.\n")
    for name in ("a", "b", "c"):  # Images equal to one in the category town.
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(root / f"town/{name}.png")
        (root / f"town/{name}.txt").write_text("Black.\n")
    builder = Stamps(root=root, data_dir=tmp_path_factory.mktemp("data"))
    builder.download_and_prepare()
    return builder


def test_categories_are_classes(builder):
    data = stamps_by_category(builder)
    assert data.class_names == ["animals", "natural forces", "town"]
    assert np.bincount(data.labels).tolist() == [12, 3, 12]
    assert all(image.startswith(b"\x89PNG") for image in data.images)


def test_the_halves_are_complete_and_equal_images_are_in_the_same_half(builder):
    train, test, both = (
        stamps_by_category(builder, split) for split in ("train", "test", "all")
    )
    assert train.class_names == test.class_names == both.class_names
    assert len(train.images) > 6 and len(test.images) > 6
    assert sorted([*train.images, *test.images]) == sorted(both.images)
    assert not set(train.images) & set(test.images)


@pytest.mark.release
@pytest.mark.skipif(
    not pathlib.Path(STAMPS_DIR).exists(), reason="needs tuxpaint-stamps-default"
)
def test_the_real_stamps_have_fifteen_classes(tmp_path):
    data = stamps_by_category(open_corpus("stamps", data_dir=tmp_path))
    assert len(data.class_names) == 15 and "symbols" not in data.class_names
    assert len(data.images) == pytest.approx(670, rel=0.1)
