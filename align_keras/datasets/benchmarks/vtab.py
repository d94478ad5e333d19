"""Reader of VTAB-1k, 19 tasks with 1,000 training images each (Zhai et al. 2019)."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from align_keras.datasets.benchmarks.class_names import readable_name
from align_keras.datasets.benchmarks.labeled_images import LabeledImages
from align_keras.datasets.benchmarks.tfds_images import (
    StoredImages,
    prepared_builder,
    read_examples,
)
from align_keras.utils.arguments import check_choice

# Number of vehicle types in KITTI, which are the first object types: car, van and
# truck.
_VEHICLES = 3
# Distance for an image without vehicles, which is above all thresholds.
_NO_VEHICLE = 1000.0
# Edges of the distance intervals.
_CLEVR_DISTANCES = (0.0, 8.0, 8.5, 9.0, 9.5, 10.0, 100.0)
_KITTI_DISTANCES = (-100.0, 8.0, 20.0, 999.0)
_FEWEST_OBJECTS, _MOST_OBJECTS = 3, 10


def interval(value: float, thresholds: Sequence[float]) -> int:
    """Returns the index of the interval that contains a value.

    Args:
        value: float.
        thresholds: edges of the intervals, ascending. An interval includes its upper
            edge.
    """
    return max(int(np.searchsorted(thresholds, value, side="left")) - 1, 0)


def clevr_closest_object_distance(objects: dict[str, np.ndarray]) -> int:
    """Returns the interval of the nearest object's depth, one of 6 classes."""
    depths = objects["pixel_coords"][:, 2]
    nearest = float(np.min(depths, initial=_CLEVR_DISTANCES[-1]))
    return min(interval(nearest, _CLEVR_DISTANCES), len(_CLEVR_DISTANCES) - 2)


def clevr_count_all(objects: dict[str, np.ndarray]) -> int:
    """Returns the class of the number of objects, 0 for 3 objects to 7 for 10."""
    count = len(objects["size"])
    return min(max(count, _FEWEST_OBJECTS), _MOST_OBJECTS) - _FEWEST_OBJECTS


def kitti_closest_vehicle_distance(objects: dict[str, np.ndarray]) -> int:
    """Returns the class of the distance to the nearest car, van or truck.

    Classes 0 to 2 are intervals of the distance. Class 3 means that there is no
    vehicle.
    """
    is_vehicle = np.asarray(objects["type"]) < _VEHICLES
    distances = np.asarray(objects["location"])[:, 2][is_vehicle]
    return interval(float(np.min(distances, initial=_NO_VEHICLE)), _KITTI_DISTANCES)


def dsprites_x_position(position: int | np.integer) -> int:
    """Returns one of 16 classes of the x position, each with two of 32 positions."""
    return int(position) * 16 // 32


def dsprites_orientation(angle: int | np.integer) -> int:
    """Returns one of 16 classes of the angle, each with two or three of 40 angles."""
    return int(angle) * 16 // 40


VTAB_SPLITS = ("train800", "val200", "train800val200", "test")


@dataclasses.dataclass(frozen=True)
class VtabTask:
    """Task of VTAB on a data set of TFDS.

    Attributes:
        name: name of the task.
        group: `"natural"`, `"specialized"` or `"structured"`.
        builder: name of the data set in TFDS.
        classes: number of classes.
        annotation: feature that determines the class.
        class_of: callable that returns the class of an annotation.
        train_percent: percentage of the split train after which the validation
            images begin, or None if the data set has a validation split.
        test: split of TFDS for the test, or `"remainder"` for the images of the
            split train that are used neither for training nor for validation.
        validation_percent: percentage of the split train for validation if `test`
            is `"remainder"`.
    """

    name: str
    group: str
    builder: str
    classes: int
    annotation: str = "label"
    class_of: Callable = int
    train_percent: int | None = None
    test: str = "test"
    validation_percent: int = 0


