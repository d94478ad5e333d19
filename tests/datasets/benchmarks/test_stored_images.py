"""Stored examples of the stamps: a small tree in their format."""

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


def test_stored_pictures(root):
    builder = open_corpus("stamps", data_dir=root / "data")
    pictures = read_stored_images(builder, "test")
    by_id = {picture.id: picture for picture in pictures}
    assert set(by_id) == set(STAMPS)
    assert by_id["food/bread"].captions == ("Bread.",)
    assert by_id["food/bread"].category == "food"
    image = Image.open(io.BytesIO(by_id["animals/rhea"].image))
    assert image.getpixel((37, 37)) == (40, 0, 0)
    assert len({picture.image_key for picture in pictures}) == 4
    # The same order each time.
    assert read_stored_images(builder, "test") == pictures


def test_a_wrong_split_names_those_that_are_there(root):
    builder = open_corpus("stamps", data_dir=root / "data")
    with pytest.raises(InputError, match="one of test, which stamps has, .* 'train'"):
        read_stored_images(builder, "train")


def test_captions_in_four_languages(root):
    data = stamps_captions_by_language(data_dir=root / "data")
    order = {name: row for row, name in enumerate(data.image_ids)}
    # The rhea has no Czech caption, the milk English alone.
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


def test_no_stamp_in_all_languages(root):
    for name in ("animals/cat", "food/bread"):
        (root / "stamps" / f"{name}.txt").write_text("Alone.\n")
    (root / "stamps/food/milk.txt").write_text("Milk.\ncs.utf8=Mléko\n")
    with pytest.raises(InputError, match="no stamp has captions in all of en, de, fr"):
        stamps_captions_by_language(data_dir=root / "data")
