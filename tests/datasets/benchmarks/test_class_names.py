"""Tests of class names for prompts."""

import importlib.util
import json
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from align_keras.datasets.benchmarks.class_names import (
    check_names_for_prompts,
    imagenet_ids,
    read_class_names,
    readable_name,
    rename_classes,
)
from align_keras.datasets.benchmarks.labeled_images import LabeledImages
from align_keras.utils.errors import InputError
from tests.helpers.oracle_process import needs


def data_with_classes(*names):
    return LabeledImages([], np.zeros(0, np.int64), list(names))


def test_names_become_readable():
    path = tfds.core.tfds_path("image_classification/sun397_labels.txt")
    names = list(map(readable_name, path.read_text().split()))
    assert len(names) == len(set(names)) == 397
    assert names[0] == "abbey" and "apartment building outdoor" in names
    assert all(name.replace(" ", "").replace("-", "").isalpha() for name in names)
    # The slash isn't a separator in this name of cars196.
    assert readable_name("Ram C/V Cargo Van") == "Ram C/V Cargo Van"
    assert readable_name(" red__fox") == "red fox"


def test_text_and_json_files_of_names_are_read(tmp_path):
    lines = tmp_path / "names.txt"
    lines.write_bytes("\ufefftench\r\ngrüner Frosch\r\n\r\n".encode())
    assert read_class_names(lines) == ["tench", "grüner Frosch"]
    listed, mapped = tmp_path / "list.json", tmp_path / "dict.JSON"
    listed.write_text(json.dumps(["a", "b"]))
    mapped.write_text(json.dumps({"n01440764": "tench"}))
    assert read_class_names(str(listed)) == ["a", "b"]
    assert read_class_names(mapped) == {"n01440764": "tench"}


@pytest.mark.ci
@needs("clip_benchmark")
def test_the_names_of_clip_are_in_the_order_of_the_imagenet_ids():
    names = read_class_names("clip:imagenet1k")
    by_id = dict(zip(imagenet_ids(), names, strict=True))
    # The ids and their names in WordNet.
    assert by_id["n01440764"] == "tench"
    assert by_id["n02123045"] == "tabby cat"
    assert by_id["n07753592"] == "banana"


@pytest.mark.ci
@needs("clip_benchmark")
def test_clip_benchmark_is_read_without_an_import():
    """Importing it would load PyTorch."""
    assert len(read_class_names("clip:flowers")) == 102
    assert "clip_benchmark" not in sys.modules


@pytest.mark.ci
@needs("clip_benchmark")
def test_an_unknown_data_set_of_clip_benchmark_raises():
    with pytest.raises(InputError, match="imagenet1k"):
        read_class_names("clip:x")


def test_a_missing_clip_benchmark_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install"):
        read_class_names("clip:flowers")


@pytest.mark.parametrize(
    "file, content",
    [
        ("a.txt", "cat\n\ndog\n"),
        ("a.txt", "café\n"),
        ("a.json", '["a", 3]'),
        ("a.json", "["),
    ],
)
def test_malformed_files_raise(tmp_path, file, content):
    (tmp_path / file).write_text(content, "cp1252")
    with pytest.raises(InputError, match=r"a\."):
        read_class_names(tmp_path / file)


def test_classes_are_renamed_by_order_by_name_or_by_label():
    data = data_with_classes("red fox", "owl")
    assert rename_classes(data, ["fox", "bird"]).class_names == ["fox", "bird"]
    for names in ({"red_fox": "fox", "owl": "bird"}, {"0": "fox", "1": "bird"}):
        assert rename_classes(data, names).class_names == ["fox", "bird"]


def test_a_table_can_have_names_of_folders_with_underscores():
    data = data_with_classes("red_fox", "owl")
    renamed = rename_classes(data, {"red_fox": "fox", "owl": "bird"}, ordered=True)
    assert renamed.class_names == ["fox", "bird"]


def test_the_names_of_imagenet_apply_to_a_subset_of_its_ids():
    ids = imagenet_ids()
    names = [f"name {row}" for row in range(1000)]
    data = data_with_classes(ids[7], ids[999], ids[0])
    assert rename_classes(data, names).class_names == ["name 7", "name 999", "name 0"]


def test_a_wrong_number_of_names_or_a_missing_name_raises():
    with pytest.raises(InputError, match="--classes"):
        rename_classes(data_with_classes("a", "b"), ["x", "y", "z"])
    with pytest.raises(InputError, match="'b'"):
        rename_classes(data_with_classes("a", "b", "c"), {"a": "x"})


def test_wordnet_ids_are_not_accepted_as_names_for_prompts():
    check_names_for_prompts(["n01440764", "tench"])
    with pytest.raises(InputError, match="n01440764"):
        check_names_for_prompts(["n01440764", "n01443537"])


TEN = ["ant", "bee", "cat", "dog", "elk", "fox", "gnu", "hen", "ibis", "jay"]


@pytest.mark.parametrize("ordered", [False, True])
def test_a_list_with_the_names_of_the_data_is_matched_by_name(ordered):
    expected = [name.title() for name in TEN]
    for names in (expected, expected[::-1], expected[5:] + expected[:5]):
        assert (
            rename_classes(data_with_classes(*TEN), names, ordered).class_names
            == expected
        )
    # Two classes whose names differ only in case are distinguished.
    data = data_with_classes("a b", "A b")
    assert rename_classes(data, ["A_b", "a b"], ordered).class_names == ["a b", "A_b"]


def test_other_names_for_folders_raise_with_the_differences():
    data = data_with_classes("ant", "bee", "cat")
    message = "'eel', 'owl'.*'bee', 'cat'"
    with pytest.raises(InputError, match=message):
        rename_classes(data, ["eel", "ant", "owl"], ordered=False)
    # Folders have no labels, so a number isn't a class name.
    with pytest.raises(InputError, match="ant"):
        rename_classes(data, {"0": "x", "1": "y", "2": "z"}, ordered=False)


def test_a_list_with_a_name_of_another_label_raises():
    data = data_with_classes("ant", "bee", "cat")
    assert rename_classes(data, ["ant", "wasp", "cat"]).class_names[1] == "wasp"
    with pytest.raises(InputError, match="'Bee' for label 0"):
        rename_classes(data, ["Bee", "ant", "lion"])


@pytest.mark.parametrize(
    "file, content",
    [
        ("names.txt", "red_fox\tfox, red\nowl\tbird\n"),
        ("names.tsv", "owl\tbird\nred fox\tfox, red\n\n"),
        ("names.csv", 'class,prompt\nowl,bird\nred_fox,"fox, red"\n'),
    ],
)
def test_two_columns_rename_classes(tmp_path, file, content):
    (tmp_path / file).write_text(content)
    names = read_class_names(tmp_path / file)
    data = rename_classes(data_with_classes("owl", "red fox"), names, ordered=False)
    assert data.class_names == ["bird", "fox, red"]


@pytest.mark.parametrize("content", ["a\tb\nc\n", "a\t\n"])
def test_tables_without_two_columns_raise(tmp_path, content):
    (tmp_path / "names.txt").write_text(content)
    with pytest.raises(InputError, match="--classes"):
        read_class_names(tmp_path / "names.txt")
