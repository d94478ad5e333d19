"""Tests of the icon sets of Iconify with a small package in its format."""

import json
import os

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from align_keras.config import DataConfig
from align_keras.datasets import Iconify, emoji, open_corpus
from align_keras.datasets.iconify import icon_set_caption
from align_keras.runs.run_corpora import prepare_corpus
from align_keras.utils.errors import InputError

pytest.importorskip("resvg_py")

INSTALLED = os.environ.get("ALIGN_KERAS_ICONIFY_DIR")
PATH = '<path fill="{}" d="M0 0h{w}v{h}H0z"/>'
RED = PATH.format("red", w=32, h=32)
# A circle in the color of the text.
DOT = '<circle cx="16" cy="16" r="12" fill="currentColor"/>'
ICONS = {
    "prefix": "shapes",
    "width": 32,
    "height": 32,
    "icons": {
        "red-square-2": {"body": RED},
        "dot": {"body": DOT},
        # Twice as wide as high, and its box does not begin at the origin.
        "wide": {
            "body": '<path fill="blue" d="M10 10h40v20h-40z"/>',
            "left": 10,
            "top": 10,
            "width": 40,
            "height": 20,
        },
        "old": {"body": RED, "hidden": True},
        "wave-medium-skin-tone": {"body": DOT},
        "nod-dark": {"body": DOT},
        "123": {"body": RED},
        "white-page": {"body": PATH.format("white", w=32, h=32)},
        "broken": {"body": "<path"},
    },
    "aliases": {
        "crimson-square": {"parent": "red-square-2"},
        "turned": {"parent": "red-square-2", "rotate": 1},
    },
}
INFO = {
    "name": "Shapes",
    "author": {"name": "Ada"},
    "license": {"spdx": "MIT"},
    "category": "Emoji",
}


def install(folder, icons=ICONS, info=INFO, name="shapes"):
    """Writes a package as npm does."""
    package = folder / "@iconify-json" / name
    package.mkdir(parents=True)
    (package / "icons.json").write_text(json.dumps(icons), "utf-8")
    (package / "info.json").write_text(json.dumps(info), "utf-8")
    return package


@pytest.fixture
def root(tmp_path, monkeypatch):
    folder = tmp_path / "shop" / "node_modules"
    photo = tmp_path / "photo.png"
    Image.new("RGB", (32, 32), "blue").save(photo)
    link = f'<image href="{photo}" width="32" height="32"/>'
    icons = {**ICONS["icons"], "linked": {"body": RED + link}}
    install(folder, {**ICONS, "icons": icons})
    monkeypatch.setenv("ALIGN_KERAS_ICONIFY_DIR", str(folder))
    return folder


def open_shapes(tmp_path, name="iconify/shapes"):
    return open_corpus(name, data_dir=tmp_path / "data", max_bad_fraction=0.5)


def test_a_small_package_is_built(root, tmp_path):
    builder = open_shapes(tmp_path)
    metadata = builder.info.metadata
    assert metadata["kept"] == 4
    assert metadata["dropped"] == {
        "hidden icon": 1,
        "variation in skin tone": 2,
        "no words in its names": 1,
        "blank icon": 1,
        "unreadable": 1,
    }
    assert metadata["notes"]["license"] == "MIT"
    assert metadata["notes"]["author"] == "Ada"
    examples = {
        example["id"].decode(): example
        for example in tfds.as_numpy(builder.as_dataset(split="all"))
    }
    square = examples["red-square-2"]
    assert square["captions"].tolist() == [b"red square", b"crimson square"]
    assert square["category"] == b"Emoji"
    # 256 pixels and a margin of an eighth on each side.
    assert square["image"].shape == (320, 320, 3)
    assert square["image"][31].min() == 255
    assert (square["image"][32:288, 32:288] == [255, 0, 0]).all()
    # An icon in the color of the text is black.
    assert (examples["dot"]["image"][160, 160] == 0).all()
    wide = examples["wide"]["image"]
    is_blue = (wide == [0, 0, 255]).all(axis=-1)
    rows, columns = np.flatnonzero(is_blue.any(1)), np.flatnonzero(is_blue.any(0))
    assert (len(columns), len(rows)) == (256, 128)
    # The links to other files are removed.
    np.testing.assert_array_equal(examples["linked"]["image"], square["image"])


def test_variants_in_style_are_left_out(root, tmp_path):
    names = ("acorn", "acorn-thin", "acorn-fill", "traffic-light", "acorn-duotone")
    icons = {**ICONS, "icons": {name: {"body": RED} for name in names}}
    icons["aliases"] = {}
    install(root, icons, {**INFO, "category": "UI"}, "ph")
    builder = open_shapes(tmp_path, "iconify/ph")
    captions = {
        row["id"]: row["captions"].tolist()
        for row in tfds.as_numpy(builder.as_dataset(split="all"))
    }
    names_and_styles = (b"acorn", b"acorn-duotone", b"acorn-fill")
    assert captions == dict.fromkeys(names_and_styles, [b"acorn"])
    # `traffic-light` ends with a style of this set too.
    assert builder.info.metadata["dropped"] == {"variant of another icon": 2}
    # The captions of this set have changed.
    assert str(builder.version) == "1.1.0"
    assert str(open_shapes(tmp_path).version) == "1.0.0"


