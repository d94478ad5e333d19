"""Tests of the reader of class folders."""

import pathlib

import numpy as np
import pytest
from PIL import Image

from align_keras.datasets.benchmarks.labeled_images import read_class_folders
from align_keras.utils.errors import InputError


def write(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(path)


def test_classes_and_images_are_in_alphabetical_order(tmp_path):
    write(tmp_path, "test/owl/b.png", "test/owl/a.JPG", "test/Red_fox/x/1.jpeg")
    (tmp_path / "test" / "owl" / "notes.txt").write_text("not an image")
    write(tmp_path, "test/owl/.hidden.png", "test/.cache/c.png")
    data = read_class_folders(tmp_path, "test")
    assert data.class_names == ["Red fox", "owl"]
    assert data.labels.tolist() == [0, 1, 1]
    assert [pathlib.Path(path).name for path in data.images] == [
        "1.jpeg",
        "a.JPG",
        "b.png",
    ]
    assert data.columns == {} and all(isinstance(path, str) for path in data.images)
    assert data.image_ids == ["Red_fox/x/1.jpeg", "owl/a.JPG", "owl/b.png"]


def test_the_order_does_not_depend_on_the_file_system(tmp_path):
    names = [f"{number:02}.png" for number in np.random.default_rng(0).permutation(40)]
    write(tmp_path, *(f"cat/{name}" for name in names))
    data = read_class_folders(tmp_path)
    assert data.images == sorted(data.images)


def test_a_folder_without_splits_is_read(tmp_path):
    write(tmp_path, "cat/1.png", "dog/1.png")
    assert read_class_folders(tmp_path).class_names == ["cat", "dog"]


def test_the_data_may_be_in_a_hidden_folder(tmp_path):
    write(tmp_path / ".data", "cat/1.png")
    assert len(read_class_folders(tmp_path / ".data").images) == 1


def test_folders_without_classes_or_images_are_refused(tmp_path):
    write(tmp_path, "train/cat/1.png", "val/cat/1.png", "flat/1.png")
    with pytest.raises(InputError, match="flat, train, val"):
        read_class_folders(tmp_path, "test")
    with pytest.raises(InputError, match="flat"):
        read_class_folders(tmp_path / "flat")
    (tmp_path / "train" / "dog").mkdir()
    with pytest.raises(InputError, match="dog"):
        read_class_folders(tmp_path, "train")
