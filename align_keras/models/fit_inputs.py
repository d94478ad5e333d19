"""What `fit`, `evaluate` and `predict` take: raw pairs, or inputs that fit."""

import contextlib
import math
import os
import re
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from align_keras.images import read_image
from align_keras.models.on_replicas import is_distributed
from align_keras.models.raw_pairs import (
    batches_of_dataset,
    image_text_batches,
    is_raw,
    raw_pairs,
)
from align_keras.utils.errors import InputError

INPUTS = ("images", "token_ids", "padding_mask")
_REMEDY = (
    "give batches of images and captions by align_keras.data.image_text_batches, pairs "
    "(images, captions), or a dict or tf.data.Dataset of image and caption"
)


def quickly_copied(model: keras.Model, batches: tf.data.Dataset) -> tf.data.Dataset:
    """Spares the model's strategy what `training.distributed_batches` tells of."""
    if not is_distributed(model.distribute_strategy):
        return batches
    # Keras hands a strategy datasets, which it copies. TensorFlow's rewriting of a copy
    # takes a minute, and gains less than keeping each operation to one thread does.
    options = tf.data.Options()
    options.experimental_optimization.apply_default_optimizations = False
    options.threading.max_intra_op_parallelism = 1
    return batches.with_options(options)


def keras_input(
    model: keras.Model,
    x: Any,
    y: Any = None,
    *,
    training: bool = False,
    batch_size: int | None = None,
    shuffle: bool = False,
    repeat: bool = False,
    augment: bool = True,
    value_range: tuple[float, float] | None = None,
) -> Any:
    """Returns what to give to Keras as `x`: raw pairs are made batches of inputs."""
    pairs = raw_pairs(x, y)
    if pairs is not None:
        images, captions = pairs
        batches = image_text_batches(
            images,
            captions,
            model,
            training=training,
            shuffle=shuffle,
            batch_size=32 if batch_size is None else batch_size,
            crop=augment,
            flip=augment,
            value_range=value_range,
        )
        return quickly_copied(model, batches.repeat() if repeat else batches)
    is_batches = hasattr(x, "__iter__") or isinstance(x, keras.utils.PyDataset)
    if y is not None or not is_batches or isinstance(x, str | bytes | os.PathLike):
        raise InputError(
            f"x and y must be images and their captions, received {_kind(x)} and "
            f"{_kind(y)}; {_REMEDY}."
        )
    if is_raw_data(x):
        batches = batches_of_dataset(
            model, x, training=training, augment=augment, value_range=value_range
        )
        return quickly_copied(model, batches)
    if value_range is not None:
        raise InputError(
            f"value_range is of raw images, received {value_range} and {_kind(x)}, "
            "which is ready for the model; give gray levels in [0, 255], and leave it "
            "out."
        )
    if isinstance(x, tf.data.Dataset):
        check_data(model, x.element_spec)
    elif not isinstance(x, keras.utils.PyDataset) and hasattr(x, "__getitem__"):
        check_inputs(model, x)
        _check_gray_levels(x["images"])
    return x


def steps_of_epoch(
    batches: Any, batch_size: int | None, steps_per_epoch: int | None
) -> int | None:
    """Returns the number of updates of an epoch of `fit`, or None if it is unknown."""
    if steps_per_epoch is not None:
        return steps_per_epoch
    if isinstance(batches, tf.data.Dataset):
        count = int(batches.cardinality())
        return count if count > 0 else None
    if isinstance(batches, keras.utils.PyDataset):
        return batches.num_batches
    if isinstance(batches, dict):
        return math.ceil(len(batches["images"]) / (batch_size or 32))
    return None


def pairs_of_step(x: Any, y: Any, batches: Any, batch_size: int | None) -> int | None:
    """Returns the number of pairs in a step of `fit`, or None if it is unknown.

    Args:
        x: as given to `fit`.
        y: as given to `fit`.
        batches: what `keras_input` made of them.
        batch_size: int or None, as given to `fit`.
    """
    pairs = raw_pairs(x, y)
    if pairs is not None or isinstance(batches, dict):
        images = batches["images"] if pairs is None else pairs[0]
        size = batch_size or 32
        return size if isinstance(images, tf.data.Dataset) else min(size, len(images))
    for dataset in (batches, x):
        if not isinstance(dataset, tf.data.Dataset):
            continue
        shape = tf.nest.flatten(dataset.element_spec)[0].shape
        if shape.rank and shape[0] is not None:
            return int(shape[0])
        size = int(tf.raw_ops.ComputeBatchSize(input_dataset=dataset._variant_tensor))
        if size > 0:
            return size
    return batch_size


def is_raw_data(x: Any, y: Any = None) -> bool:
    """Tells whether `x` and `y` are raw pairs, as sequences or as a dataset."""
    if isinstance(x, tf.data.Dataset):
        return is_raw(x.element_spec)
    return raw_pairs(x, y) is not None


def as_x_and_y(validation_data: Any) -> tuple:
    """Returns `x` and `y` of `validation_data`, a dataset, a dict or a tuple."""
    if not isinstance(validation_data, tuple | list) or len(validation_data) > 3:
        return validation_data, None
    x, y, weight = (*validation_data, None, None)[:3]
    check_weights(sample_weight=weight)
    return x, y