_TASKS = (
    VtabTask(
        name="caltech101",
        group="natural",
        builder="caltech101",
        classes=102,
        train_percent=90,
    ),
    VtabTask(
        name="cifar100",
        group="natural",
        builder="cifar100",
        classes=100,
        train_percent=90,
    ),
    VtabTask(
        name="dtd",
        group="natural",
        builder="dtd",
        classes=47,
    ),
    VtabTask(
        name="oxford_flowers102",
        group="natural",
        builder="oxford_flowers102",
        classes=102,
    ),
    VtabTask(
        name="oxford_iiit_pet",
        group="natural",
        builder="oxford_iiit_pet",
        classes=37,
        train_percent=80,
    ),
    VtabTask(
        name="sun397",
        group="natural",
        builder="sun397/tfds",
        classes=397,
    ),
    VtabTask(
        name="svhn_cropped",
        group="natural",
        builder="svhn_cropped",
        classes=10,
        train_percent=90,
    ),
    VtabTask(
        name="patch_camelyon",
        group="specialized",
        builder="patch_camelyon",
        classes=2,
    ),
    VtabTask(
        name="eurosat",
        group="specialized",
        builder="eurosat/rgb",
        classes=10,
        train_percent=60,
        test="remainder",
        validation_percent=20,
    ),
    VtabTask(
        name="resisc45",
        group="specialized",
        builder="resisc45",
        classes=45,
        train_percent=60,
        test="remainder",
        validation_percent=20,
    ),
    VtabTask(
        name="diabetic_retinopathy_detection",
        group="specialized",
        builder="diabetic_retinopathy_detection/btgraham-300",
        classes=5,
    ),
    VtabTask(
        name="clevr_closest_object_distance",
        group="structured",
        builder="clevr",
        classes=6,
        annotation="objects",
        class_of=clevr_closest_object_distance,
        train_percent=90,
        test="validation",
    ),
    VtabTask(
        name="clevr_count_all",
        group="structured",
        builder="clevr",
        classes=8,
        annotation="objects",
        class_of=clevr_count_all,
        train_percent=90,
        test="validation",
    ),
    VtabTask(
        name="dmlab",
        group="structured",
        builder="dmlab",
        classes=6,
    ),
    VtabTask(
        name="dsprites_label_x_position",
        group="structured",
        builder="dsprites",
        classes=16,
        annotation="label_x_position",
        class_of=dsprites_x_position,
        train_percent=80,
        test="remainder",
        validation_percent=10,
    ),
    VtabTask(
        name="dsprites_label_orientation",
        group="structured",
        builder="dsprites",
        classes=16,
        annotation="label_orientation",
        class_of=dsprites_orientation,
        train_percent=80,
        test="remainder",
        validation_percent=10,
    ),
    VtabTask(
        name="kitti_closest_vehicle_distance",
        group="structured",
        builder="kitti",
        classes=4,
        annotation="objects",
        class_of=kitti_closest_vehicle_distance,
    ),
    VtabTask(
        name="smallnorb_label_azimuth",
        group="structured",
        builder="smallnorb",
        classes=18,
        annotation="label_azimuth",
        test="test[50%:]",
    ),
    VtabTask(
        name="smallnorb_label_elevation",
        group="structured",
        builder="smallnorb",
        classes=9,
        annotation="label_elevation",
        test="test[50%:]",
    ),
)
VTAB_TASKS = {task.name: task for task in _TASKS}


def vtab_tfds_split(task: VtabTask, split: str, train_size: int) -> str:
    """Returns the TFDS specification of a split of VTAB.

    Args:
        task: `VtabTask`.
        split: one of `VTAB_SPLITS`.
        train_size: number of images in the split train of TFDS.
    """
    start = train_size * (task.train_percent or 0) // 100
    if (
        task.builder == "smallnorb"
    ):  # The first half of the test split is used for validation.
        validation = "test[:200]"
    elif task.train_percent is None:
        validation = "validation[:200]"
    else:
        validation = f"train[{start}:{start + 200}]"
    if split == "test" and task.test == "remainder":
        start += train_size * task.validation_percent // 100
        return f"train[{start}:]"
    return {
        "train800": "train[:800]",
        "val200": validation,
        "train800val200": f"train[:800]+{validation}",
        "test": task.test,
    }[split]


def read_vtab(name: str, split: str) -> LabeledImages:
    """Reads a split of a task.

    Args:
        name: name of the task, a key of `VTAB_TASKS`.
        split: one of `VTAB_SPLITS`.

    Returns:
        `LabeledImages`.

    Raises:
        InputError: If the task or the split is unknown, or TFDS hasn't prepared the
            data set.

    References:
        Zhai et al. 2019.
        Jia et al. 2021, section 5.3.
    """
    check_choice("split", split, VTAB_SPLITS)
    task = vtab_task(name)
    builder = prepared_builder(task.builder)
    train_size = builder.info.splits["train"].num_examples
    split = vtab_tfds_split(task, split, train_size)
    annotation = tfds.decode.PartialDecoding({task.annotation: True})
    examples = read_examples(builder, split, annotation)
    classes = [task.class_of(example[task.annotation]) for example in examples]
    labels = np.array(classes, np.int64)
    convert = _black_and_white if task.builder == "dsprites" else bytes
    return LabeledImages(
        images=StoredImages(builder, split, "image", len(labels), convert),
        labels=labels,
        class_names=_class_names(task, builder),
        columns={},
    )


def vtab_task(name: str) -> VtabTask:
    """Returns the `VtabTask` of a name. Raises `InputError` if there is none."""
    check_choice("The task of vtab", name, VTAB_TASKS)
    return VTAB_TASKS[name]


def _class_names(task: VtabTask, builder: Any) -> list[str]:
    names = getattr(builder.info.features[task.annotation], "names", None)
    if names is None or len(names) != task.classes:
        return [str(number) for number in range(task.classes)]
    return [readable_name(name) for name in names]


def _black_and_white(png: bytes) -> bytes:
    """Scales the pixels of a dSprites image from 0 and 1 to 0 and 255."""
    import tensorflow as tf

    pixels = tf.io.decode_png(png, channels=1)
    return tf.io.encode_png(pixels * 255).numpy()
