"""Checks and conversions of the arguments of `fit`, `evaluate` and `predict`."""

import math
from typing import Any

import keras
import tensorflow as tf

from align_keras.models.input_checks import type_and_shape
from align_keras.models.raw_pairs import is_raw, plain_data, raw_pairs
from align_keras.utils.errors import InputError


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
        x: argument of `fit`.
        y: argument of `fit`.
        batches: result of `keras_input` for `x` and `y`.
        batch_size: int or None, argument of `fit`.
    """
    pairs = raw_pairs(plain_data(x), plain_data(y))
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
    """Returns True if `x` and `y` are raw pairs in sequences or in a dataset."""
    if isinstance(x, tf.data.Dataset):
        return is_raw(x.element_spec)
    return raw_pairs(x, y) is not None


def as_x_and_y(validation_data: Any) -> tuple:
    """Returns `x` and `y` of `validation_data`, which is a dataset, a dict or a tuple.

    Raises:
        InputError: if the tuple has a third entry, which would be weights.
    """
    validation_data = plain_data(validation_data)
    if not isinstance(validation_data, tuple | list) or len(validation_data) > 3:
        return validation_data, None
    x, y, weight = (*validation_data, None, None)[:3]
    check_weights(sample_weight=weight)
    return x, y


def split_pairs(x: Any, y: Any, share: float) -> tuple:
    """Divides data into pairs to train on and pairs to validate on.

    Args:
        x: argument of `fit`.
        y: argument of `fit`.
        share: float in (0, 1), fraction of the pairs to validate on. These pairs are
            taken from the end.

    Returns:
        `x` and `y` to train on, and the validation data.
    """
    x, y = plain_data(x), plain_data(y)
    pairs = raw_pairs(x, y)
    if pairs is None and isinstance(x, dict) and y is None:
        pairs = tuple(x.values())
    if pairs is None:
        raise InputError(
            "validation_split must be 0 unless the pairs are sequences. Received: "
            f"validation_split={share} for {type_and_shape(x)}. Pass validation_data, "
            "such as dataset.take(n), and train on dataset.skip(n)."
        )
    count = len(pairs[0])
    first = int(count * (1 - share))
    if not 0 < first < count:
        raise InputError(
            "validation_split must leave at least one pair to train on and one to "
            f"validate on. Received: validation_split={share} for {count} pairs. Pass "
            "validation_data, or another fraction."
        )
    parts = [[values[:first] for values in pairs], [values[first:] for values in pairs]]
    if raw_pairs(x, y) is not None:
        return *parts[0], tuple(parts[1])
    train, validation = (dict(zip(x, part, strict=True)) for part in parts)
    return train, None, validation


def check_weights(**weights: object) -> None:
    """Raises `InputError` if a weight is set. The loss doesn't support weights."""
    for name, value in weights.items():
        if value is not None:
            raise InputError(
                f"{name} must be None. Received: {type_and_shape(value)}. The "
                "contrastive loss weighs all pairs of a batch equally. Leave the "
                "weights out."
            )
