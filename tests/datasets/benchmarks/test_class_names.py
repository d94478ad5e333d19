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
from tests.oracle_process import needs


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
