"""Tests of the splits, classes and readers of VTAB-1k."""

import io
from unittest import mock

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from align_keras.datasets.benchmarks import vtab
from align_keras.datasets.benchmarks.vtab import (
    VTAB_SPLITS,
    VTAB_TASKS,
    read_vtab,
    vtab_tfds_split,
)
from align_keras.utils.errors import InputError
from tests.helpers.small_benchmarks import create_unprepared_builder

# Numbers of classes by group and task (Zhai et al. 2019, table 2).
CLASSES = {
    "natural": {
        "caltech101": 102,
        "cifar100": 100,
        "dtd": 47,
        "oxford_flowers102": 102,
        "oxford_iiit_pet": 37,
        "sun397": 397,
        "svhn_cropped": 10,
    },
    "specialized": {
        "patch_camelyon": 2,
        "eurosat": 10,
        "resisc45": 45,
        "diabetic_retinopathy_detection": 5,
    },
    "structured": {
        "clevr_closest_object_distance": 6,
        "clevr_count_all": 8,
        "dmlab": 6,
        "dsprites_label_x_position": 16,
        "dsprites_label_orientation": 16,
        "kitti_closest_vehicle_distance": 4,
        "smallnorb_label_azimuth": 18,
        "smallnorb_label_elevation": 9,
    },
}


def test_the_tasks_match_the_benchmark():
    classes = {group: {} for group in CLASSES}
    for task in VTAB_TASKS.values():
        classes[task.group][task.name] = task.classes
    assert classes == CLASSES


# --- Splits, as the public code computes them for the sizes of the real data sets ---


@pytest.mark.parametrize(
    "name, train_size, validation, test",
    [
        ("caltech101", 3059, "train[2753:2953]", "test"),
        ("oxford_iiit_pet", 3680, "train[2944:3144]", "test"),
        ("dtd", 1880, "validation[:200]", "test"),
        ("eurosat", 27_000, "train[16200:16400]", "train[21600:]"),
        ("clevr_count_all", 70_000, "train[63000:63200]", "validation"),
        (
            "dsprites_label_x_position",
            737_280,
            "train[589824:590024]",
            "train[663552:]",
        ),
        ("smallnorb_label_azimuth", 24_300, "test[:200]", "test[50%:]"),
    ],
)
def test_splits_match_the_public_code(name, train_size, validation, test):
    task = VTAB_TASKS[name]
    splits = [vtab_tfds_split(task, split, train_size) for split in VTAB_SPLITS]
    assert splits == [
        "train[:800]",
        validation,
        f"train[:800]+{validation}",
        test,
    ]


# --- Classes of annotations ---


def test_the_clevr_distance_is_the_interval_of_the_nearest_object():
    scenes = [[7.9, 20.0], [8.0], [8.01, 9.7], [8.6], [9.2], [10.0, 12.0], [10.1]]
    labels = []
    for depths in scenes:
        pixels = np.array([[3.0, 4.0, depth] for depth in depths], "float32")
        labels.append(vtab.clevr_closest_object_distance({"pixel_coords": pixels}))
    assert labels == [0, 0, 1, 2, 3, 4, 5]


def test_the_clevr_count_starts_at_three_objects():
    counts = [vtab.clevr_count_all({"size": [0] * n}) for n in range(3, 11)]
    assert counts == list(range(8))


def test_the_kitti_distance_is_the_interval_of_the_nearest_vehicle():
    scenes = [
        ([0, 3], [7.0, 1.0]),  # The nearer object is a pedestrian.
        ([1], [8.0]),
        ([2, 0], [40.0, 8.1]),
        ([0], [20.5]),
        ([3, 7], [2.0, -1000.0]),
        ([], []),
    ]
    labels = []
    for types, distances in scenes:
        locations = np.array([[50.0, 0.0, z] for z in distances], "float32")
        objects = {"type": np.array(types, int), "location": locations.reshape(-1, 3)}
        labels.append(vtab.kitti_closest_vehicle_distance(objects))
    assert labels == [0, 0, 1, 2, 3, 3]


