"""Tests of stored images, with a small folder in the format of the stamps."""

import io

import pytest
from PIL import Image

from align_keras.datasets import open_corpus
from align_keras.datasets.benchmarks import (
    read_stored_images,
    stamps_captions_by_language,
)
from align_keras.utils.errors import InputError

STAMPS = {
    "animals/cat": "A cat.\nde.utf8=Katze\nfr.utf8=Chat\ncs.utf8=Kočka\n",
    "animals/rhea": "A rhea.\nde.utf8=Nandu\nfr.utf8=Nandou\n",
    "food/bread": "Bread.\ncs.utf8=Chléb\nfr.utf8=Pain\nde.utf8=Brot\n",
    "food/milk": "Milk.\n",
}


@pytest.fixture
def root(tmp_path, monkeypatch):
    folder = tmp_path / "stamps"
    for number, (name, captions) in enumerate(STAMPS.items()):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.new("RGB", (60, 30), (40 * number, 0, 0))
        image.save(path.with_suffix(".png"))
        path.with_suffix(".txt").write_text(captions, "utf-8")
    monkeypatch.setenv("ALIGN_KERAS_STAMPS_DIR", str(folder))
    return tmp_path


def test_stored_images_have_their_captions_and_pixels(root):
    builder = open_corpus("stamps", data_dir=root / "data")
    images = read_stored_images(builder, "test")
    by_id = {image.id: image for image in images}
    assert set(by_id) == set(STAMPS)
    assert by_id["food/bread"].captions == ("Bread.",)
    assert by_id["food/bread"].category == "food"
    image = Image.open(io.BytesIO(by_id["animals/rhea"].image))
    assert image.getpixel((37, 37)) == (40, 0, 0)
    assert len({image.image_key for image in images}) == 4
    # The order is the same each time.
    assert read_stored_images(builder, "test") == images


def test_the_error_for_an_unknown_split_lists_the_splits(root):
    builder = open_corpus("stamps", data_dir=root / "data")
    with pytest.raises(InputError, match="split"):
        read_stored_images(builder, "train")


def test_stamps_with_captions_in_four_languages_are_read(root, monkeypatch):
    monkeypatch.setattr(
        "tensorflow_datasets.core.constants.DATA_DIR", str(root / "data")
    )
    data = stamps_captions_by_language()
    order = {name: row for row, name in enumerate(data.image_ids)}
    # The rhea has no caption in Czech, and the milk has only one in English.
    assert set(order) == {"animals/cat", "food/bread"}
    expected = {
        "en": {"animals/cat": "A cat.", "food/bread": "Bread."},
        "de": {"animals/cat": "Katze", "food/bread": "Brot"},
        "fr": {"animals/cat": "Chat", "food/bread": "Pain"},
        "cs": {"animals/cat": "Kočka", "food/bread": "Chléb"},
    }
    for language, captions in expected.items():
        for name, caption in captions.items():
            assert data.captions[language][order[name]] == [caption]
    assert data.columns["category"][order["food/bread"]] == "food"
    image = Image.open(io.BytesIO(data.images[order["food/bread"]]))
    assert image.getpixel((37, 37)) == (80, 0, 0)