def split_pairs(x: Any, y: Any, share: float) -> tuple:
    """Returns `x` and `y` of the first pairs, and the last `share` as a tuple."""
    pairs = raw_pairs(x, y)
    if pairs is None and isinstance(x, dict) and y is None:
        pairs = tuple(x.values())
    if pairs is None:
        raise InputError(
            f"validation_split must be 0 for {_kind(x)}; give validation_data, such as "
            "dataset.take(n) and, to train on, dataset.skip(n)."
        )
    count = len(pairs[0])
    first = int(count * (1 - share))
    if not 0 < first < count:
        raise InputError(
            f"validation_split must leave pairs on both sides of {count}, received "
            f"{share}; give validation_data, or another share."
        )
    parts = [[values[:first] for values in pairs], [values[first:] for values in pairs]]
    if raw_pairs(x, y) is not None:
        return *parts[0], tuple(parts[1])
    train, validation = (dict(zip(x, part, strict=True)) for part in parts)
    return train, None, validation


def check_weights(**weights: object) -> None:
    """Raises for weights of pairs or classes, for which the loss has no place."""
    for name, value in weights.items():
        if value is not None:
            raise InputError(
                f"{name} can't be given, received {_kind(value)}; the contrastive loss "
                "weighs all pairs of a batch alike: leave it out."
            )


def check_data(model: keras.Model, data: Any) -> None:
    """Raises unless a batch, as a step gets it, is inputs alone that fit the model."""
    inputs, *others = data if isinstance(data, tuple | list) else (data,)
    if any(other is not None for other in others):
        raise InputError(
            "a batch must be the inputs alone, received targets or weights beside "
            "them, which the contrastive loss has no use for; leave them out."
        )
    check_inputs(model, inputs)


def check_inputs(model: keras.Model, inputs: dict) -> None:
    """Raises unless inputs have the names, dtypes and shapes that the model takes."""
    if not isinstance(inputs, dict) or not set(INPUTS) <= set(inputs):
        raise InputError(
            f"inputs must be a dict of {', '.join(INPUTS)}, received {_kind(inputs)}; "
            f"{_REMEDY}."
        )
    for name in INPUTS:
        if not hasattr(inputs[name], "shape"):
            raise InputError(
                f"{name} must be an array or tensor, received {_kind(inputs[name])}; "
                "convert it by numpy.asarray."
            )
    shapes = {name: tf.TensorShape(inputs[name].shape) for name in INPUTS}
    dtypes = {name: tf.as_dtype(inputs[name].dtype) for name in INPUTS}
    tokens = tf.TensorShape((shapes["images"].rank and shapes["images"][0], None))
    limit = model.text_encoder.max_sequence_length
    length = shapes["token_ids"].rank == 2 and shapes["token_ids"][1]
    fits = {
        "images": shapes["images"].is_compatible_with((None, None, None, 3))
        and (dtypes["images"].is_integer or dtypes["images"].is_floating),
        "token_ids": shapes["token_ids"].is_compatible_with(tokens)
        and dtypes["token_ids"].is_integer
        and (length or 0) <= limit,
        "padding_mask": shapes["padding_mask"].is_compatible_with(tokens)
        and shapes["padding_mask"].is_compatible_with(shapes["token_ids"])
        and (dtypes["padding_mask"].is_integer or dtypes["padding_mask"].is_bool),
    }
    wanted = {
        "images": "gray levels (n, height, width, 3)",
        "token_ids": f"integers (n, length), of length at most {limit}",
        "padding_mask": "integers or bool, of the shape of token_ids",
    }
    for name in INPUTS:
        if not fits[name]:
            raise InputError(
                f"{name} must be {wanted[name]}, received {dtypes[name].name} "
                f"{shapes[name]} beside images {shapes['images']}; {_REMEDY}."
            )


def _check_gray_levels(images):
    """Raises for floats that are all of [0, 1]: nearly black as gray levels."""
    if isinstance(images, np.ndarray) and images.dtype.kind == "f" and images.size:
        if 0 < images.max() <= 1:
            raise InputError(
                "images must be gray levels in [0, 255], received floats of at most "
                f"{images.max():g}; multiply them by 255."
            )


def _kind(value):
    if isinstance(value, dict):
        return f"a dict of {', '.join(map(str, value)) or 'nothing'}"
    shape = getattr(value, "shape", None)
    return type(value).__name__ if shape is None else f"{type(value).__name__} {shape}"


@contextlib.contextmanager
def readable_input(
    model: keras.Model,
    x: Any,
    y: Any = None,
    value_range: tuple[float, float] | None = None,
    **options: Any,
) -> Iterator[Any]:
    """Gives `keras_input`; says in one line which of its images can't be read."""
    batches = keras_input(model, x, y, value_range=value_range, **options)
    try:
        yield batches
    except tf.errors.OpError as error:
        if "IteratorGetNext" not in str(error):
            raise
        found = re.search(r"transformation with iterator: \S+ (.*)", error.message)
        reason = found[1] if found else error.message.split("\n")[0]
        images = (raw_pairs(x, y) or [()])[0]
        is_dataset = isinstance(images, tf.data.Dataset)
        for row, image in enumerate(() if is_dataset else images):
            read_image(image, row, model.image_size, value_range)
        raise InputError(
            f"a batch of the input can't be read ({reason[:300]}); mend or leave out "
            "that pair."
        ) from error