def test_the_skin_tones_of_a_set_without_a_category_are_left_out(root, tmp_path):
    info = {key: INFO[key] for key in INFO if key != "category"}
    install(root, ICONS, info, "fluent-emoji")
    dropped = open_shapes(tmp_path, "iconify/fluent-emoji").info.metadata["dropped"]
    assert dropped["variation in skin tone"] == 2


def test_tfds_opens_an_icon_set_by_name(root, tmp_path):
    open_shapes(tmp_path)
    builder = tfds.builder("iconify/shapes", data_dir=tmp_path / "data")
    assert builder.builder_config.name == "shapes"
    assert sum(split.num_examples for split in builder.info.splits.values()) == 4
    root = tmp_path / "shop"
    assert Iconify(config="shapes", root=root, data_dir=tmp_path / "other").name


def test_a_mixture_may_have_several_icon_sets(root, tmp_path):
    install(root, name="more-shapes")
    mixture = open_shapes(tmp_path, "iconify/shapes+iconify/more-shapes")
    ids = {row["id"] for row in tfds.as_numpy(mixture.as_dataset(split="all"))}
    assert len(ids) == 7 and b"iconify/more-shapes/dot" in ids
    with pytest.raises(InputError, match="must name each corpus once"):
        open_shapes(tmp_path, "iconify/shapes+iconify/shapes")


def test_an_epoch_of_a_run_repeats_a_corpus(root, tmp_path):
    install(root, name="more-shapes")
    shapes = ("iconify/shapes", "iconify/more-shapes")
    data = DataConfig(
        corpus="+".join(shapes),
        corpus_repeats={shapes[1]: 3},
        tfds_data_dir=str(tmp_path / "data"),
        max_bad_fraction=0.5,
    )
    mixture = prepare_corpus(data, image_size=64)
    assert mixture.shares(dict.fromkeys(shapes, 4)) == [4, 12]


@pytest.mark.parametrize(
    "repeats",
    [
        {"iconify/shapes": 0},
        {"iconify/shapes": "2"},
        {"iconify/shapes": float("inf")},
        {"iconify/other": 2},
        {"iconify": 2},
    ],
)
def test_wrong_repeats_are_refused(root, tmp_path, repeats):
    install(root, name="more-shapes")
    name = "iconify/shapes+iconify/more-shapes"
    with pytest.raises(InputError, match="repeats must map corpora of a mixture to"):
        open_corpus(name, data_dir=tmp_path, repeats=repeats)
    with pytest.raises(InputError, match="repeats must map corpora of a mixture to"):
        open_corpus("iconify/shapes", data_dir=tmp_path, repeats={"iconify/shapes": 2})


@pytest.mark.parametrize("name", ["iconify", "iconify/", "iconify/a b", "iconify/../x"])
def test_other_names_are_refused(root, tmp_path, name):
    with pytest.raises(InputError, match="The name of an icon set must consist of"):
        open_shapes(tmp_path, name)


def test_a_missing_package_is_named(root, tmp_path, monkeypatch):
    with pytest.raises(InputError) as caught:
        open_shapes(tmp_path, "iconify/other")
    message = str(caught.value)
    assert f"{root} doesn't contain it. Run npm install @iconify-json/other" in message
    monkeypatch.delenv("ALIGN_KERAS_ICONIFY_DIR")
    monkeypatch.delenv("NODE_PATH", raising=False)
    monkeypatch.setattr(emoji.shutil, "which", lambda name: None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no node_modules folder in"):
        open_shapes(tmp_path)
    monkeypatch.chdir(root.parent)
    assert open_shapes(tmp_path).info.metadata["kept"] == 4


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"icons": [1]}', '{"icons": {"a": {}}}']
)
def test_a_damaged_package_raises_a_message_of_one_line(root, tmp_path, content):
    (root / "@iconify-json" / "shapes" / "icons.json").write_text(content, "utf-8")
    with pytest.raises(InputError, match="again") as caught:
        open_shapes(tmp_path)
    assert "Run npm install @iconify-json/shapes again" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "icon_set, name, caption",
    [
        ("flat-color-icons", "alarm-clock", "alarm clock"),
        ("streamline-color", "add-bell-flat", "add bell"),
        ("streamline-color", "cell-phone-2-flat", "cell phone"),
        ("flat-color-icons", "flat", "flat"),
        ("streamline-color", "flat", "flat"),
        ("emojione", "1st-place-medal", "1st place medal"),
        ("openmoji", "Flag-Spain", "flag spain"),
        ("mdi", "home-variant", "home"),
        ("ph", "traffic-light-fill", "traffic light"),
        ("tabler", "heart-filled", "heart"),
        ("boxicons", "cart-minus-filled", "cart minus"),
        ("carbon", "text-fill", "text fill"),
        ("streamline-flex-color", "watchtower-castle-flat", "watchtower castle"),
    ],
)
def test_captions(icon_set, name, caption):
    assert icon_set_caption(icon_set, name) == caption


@pytest.mark.skipif(not INSTALLED, reason="needs ALIGN_KERAS_ICONIFY_DIR")
@pytest.mark.release
def test_a_real_package_is_built(tmp_path):
    builder = open_corpus("iconify/flat-color-icons", data_dir=tmp_path)
    assert builder.info.metadata["kept"] == 329
    assert builder.info.metadata["dropped"] == {}
