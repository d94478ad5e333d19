"""Tests of the corpus icons: a real build, and the images and captions of glyphs."""

import functools
import importlib.util
import os
import pathlib
import re
import runpy

import numpy as np
import pytest
import tensorflow_datasets as tfds

from align_keras.datasets import icons, open_corpus
from align_keras.datasets.icons import (
    CANVAS,
    MARGIN,
    TRAIN_FAMILIES,
    draw_glyph,
    icon_caption,
)
from tests.helpers.docs_text import SITE, read_page

# One glyph in this number is read, and the glyphs with these names.
GLYPH_STEP = 100
NAMED = {"account-arrow-left", "activity-thin", "activity-bold"}

needs_fonts = pytest.mark.skipif(
    importlib.util.find_spec("qtawesome") is None, reason="needs qtawesome's fonts"
)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Folder with a corpus of some glyphs of each font."""
    folder = tmp_path_factory.mktemp("icons")
    read = icons.read_font_and_charmap

    def read_some_glyphs(fonts, stem):
        font, charmap = read(fonts, stem)
        names = [*sorted(charmap)[::GLYPH_STEP], *sorted(NAMED & set(charmap))]
        return font, {name: charmap[name] for name in names}

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(icons, "read_font_and_charmap", read_some_glyphs)
        open_corpus("icons", data_dir=folder)
    return folder


@pytest.fixture(scope="module")
def examples(data_dir):
    return {
        split: {
            example["id"].decode(): example
            for example in tfds.as_numpy(
                tfds.load("icons", split=split, data_dir=data_dir)
            )
        }
        for split in ("train", "test")
    }


@needs_fonts
@pytest.mark.ci
def test_no_family_is_in_both_splits(examples):
    families = {
        split: {example["category"].decode() for example in members.values()}
        for split, members in examples.items()
    }
    assert families == {"train": set(TRAIN_FAMILIES), "test": {"fontawesome6-solid"}}


@needs_fonts
@pytest.mark.ci
def test_every_glyph_is_dark_on_white_fitted_and_centered(examples):
    largest_side = CANVAS - 2 * MARGIN
    for example in list(examples["train"].values())[::5]:
        image = example["image"]
        assert image.shape == (CANVAS, CANVAS, 3)
        assert (image == image[:, :, :1]).all()
        rows, columns = np.nonzero(image[:, :, 0] < 255)
        extents = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert largest_side - 3 <= max(extents) <= largest_side, example["id"]
        for low, high in ((rows.min(), rows.max()), (columns.min(), columns.max())):
            assert abs(low - (CANVAS - 1 - high)) <= 1, example["id"]
        assert image.min() < 100


@needs_fonts
@pytest.mark.ci
def test_identical_glyphs_share_their_key(examples):
    all_examples = {**examples["train"], **examples["test"]}
    by_key = {}
    for example in all_examples.values():
        pixels = example["image"].tobytes()
        assert by_key.setdefault(example["image_key"], pixels) == pixels
    assert len(by_key) == len(set(by_key.values()))


@needs_fonts
@pytest.mark.ci
def test_captions_are_the_names_without_style_words(examples):
    arrow = examples["train"]["materialdesignicons6/account-arrow-left"]
    assert arrow["captions"].tolist() == [b"account arrow left"]
    thin = examples["train"]["phosphor/activity-thin"]
    assert thin["captions"].tolist() == [b"activity"]
    for example in (*examples["train"].values(), *examples["test"].values()):
        assert all(caption.strip() for caption in example["captions"])


@pytest.mark.parametrize(
    ("family", "name", "caption"),
    [
        ("materialdesignicons6", "cat-outline", "cat"),
        ("phosphor", "light-bulb", "light bulb"),
        ("phosphor", "flashlight_fill", "flashlight"),
        ("remixicon", "line-fill", "line"),
        ("remixicon", "bold", "bold"),
        ("codicon", "fill", "fill"),
        ("fontawesome6-solid", "fill", "fill"),
    ],
)
def test_style_words_at_the_end_are_removed(family, name, caption):
    assert icon_caption(family, name) == caption


@needs_fonts
def test_small_characters_are_enlarged_and_blank_characters_are_none():
    package = importlib.util.find_spec("qtawesome").submodule_search_locations[0]
    fonts = pathlib.Path(package, "fonts")
    [font] = fonts.glob("fontawesome6-solid-webfont-[0-9]*.ttf")
    plus = np.asarray(draw_glyph(font, "+"))
    assert plus.shape == (CANVAS, CANVAS) and plus.min() == 0
    assert (plus[:MARGIN] == 255).all() and (plus[MARGIN + 1] < 255).any()
    [font] = fonts.glob("codicon-[0-9]*.ttf")
    assert draw_glyph(font, "\U0010fff0") is None


@needs_fonts
@pytest.mark.release
def test_the_tutorial_trains_on_icons(tmp_path, capsys, monkeypatch):
    script = SITE / "tutorials/train_with_fit.py"
    folder = os.environ.get("TFDS_DATA_DIR") or tmp_path
    open_corpus("icons", data_dir=folder)
    monkeypatch.setattr(tfds, "load", functools.partial(tfds.load, data_dir=folder))
    monkeypatch.setattr("sys.argv", [script.name, "160", "1"])
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(script))
    output = capsys.readouterr().out
    page = read_page(script.with_suffix(".md"))
    [captions] = re.findall(r"^4000 (pairs, such as .*)$", page, re.MULTILINE)
    assert f"160 {captions}\n" in output and "arrow → [" in output
    assert (tmp_path / "icons.keras").is_file()