def test_dsprites_positions_and_angles_are_grouped():
    positions = [vtab.dsprites_x_position(n) for n in range(32)]
    assert positions == [n // 2 for n in range(32)]
    angles = [vtab.dsprites_orientation(n) for n in range(40)]
    assert angles == [int(n / 2.5) for n in range(40)]
    assert sorted(set(angles)) == list(range(16))


# --- Readers ---


# One task whose annotation is the class, and one with a number of objects.
@pytest.mark.parametrize("name", ["smallnorb_label_azimuth", "clevr_count_all"])
def test_tasks_are_read_from_tfds(name):
    task = VTAB_TASKS[name]
    with (
        tfds.testing.mock_data(num_examples=3),
        mock.patch.object(vtab, "prepared_builder", create_unprepared_builder),
    ):
        data = read_vtab(name, "val200")
        images = list(data.images)
        assert [Image.open(io.BytesIO(image)).format for image in images]
        assert images == list(data.images)
        if task.class_of is int:
            feature = create_unprepared_builder(task.builder).info.features[
                task.annotation
            ]
            assert feature.num_classes == task.classes
    assert len(data.images) == len(data.labels) == 3
    assert data.labels.min() >= 0 and data.labels.max() < task.classes
    assert len(data.class_names) == task.classes


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(np.asarray(pixels, "uint8")).save(file, "PNG")
    return io.BytesIO(file.getvalue())


def prepare(name, data_dir, splits):
    """Prepares a data set with TFDS from examples instead of a download."""
    builder = tfds.builder(name, data_dir=data_dir)
    generators = {
        split: iter(list(enumerate(examples))) for split, examples in splits.items()
    }
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    with mock.patch.object(type(builder), "_split_generators", lambda *_: generators):
        tfds.disable_progress_bar()
        builder.download_and_prepare(download_config=config)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Folder of the data set svhn_cropped with a number in each image."""
    folder = tmp_path_factory.mktemp("tfds")
    numbered = np.zeros((2100, 32, 32, 3), "uint8")
    numbered[:, :, :, 0] = (np.arange(2100) // 256)[:, None, None]
    numbered[:, :, :, 1] = (np.arange(2100) % 256)[:, None, None]
    digits = [
        {"image": pixels, "label": row % 10, "id": str(row)}
        for row, pixels in enumerate(numbered)
    ]
    prepare("svhn_cropped", folder, {"train": digits, "test": digits[:7]})
    return folder


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    street = {
        "alpha": 0.0,
        "bbox": tfds.features.BBox(0.0, 0.0, 1.0, 1.0),
        "dimensions": [1.0, 1.0, 1.0],
        "occluded": 0,
        "rotation_y": 0.0,
        "truncated": 0.0,
    }
    scenes = [
        [("Car", 30.0), ("Van", 12.0), ("Pedestrian", 3.0)],
        [("Truck", 5.0)],
        [("Cyclist", 5.0)],
        [],
    ]
    examples = [
        {
            "image": png(np.zeros((6, 20, 3))),
            "image/file_name": "0.png",
            "objects": [
                {**street, "type": kind, "location": [0.0, 0.0, z]} for kind, z in scene
            ],
        }
        for scene in scenes
    ]
    prepare(
        "kitti", folder, {"train": examples, "validation": examples, "test": examples}
    )
    features = tfds.builder("dsprites", data_dir=folder).info.features
    sprite = {name: 20 for name in features if name.startswith("label_")}
    sprite |= {"label_scale": 5, "label_shape": 2}
    sprite |= {name: 0.0 for name in features if name.startswith("value_")}
    sprite["image"] = np.eye(64, dtype="uint8")[:, :, None]
    prepare("dsprites", folder, {"train": [sprite] * 10})
    return folder


@pytest.fixture
def prepared(data_dir, monkeypatch):
    monkeypatch.setattr("tensorflow_datasets.core.constants.DATA_DIR", str(data_dir))


def numbers_of(data):
    pixels = [np.asarray(Image.open(io.BytesIO(image)))[0, 0] for image in data.images]
    return [256 * int(red) + int(green) for red, green, _ in pixels]


@pytest.mark.ci
def test_the_splits_have_the_documented_sizes_and_are_disjoint(digits, monkeypatch):
    monkeypatch.setattr("tensorflow_datasets.core.constants.DATA_DIR", str(digits))
    train, validation, both, test = (
        read_vtab("svhn_cropped", split) for split in VTAB_SPLITS
    )
    assert [len(part.labels) for part in (train, validation, both, test)] == [
        800,
        200,
        1000,
        7,
    ]
    numbers = numbers_of(both)
    assert sorted(numbers_of(train) + numbers_of(validation)) == sorted(numbers)
    assert len(set(numbers)) == 1000
    # Images and classes are in the same order.
    assert [number % 10 for number in numbers] == both.labels.tolist()


def test_stored_examples_of_kitti_are_read(prepared):
    data = read_vtab("kitti_closest_vehicle_distance", "test")
    assert sorted(data.labels.tolist()) == [0, 1, 3, 3]
    types = tfds.builder("kitti").info.features["objects"]["type"].names
    assert types[:3] == ["Car", "Van", "Truck"]


def test_dsprites_images_are_white_on_black(prepared):
    data = read_vtab("dsprites_label_x_position", "test")
    assert data.labels.tolist() == [10]
    [image] = data.images
    pixels = np.asarray(Image.open(io.BytesIO(image)))
    np.testing.assert_array_equal(pixels, np.eye(64, dtype="uint8") * 255)


def test_unknown_or_unprepared_data_raises(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="task"):
        read_vtab("imagenet", "test")
    with pytest.raises(InputError, match="split"):
        read_vtab("dtd", "train")
    monkeypatch.setattr("tensorflow_datasets.core.constants.DATA_DIR", str(tmp_path))
    with pytest.raises(InputError, match="resisc45"):
        read_vtab("resisc45", "test")
