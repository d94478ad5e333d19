"""Tests of the corpus emoji with small packages in its format and with real ones."""

import json
import os

import pytest
import tensorflow_datasets as tfds
from PIL import Image

from align_keras.datasets import emoji as emoji_module
from align_keras.datasets import open_corpus
from align_keras.utils.errors import InputError

PACKAGES = ("emoji-datasource-google", "emoji-datasource-twitter")
INSTALLED = os.environ.get("ALIGN_KERAS_EMOJI_DIR")


def entry(unified, name, *short_names, category="Objects", **fields):
    return {
        "name": name,
        "unified": unified,
        "non_qualified": None,
        "image": f"{unified.lower()}.png",
        "sheet_x": 0,
        "sheet_y": 0,
        "short_name": short_names[0],
        "short_names": list(short_names),
        "category": category,
        "sort_order": int(unified[:4], 16),
        "has_img_apple": True,
        "has_img_google": True,
        "has_img_twitter": True,
        **fields,
    }


EMOJI = [
    entry("1F603", "SMILING FACE WITH OPEN MOUTH", "smiley"),
    entry("1F1EB-1F1F7", "France Flag", "fr", "flag-fr", category="Flags"),
    entry(
        "261D-FE0F",
        "WHITE UP POINTING INDEX",
        "point_up",
        category="People & Body",
        skin_variations={
            tone: {"unified": f"261D-{tone}", "image": f"261d-{tone.lower()}.png"}
            for tone in ("1F3FB", "1F3FC")
        },
    ),
    entry("1F3FB", "EMOJI MODIFIER", "skin-tone-2", category="Component"),
    entry("1F512", "LOCK", "lock", has_img_twitter=False),
    entry("1F197", "1", "+1"),
    *(entry(f"2F{n:03X}", f"THING {n}", f"thing_{n}x") for n in range(40)),
]


