"""VTAB-1k: 19 tasks of 1,000 training images (Zhai et al. 2019)."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow_datasets as tfds

from align_keras.datasets.benchmarks.class_names import readable_name
from align_keras.datasets.benchmarks.labeled_images import (
    LabeledImages,
    StoredImages,
    prepared_builder,
    read_examples,
)
from align_keras.utils.arguments import check_choice
from align_keras.utils.errors import InputError

# Car, van and truck in KITTI's order of types.
_VEHICLES = 3
_NO_VEHICLE = 1000.0
_CLEVR_DISTANCES = (0.0, 8.0, 8.5, 9.0, 9.5, 10.0, 100.0)
_KITTI_DISTANCES = (-100.0, 8.0, 20.0, 999.0)
_FEWEST_OBJECTS, _MOST_OBJECTS = 3, 10


def interval(value: float, thresholds: Sequence[float]) -> int:
    """The number of the interval that a value lies in, above its threshold."""
    return max(int(np.searchsorted(thresholds, value, side="left")) - 1, 0)


def clevr_closest_object_distance(objects: dict[str, np.ndarray]) -> int:
    """Depth of the nearest object, in 6 intervals."""
    depths = objects["pixel_coords"][:, 2]
    nearest = float(np.min(depths, initial=_CLEVR_DISTANCES[-1]))
    return min(interval(nearest, _CLEVR_DISTANCES), len(_CLEVR_DISTANCES) - 2)


def clevr_count_all(objects: dict[str, np.ndarray]) -> int:
    """Number of objects, 3 to 10."""
    count = len(objects["size"])
    return min(max(count, _FEWEST_OBJECTS), _MOST_OBJECTS) - _FEWEST_OBJECTS


def kitti_closest_vehicle_distance(objects: dict[str, np.ndarray]) -> int:
    """Distance ahead of the nearest car, van or truck: 3 intervals, or none."""
    is_vehicle = np.asarray(objects["type"]) < _VEHICLES
    distances = np.asarray(objects["location"])[:, 2][is_vehicle]
    return interval(float(np.min(distances, initial=_NO_VEHICLE)), _KITTI_DISTANCES)


def dsprites_x_position(position: int | np.integer) -> int:
    """32 positions, two by two."""
    return int(position) * 16 // 32


def dsprites_orientation(angle: int | np.integer) -> int:
    """40 angles in 16 groups of two or three."""
    return int(angle) * 16 // 40


VTAB_SPLITS = ("train800", "val200", "train800val200", "test")


@dataclasses.dataclass(frozen=True)
class VtabTask:
    """One task of a group and a TFDS data set, whose feature `annotation` `class_of`
    takes to a class. Without a validation split, that begins behind `train_percent` of
    train; `test` is judged, "rest" what train and validation (`validation_percent`)
    leave of the only split.
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


def _tasks(group, *rows):
    """Tasks named after their builder and, where there are several, a suffix."""
    for builder, suffix, *rest, splits in rows:
        name = builder.partition("/")[0] + suffix
        yield VtabTask(name, group, builder, *rest, **splits)


_DSPRITES = {"train_percent": 80, "test": "rest", "validation_percent": 10}
_CLEVR = {"train_percent": 90, "test": "validation"}
_AERIAL = {"train_percent": 60, "test": "rest", "validation_percent": 20}
_NORB = {"test": "test[50%:]"}
_X, _TURN = "label_x_position", "label_orientation"
_OBJECT, _VEHICLE = "_closest_object_distance", "_closest_vehicle_distance"
_TASKS = (
    *_tasks(
        "natural",
        ("caltech101", "", 102, {"train_percent": 90}),
        ("cifar100", "", 100, {"train_percent": 90}),
        ("dtd", "", 47, {}),
        ("oxford_flowers102", "", 102, {}),
        ("oxford_iiit_pet", "", 37, {"train_percent": 80}),
        ("sun397/tfds", "", 397, {}),
        ("svhn_cropped", "", 10, {"train_percent": 90}),
    ),
    *_tasks(
        "specialized",
        ("patch_camelyon", "", 2, {}),
        ("eurosat/rgb", "", 10, _AERIAL),
        ("resisc45", "", 45, _AERIAL),
        ("diabetic_retinopathy_detection/btgraham-300", "", 5, {}),
    ),
    *_tasks(
        "structured",
        ("clevr", _OBJECT, 6, "objects", clevr_closest_object_distance, _CLEVR),
        ("clevr", "_count_all", 8, "objects", clevr_count_all, _CLEVR),
        ("dmlab", "", 6, {}),
        ("dsprites", f"_{_X}", 16, _X, dsprites_x_position, _DSPRITES),
        ("dsprites", f"_{_TURN}", 16, _TURN, dsprites_orientation, _DSPRITES),
        ("kitti", _VEHICLE, 4, "objects", kitti_closest_vehicle_distance, {}),
        ("smallnorb", "_label_azimuth", 18, "label_azimuth", _NORB),
        ("smallnorb", "_label_elevation", 9, "label_elevation", _NORB),
    ),
)
VTAB_TASKS = {task.name: task for task in _TASKS}


def vtab_tfds_split(task: VtabTask, split: str, train_size: int) -> str:
    """Returns VTAB's split as TFDS writes it, by the size of TFDS's split train."""
    start = train_size * (task.train_percent or 0) // 100
    if task.builder == "smallnorb":  # Half of its test images are for validation.
        validation = "test[:200]"
    elif task.train_percent is None:
        validation = "validation[:200]"
    else:
        validation = f"train[{start}:{start + 200}]"
    if split == "test" and task.test == "rest":
        start += train_size * task.validation_percent // 100
        return f"train[{start}:]"
    return {
        "train800": "train[:800]",
        "val200": validation,
        "train800val200": f"train[:800]+{validation}",
        "test": task.test,
    }[split]


def read_vtab(name: str, split: str) -> LabeledImages:
    """Reads one split of a task (Zhai et al. 2019; Jia et al. 2021, section 5.3)."""
    check_choice("split", split, VTAB_SPLITS)
    task = vtab_task(name)
    builder = prepared_builder(task.builder)
    try:
        train_size = builder.info.splits["train"].num_examples
        split = vtab_tfds_split(task, split, train_size)
        builder.info.splits[split]
    except (KeyError, ValueError) as error:
        raise InputError(
            f"{task.builder} must be prepared whole for vtab, received one without "
            f"{split} ({' '.join(str(error).split())}); prepare it again."
        ) from error
    annotation = tfds.decode.PartialDecoding({task.annotation: True})
    examples = read_examples(builder, split, annotation)
    classes = [task.class_of(example[task.annotation]) for example in examples]
    labels = np.array(classes, np.int64)
    made_of = _black_and_white if task.builder == "dsprites" else bytes
    return LabeledImages(
        images=StoredImages(builder, split, "image", len(labels), made_of),
        labels=labels,
        class_names=_class_names(task, builder),
        columns={},
    )


def vtab_task(name: str) -> VtabTask:
    """Returns the `VtabTask` of that name, or raises."""
    check_choice("vtab's task", name, VTAB_TASKS)
    return VTAB_TASKS[name]


def _class_names(task, builder):
    names = getattr(builder.info.features[task.annotation], "names", None)
    if names is None or len(names) != task.classes:
        return [str(number) for number in range(task.classes)]
    return [readable_name(name) for name in names]


def _black_and_white(png):
    """Makes an image of 0 and 255 from dSprites' of 0 and 1."""
    import tensorflow as tf

    pixels = tf.io.decode_png(png, channels=1)
    return tf.io.encode_png(pixels * 255).numpy()
