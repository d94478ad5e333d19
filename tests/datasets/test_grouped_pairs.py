"""Splits of a user's pairs that share neither an image nor a caption."""

import csv
import random

import numpy as np
import pytest
import tensorflow_datasets as tfds
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from align_keras.datasets import open_corpus
from align_keras.datasets.grouped_pairs import group_splits
from align_keras.utils.errors import InputError

# Few keys and captions, so that many images are connected.
ROWS = st.lists(
    st.tuples(
        st.integers(0, 40).map("{:08x}".format),
        st.lists(st.integers(0, 60).map("caption {}".format), min_size=1, max_size=3),
    ),
    min_size=1,
    max_size=60,
)


def splits_of(rows):
    return group_splits([key for key, _ in rows], [captions for _, captions in rows])


@given(rows=ROWS)
def test_splits_share_no_image_and_no_caption(rows):
    try:
        splits = splits_of(rows)
    except InputError as error:
        assert "3 groups" in str(error)
        return
    assert set(splits) == {"train", "validation", "test"}
    keys, captions = {}, {}
    for split, (key, texts) in zip(splits, rows, strict=True):
        keys.setdefault(key, set()).add(split)
        for text in texts:
            captions.setdefault(text, set()).add(split)
    assert all(len(found) == 1 for found in (*keys.values(), *captions.values()))


@given(rows=ROWS, seed=st.integers(0, 9))
def test_splits_depend_neither_on_the_order_nor_on_case_and_white_space(rows, seed):
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    changed = [
        (rows[row][0], [f" {text.upper()}\n" for text in rows[row][1]]) for row in order
    ]
    try:
        splits = splits_of(rows)
    except InputError:
        with pytest.raises(InputError):
            splits_of(changed)
        return
    assert splits_of(changed) == [splits[row] for row in order]


def test_sizes_are_fractions_with_an_upper_bound():
    for images, held_out in ((400, 60), (7000, 1000)):
        keys = [f"{number:08x}" for number in range(images)]
        captions = [[f"caption {number}"] for number in range(images)]
        splits = group_splits(keys, captions)
        assert splits.count("validation") == splits.count("test") == held_out


def test_the_largest_group_is_trained_on():
    keys = [f"{number:08x}" for number in range(20)]
    captions = [["common"]] * 18 + [["first"], ["second"]]
    assert group_splits(keys, captions)[:18] == ["train"] * 18


def test_stored_splits_share_no_pixels_and_no_captions(tmp_path):
    numbers = np.random.default_rng(0)
    pixels = [numbers.integers(0, 256, (9, 9, 3), np.uint8) for _ in range(20)]
    rows = []
    for number in range(30):
        # Ten images are copies with other captions.
        Image.fromarray(pixels[number % 20]).save(tmp_path / f"{number}.png")
        rows.append((f"{number}.png", f"Thing {number // 2}"))
    with open(tmp_path / "pairs.csv", "w", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "caption"), *rows])
    builder = open_corpus(
        "pairs",
        pairs=tmp_path / "pairs.csv",
        data_dir=tmp_path / "data",
        split_by="image_and_caption",
    )
    keys, captions = {}, {}
    for split in ("train", "validation", "test"):
        for example in tfds.as_numpy(builder.as_dataset(split=split)):
            keys.setdefault(example["image"].tobytes(), set()).add(split)
            for caption in example["captions"]:
                captions.setdefault(caption, set()).add(split)
    assert len(keys) == 20 and len(captions) == 15
    assert all(len(found) == 1 for found in (*keys.values(), *captions.values()))


def test_only_equal_images_share_a_split_without_links_of_captions(tmp_path):
    for number in range(20):
        pixels = np.full((9, 9, 3), 10 * (number % 15), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    rows = [("image", "caption"), *((f"{number}.png", "thing") for number in range(20))]
    with open(tmp_path / "pairs.csv", "w", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    builder = open_corpus(
        "pairs",
        pairs=tmp_path / "pairs.csv",
        data_dir=tmp_path / "data",
        split_by="image_with_validation",
    )
    keys = {}
    for split in ("train", "validation", "test"):
        for example in tfds.as_numpy(builder.as_dataset(split=split)):
            keys.setdefault(example["image_key"], set()).add(split)
    assert len(keys) == 15
    assert all(len(splits) == 1 for splits in keys.values())
    assert set.union(*keys.values()) == {"train", "validation", "test"}


def test_an_unknown_division_is_refused(tmp_path):
    with pytest.raises(InputError, match="split_by"):
        open_corpus("pairs", pairs=tmp_path / "p.csv", split_by="category")
