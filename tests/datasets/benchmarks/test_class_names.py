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


def named(*names):
    return LabeledImages([], np.zeros(0, np.int64), list(names))


def test_names_as_people_write_them():
    path = tfds.core.tfds_path("image_classification/sun397_labels.txt")
    names = list(map(readable_name, path.read_text().split()))
    assert len(names) == len(set(names)) == 397
    assert names[0] == "abbey" and "apartment building outdoor" in names
    assert all(name.replace(" ", "").replace("-", "").isalpha() for name in names)
    # Of cars196, where the slash isn't a separator.
    assert readable_name("Ram C/V Cargo Van") == "Ram C/V Cargo Van"
    assert readable_name(" red__fox") == "red fox"


def test_files_of_names(tmp_path):
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
def test_clips_names_of_imagenet_fit_the_order_of_the_ids():
    names = read_class_names("clip:imagenet1k")
    by_id = dict(zip(imagenet_ids(), names, strict=True))
    # As WordNet has them.
    assert by_id["n01440764"] == "tench"
    assert by_id["n02123045"] == "tabby cat"
    assert by_id["n07753592"] == "banana"


@pytest.mark.ci
@needs("clip_benchmark")
def test_clip_benchmark_is_read_and_not_imported():
    """It would load PyTorch."""
    assert len(read_class_names("clip:flowers")) == 102
    assert "clip_benchmark" not in sys.modules


@pytest.mark.ci
@needs("clip_benchmark")
def test_an_unknown_set_of_clip_benchmark():
    with pytest.raises(
        InputError, match="clip:DATASET must be one of .*imagenet1k.*'x'"
    ):
        read_class_names("clip:x")


def test_clip_benchmark_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        InputError, match="--classes clip:flowers .* pip install clip-be"
    ):
        read_class_names("clip:flowers")


@pytest.mark.parametrize(
    "file, content",
    [
        ("a.txt", ""),
        ("a.txt", "cat\n\ndog\n"),
        ("a.json", "[]"),
        ("a.json", '["a", 3]'),
        ("a.json", '"cat"'),
        ("a.json", '{"0": ["n1", "cat"]}'),
    ],
)
def test_malformed_files(tmp_path, file, content):
    (tmp_path / file).write_text(content)
    with pytest.raises(InputError, match="--classes must hold one name a line"):
        read_class_names(tmp_path / file)


def test_unreadable_files(tmp_path):
    (tmp_path / "a.json").write_text("[")
    (tmp_path / "a.txt").write_bytes(b"caf\xe9\n")
    for name in ("a.json", "a.txt", "missing.txt", "."):
        with pytest.raises(
            InputError, match="--classes must be a file of names or clip"
        ):
            read_class_names(tmp_path / name)


def test_renaming_by_order_by_name_and_by_label():
    data = named("red fox", "owl")
    assert rename_classes(data, ["fox", "bird"]).class_names == ["fox", "bird"]
    for names in ({"red_fox": "fox", "owl": "bird"}, {"0": "fox", "1": "bird"}):
        assert rename_classes(data, names).class_names == ["fox", "bird"]


def test_imagenets_names_serve_a_subset_of_its_ids():
    ids = imagenet_ids()
    names = [f"name {row}" for row in range(1000)]
    data = named(ids[7], ids[999], ids[0])
    assert rename_classes(data, names).class_names == ["name 7", "name 999", "name 0"]


def test_wrong_numbers_and_missing_names():
    with pytest.raises(
        InputError, match="name the 2 classes of the data, received 3 n"
    ):
        rename_classes(named("a", "b"), ["x", "y", "z"])
    with pytest.raises(
        InputError, match="name the 2 classes of the data, received 1000"
    ):
        rename_classes(named("a", "b"), ["x"] * 1000)
    with pytest.raises(InputError, match="no name for 'b' and 1 others"):
        rename_classes(named("a", "b", "c"), {"a": "x"})


def test_ids_are_no_names_for_prompts():
    check_names_for_prompts(["n01440764", "tench"])
    with pytest.raises(InputError, match="none for 'n01440764' .*clip:imagenet1k"):
        check_names_for_prompts(["n01440764", "n01443537"])


TEN = ["ant", "bee", "cat", "dog", "elk", "fox", "gnu", "hen", "ibis", "jay"]


@pytest.mark.parametrize("ordered", [False, True])
def test_a_list_of_the_names_of_the_data_is_matched_by_name(ordered):
    expected = [name.title() for name in TEN]
    for names in (expected, expected[::-1], expected[5:] + expected[:5]):
        assert rename_classes(named(*TEN), names, ordered).class_names == expected
    # Two classes that only differ by case are told apart.
    data = named("a b", "A b")
    assert rename_classes(data, ["A_b", "a b"], ordered).class_names == ["a b", "A_b"]


def test_other_names_of_a_folder_are_refused_with_the_differences():
    message = (
        "must name the 3 classes of the data, received 3 names; only the file has "
        "'eel', 'owl'; only the data has 'bee', 'cat'. To give classes other names, "
        "write two columns divided by a tab"
    )
    with pytest.raises(InputError, match=message):
        rename_classes(named("ant", "bee", "cat"), ["eel", "ant", "owl"], ordered=False)
    with pytest.raises(InputError, match="received 4 names; some of them are repeated"):
        names = ["ant", "bee", "cat", "ant"]
        rename_classes(named("ant", "bee", "cat"), names, ordered=False)
    # Nor are a folder's classes named by their positions.
    with pytest.raises(InputError, match="no name for 'ant'"):
        rename_classes(named("ant", "bee"), {"0": "x", "1": "y"}, ordered=False)


def test_a_list_in_the_order_of_the_labels_must_not_hold_names_elsewhere():
    data = named("ant", "bee", "cat")
    assert rename_classes(data, ["ant", "wasp", "cat"]).class_names[1] == "wasp"
    with pytest.raises(InputError, match="received 'Bee' for label 0, which is 'ant'"):
        rename_classes(data, ["Bee", "ant", "lion"])


@pytest.mark.parametrize(
    "file, content",
    [
        ("names.txt", "red_fox\tfox, red\nowl\tbird\n"),
        ("names.tsv", "owl\tbird\nred fox\tfox, red\n\n"),
        ("names.csv", 'class,prompt\nowl,bird\nred_fox,"fox, red"\n'),
    ],
)
def test_two_columns_map_names(tmp_path, file, content):
    (tmp_path / file).write_text(content)
    names = read_class_names(tmp_path / file)
    data = rename_classes(named("owl", "red fox"), names, ordered=False)
    assert data.class_names == ["bird", "fox, red"]


@pytest.mark.parametrize(
    "content, message",
    [
        ("a\tb\nc\n", "two columns in each line, .* received 1 in line 2 of"),
        ("a\tb\tc\n", "received 3 in line 1"),
        ("a\tb\na\tc\n", "each class once, received 'a' again in line 2"),
        ("a\t\n", "something else or an empty name"),
    ],
)
def test_tables_that_are_no_two_columns(tmp_path, content, message):
    (tmp_path / "names.txt").write_text(content)
    with pytest.raises(InputError, match=message):
        read_class_names(tmp_path / "names.txt")