def install(folder, package, emoji=EMOJI, period=1):
    """Writes a package like npm. Each `period` consecutive emoji have equal pixels."""
    vendor = package.rpartition("-")[2]
    image_folder = folder / package / "img" / vendor / "64"
    image_folder.mkdir(parents=True)
    (folder / package / "emoji.json").write_text(json.dumps(emoji), "utf-8")
    names = [fields["image"] for fields in emoji]
    for fields in emoji:
        names += [tone["image"] for tone in fields.get("skin_variations", {}).values()]
    for number, name in enumerate(names):
        image = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
        color = (len(package), number // period, 9, 255)
        image.paste(color, (16, 16, 48, 48))
        image.save(image_folder / name)


@pytest.fixture
def root(tmp_path, monkeypatch):
    folder = tmp_path / "shop" / "node_modules"
    for package in PACKAGES:
        install(folder, package)
    monkeypatch.setenv("ALIGN_KERAS_EMOJI_DIR", str(folder))
    return folder


@pytest.fixture
def no_global_packages(monkeypatch):
    monkeypatch.delenv("ALIGN_KERAS_EMOJI_DIR", raising=False)
    monkeypatch.delenv("NODE_PATH", raising=False)
    monkeypatch.setattr(emoji_module.shutil, "which", lambda name: None)


def examples_of(builder, split="all"):
    return {
        example["id"].decode(): example
        for example in tfds.as_numpy(builder.as_dataset(split=split))
    }


def test_a_small_package_is_built(root, tmp_path):
    builder = open_corpus("emoji", data_dir=tmp_path / "data")
    metadata = builder.info.metadata
    assert metadata["kept"] == 2 * 43 + 1
    assert metadata["dropped"] == {
        "variation in skin tone": 4,
        "a skin tone's swatch": 2,
        "no words in its names": 2,
        "not drawn by this vendor": 1,
    }
    assert set(metadata["filtered"]) == set(metadata["dropped"])
    examples = examples_of(builder)
    assert "google/1f512" in examples and "twitter/1f512" not in examples
    smiley = examples["twitter/1f603"]
    assert smiley["captions"].tolist() == [b"smiling face with open mouth", b"smiley"]
    assert smiley["category"] == b"Objects"
    # Transparent pixels become white, and the drawing keeps its color.
    assert smiley["image"].shape == (80, 80, 3)
    assert smiley["image"][0, 0].tolist() == [255, 255, 255]
    assert smiley["image"][32, 32].tolist() == [len(PACKAGES[1]), 0, 9]


def test_no_emoji_is_in_both_splits(root, tmp_path):
    builder = open_corpus("emoji", data_dir=tmp_path / "data")
    codes = {
        split: {
            identifier.partition("/")[2] for identifier in examples_of(builder, split)
        }
        for split in ("train", "test")
    }
    assert codes["test"] and not codes["train"] & codes["test"]
    assert len(codes["train"]) > 35


def test_emoji_with_equal_pixels_are_in_the_same_split(tmp_path, monkeypatch):
    # Half of the emoji are in the test split. A split by code points alone would
    # separate half of the equal images.
    monkeypatch.setattr(emoji_module.Emoji, "TEST_FRACTION", 0.5)
    codes = [f"2F{n:03X}" for n in range(40)]
    for package in PACKAGES:
        install(
            tmp_path,
            package,
            [entry(code, f"THING {code}", "thing") for code in codes],
            # The vendors have different groups of equal images, which link to groups
            # of four emoji.
            period=2 if package == PACKAGES[0] else 4,
        )
    builder = emoji_module.Emoji(root=tmp_path, data_dir=tmp_path / "data")
    builder.download_and_prepare()
    test = {name.partition("/")[2].upper() for name in examples_of(builder, "test")}
    sizes = [len(test & set(codes[n : n + 4])) for n in range(0, 40, 4)]
    assert set(sizes) == {0, 4}


@pytest.mark.parametrize("in_subfolder", [False, True])
def test_packages_are_found_in_node_modules_of_the_folder_or_above(
    root, tmp_path, monkeypatch, no_global_packages, in_subfolder
):
    start = root.parent / "deep" / "er" if in_subfolder else root.parent
    start.mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(start)
    assert open_corpus("emoji", data_dir=tmp_path / "data").info.metadata["kept"] == 87


def test_the_nearest_folder_wins(root, tmp_path, monkeypatch, no_global_packages):
    nearer = root.parent / "nearer"
    install(nearer / "node_modules", PACKAGES[1], EMOJI[:1])
    monkeypatch.chdir(nearer)
    ids = list(examples_of(open_corpus("emoji", data_dir=tmp_path / "data")))
    assert [name for name in ids if name.startswith("twitter/")] == ["twitter/1f603"]
    assert len(ids) == 1 + 44


def test_global_packages_are_found(root, tmp_path, monkeypatch, no_global_packages):
    prefix = tmp_path / "usr"
    (prefix / "lib").mkdir(parents=True)
    root.rename(prefix / "lib" / "node_modules")
    node = prefix / "bin" / "node"
    monkeypatch.setattr(emoji_module.shutil, "which", lambda name: str(node))
    monkeypatch.chdir(tmp_path)
    assert open_corpus("emoji", data_dir=tmp_path / "data").info.metadata["kept"] == 87


@pytest.mark.parametrize("missing", [PACKAGES, PACKAGES[1:]])
def test_missing_packages_are_named(tmp_path, monkeypatch, no_global_packages, missing):
    folder = tmp_path / "node_modules"
    for package in set(PACKAGES) - set(missing):
        install(folder, package, EMOJI[:1])
    monkeypatch.chdir(tmp_path)
    for variable in (None, str(folder)):
        if variable:
            monkeypatch.setenv("ALIGN_KERAS_EMOJI_DIR", variable)
        with pytest.raises(InputError) as caught:
            open_corpus("emoji", data_dir=tmp_path / "data")
        message = str(caught.value)
        remedy = f"Run npm install {' '.join(PACKAGES)}, or set"
        assert f" {' and '.join(missing)}. {remedy}" in message
        assert "ALIGN_KERAS_EMOJI_DIR" in message and "\n" not in message
        assert str(folder if variable else tmp_path) in message


@pytest.mark.parametrize("content", ["[{", '{"a": 1}', "[[1]]", '[{"name": "X"}]'])
def test_a_damaged_emoji_file_raises_a_message_of_one_line(root, tmp_path, content):
    (root / PACKAGES[0] / "emoji.json").write_text(content, "utf-8")
    with pytest.raises(
        InputError, match=f"Run npm install {PACKAGES[0]} again"
    ) as caught:
        open_corpus("emoji", data_dir=tmp_path / "data")
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not INSTALLED, reason="needs ALIGN_KERAS_EMOJI_DIR")
@pytest.mark.release
def test_the_real_packages_are_built(tmp_path):
    builder = open_corpus("emoji", data_dir=tmp_path)
    metadata = builder.info.metadata
    assert metadata["kept"] > 3_700
    assert set(metadata["dropped"]) == {
        "variation in skin tone",
        "a skin tone's swatch",
    }
    train, test = examples_of(builder, "train"), examples_of(builder, "test")
    assert 0.03 < len(test) / metadata["kept"] < 0.07
    codes = [{name.partition("/")[2] for name in split} for split in (train, test)]
    keys = [{e["image_key"] for e in split.values()} for split in (train, test)]
    assert not codes[0] & codes[1] and not keys[0] & keys[1]
    examples = {**train, **test}
    cheese = [examples[f"{vendor}/1f9c0"] for vendor in ("google", "twitter")]
    assert all(e["captions"].tolist() == [b"cheese wedge"] for e in cheese)
    assert all(e["category"] == b"Food & Drink" for e in cheese)
    captions = {c.decode() for e in examples.values() for c in e["captions"]}
    assert {"germany flag", "telephone", "black cat", "sailboat"} <= captions
    assert not captions & {"de", "flag de", "black telephone", "dog2"}
    assert all(c == c.lower() and c == " ".join(c.split()) for c in captions)
