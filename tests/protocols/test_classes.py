"""Tests of the training and test splits of image classification."""

import dataclasses
import functools
import os
import pathlib

import pytest
import tensorflow_datasets as tfds

from align_keras.protocols.class_protocols import (
    check_several_classes,
    check_splits_are_apart,
    labeled_images,
    split_of_classes,
    train_and_test,
    unusual_splits,
)
from align_keras.protocols.protocol import Request
from align_keras.utils.errors import InputError
from tests.helpers.small_benchmarks import (
    imagenet_examples,
    prepare,
)

IDS = ["n01443537", "n07697537", "n01443537", "n02007558"]


def request(name, train_split=None, split=None):
    return Request(name, split=split, train_split=train_split)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Folder of ImageNet-R with two splits. The published data set has one split."""
    folder = tmp_path_factory.mktemp("tfds")
    examples = imagenet_examples(IDS)
    prepare("imagenet_r", folder, {"test": examples, "train": examples[:2]})
    return folder


@pytest.fixture
def folders(tmp_path):
    for split in ("train", "test", "val"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            (tmp_path / split / name / "1.png").touch()
    return str(tmp_path)


def is_refused(overlapping_request):
    try:
        check_splits_are_apart(overlapping_request)
    except InputError as error:
        assert "train_split and split" in str(error)
        return True
    return False


@pytest.mark.parametrize(
    "train_split, split, refused",
    [
        (None, None, False),
        (None, "train", True),
        ("all", None, True),
        ("test", "train", False),
    ],
)
def test_overlapping_splits_of_the_stamps_are_refused(train_split, split, refused):
    assert is_refused(request("stamps", train_split, split)) == refused


@pytest.mark.parametrize(
    "train_split, split, refused",
    [
        ("val", None, False),
        ("val/../test", None, True),
        ("alias", "val", True),
        ("alias", "test", False),
        ("test", ".", True),
    ],
)
def test_overlapping_folders_of_classes_are_refused(
    folders, train_split, split, refused
):
    os.symlink(os.path.join(folders, "val"), os.path.join(folders, "alias"))
    assert is_refused(request(folders, train_split, split)) == refused


@pytest.mark.parametrize(
    "train_split, split, refused",
    [
        ("train[:50%]", "train", True),
        ("train[:50%]", "train[50%:]", False),
        ("train+test[:1]", "test[1:]", False),
        ("train+test[:2]", "test[1:]", True),
    ],
)
def test_overlapping_splits_of_tfds_are_refused(
    prepared, monkeypatch, train_split, split, refused
):
    builder = functools.partial(tfds.builder, data_dir=prepared)
    monkeypatch.setattr(tfds, "builder", lambda name, data_dir=None: builder(name))
    assert is_refused(request("imagenet_r", train_split, split)) == refused


def test_unknown_splits_of_tfds_are_refused(prepared, monkeypatch):
    builder = functools.partial(tfds.builder, data_dir=prepared)
    monkeypatch.setattr(tfds, "builder", lambda name, data_dir=None: builder(name))
    with pytest.raises(InputError, match="split of imagenet_r"):
        train_and_test(request("imagenet_r", "x"))


def test_both_splits_are_read(folders):
    train, test = train_and_test(request(folders, "val"))
    assert [pathlib.Path(path).parts[-3] for path in train.images] == ["val", "val"]
    assert [pathlib.Path(path).parts[-3] for path in test.images] == ["test", "test"]
    pathlib.Path(folders, "val", "cat", "1.png").rename(f"{folders}/val/dog/2.png")
    pathlib.Path(folders, "val", "cat").rmdir()
    with pytest.raises(InputError, match="same classes"):
        train_and_test(request(folders, "val"))


@pytest.mark.parametrize(
    "name, train_split, test_split",
    [
        ("imagenet2012", "train", "validation"),
        ("food101:2.*.*", "train", "validation"),
        ("cifar100", "train", "test"),
    ],
)
def test_data_sets_of_tfds_have_default_splits(name, train_split, test_split):
    assert split_of_classes(request(name), train=True) == train_split
    assert split_of_classes(request(name)) == test_split
    assert split_of_classes(request(name, "a", "b"), train=True) == "a"
    assert split_of_classes(request(name, "a", "b")) == "b"


@pytest.mark.parametrize(
    "name, train_split, split, unusual",
    [
        ("imagenet2012:5.1.0", None, "validation", {}),
        ("flickr30k", None, "train", {"split": "train"}),
        ("food101", "train[:9]", "validation", {"train_split": "train[:9]"}),
    ],
)
def test_splits_that_differ_from_the_paper_are_listed(
    name, train_split, split, unusual
):
    assert unusual_splits(request(name, train_split, split)) == unusual


def test_a_folder_without_a_training_split_is_refused(tmp_path):
    with pytest.raises(InputError, match="train"):
        split_of_classes(request(str(tmp_path)), train=True)


def make_images(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_a_folder_of_splits_is_recognized(tmp_path):
    make_images(tmp_path, "test/cat/1.png", "test/dog/1.png")
    assert split_of_classes(request(str(tmp_path))) == "test"
    data = labeled_images(request(str(tmp_path)))
    assert data.class_names == ["cat", "dog"]
    make_images(tmp_path, "train/cat/1.png", "train/dog/1.png", "notes/1.txt")
    assert split_of_classes(request(str(tmp_path))) == "test"


def test_an_ambiguous_folder_needs_the_option_split(tmp_path):
    make_images(tmp_path, "train/cat/1.png", "val/cat/1.png")
    make_images(tmp_path, "bus/1.png")
    with pytest.raises(InputError, match="split"):
        split_of_classes(request(str(tmp_path)))
    assert labeled_images(request(str(tmp_path), split=".")).class_names == [
        "bus",
        "train",
        "val",
    ]


def test_classes_may_have_the_names_of_splits(tmp_path):
    make_images(tmp_path, "bus/1.png", "train/1.png", "test/1.png")
    assert split_of_classes(request(str(tmp_path))) is None
    names = labeled_images(request(str(tmp_path))).class_names
    assert names == ["bus", "test", "train"]


def test_a_single_class_is_refused(tmp_path):
    make_images(tmp_path, "train/cat/1.png", "test/cat/1.png")
    with pytest.raises(InputError, match="two classes"):
        train_and_test(request(str(tmp_path)))
    with pytest.raises(InputError, match="two classes"):
        check_several_classes(labeled_images(request(str(tmp_path))))


def test_the_classes_of_a_folder_are_matched_by_name(tmp_path):
    make_images(tmp_path, "ant/1.png", "bee/1.png", "cat/1.png")
    (tmp_path / "names.txt").write_text("cat\nant\nbee\n")
    folder = dataclasses.replace(
        request(str(tmp_path)), classes=str(tmp_path / "names.txt")
    )
    assert labeled_images(folder).class_names == ["ant", "bee", "cat"]
    (tmp_path / "names.txt").write_text("lion\nant\nbee\n")
    with pytest.raises(InputError, match="lion"):
        labeled_images(folder)


def test_renaming_by_the_order_of_labels_is_reported(
    prepared, monkeypatch, tmp_path, capsys
):
    builder = functools.partial(tfds.builder, data_dir=prepared)
    monkeypatch.setattr(tfds, "builder", lambda name, data_dir=None: builder(name))
    count = len(labeled_images(request("imagenet_r")).class_names)
    (tmp_path / "names.txt").write_text(
        "".join(f"kind {row}\n" for row in range(count))
    )
    renamed = dataclasses.replace(
        request("imagenet_r"), classes=str(tmp_path / "names.txt")
    )
    assert labeled_images(renamed).class_names[1] == "kind 1"
    message = capsys.readouterr().err
    assert "--classes" in message and "imagenet_r" in message
    assert "is kind 0, " in message
