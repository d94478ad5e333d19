"""What a classifier finds, and how often it is right."""

from typing import NamedTuple

import numpy as np

from align_keras.evaluation.slices import (
    Statistic,
    item_outcomes,
    mean_statistics,
    whole_metrics,
)
from align_keras.utils.errors import InputError


class Classification(NamedTuple):
    """The classes that pictures were given.

    Attributes:
        ranks: int64 array (pictures,), how many wrong classes come before the
            right one: 0 where it is first. Of equal scores the wrong one comes
            first, so that a model which can't tell classes apart scores 0.
        predictions: int64 array (pictures,), the first class; the right one
            exactly where the rank is 0.
    """

    ranks: np.ndarray
    predictions: np.ndarray


def as_labels(name, labels, rows, classes):
    """Checks labels and returns them as an int64 array.

    Args:
        name: str, the argument's name, for the error.
        labels: integers in [0, classes).
        rows: int, how many there must be.
        classes: int, the number of classes.

    Returns:
        int64 array (rows,).

    Raises:
        InputError: for another shape, for what isn't an integer, and for a
            label that no class has.
    """
    labels = np.asarray(labels)
    if labels.shape != (rows,) or labels.dtype.kind not in "iu":
        raise InputError(
            f"`{name}` must hold one integer a picture, got shape {labels.shape} and "
            f"dtype {labels.dtype} for {rows} pictures."
        )
    outside = labels[(labels < 0) | (labels >= classes)]
    if outside.size:
        raise InputError(
            f"`{name}` must lie in [0, {classes}), the rows of the classes, got "
            f"{outside[0]}; check that the class names are those of the data."
        )
    return labels.astype(np.int64, copy=False)


def classification_metrics(name, found, labels, classes):
    """Yields the accuracies of a classification.

    Args:
        name: str, what begins the names, such as `"zero_shot"`.
        found: `Classification`.
        labels: integer array (pictures,).
        classes: int, the number of classes to choose from.

    Yields:
        Pairs of str and float: `NAME/top_1`; `NAME/top_5` where there are more than
        five classes, with which it tells something; `NAME/mean_per_class`, the mean
        over the classes that occur of their top-1.

    References:
        Jia et al. 2021, section 5.2.

    Example:
    >>> found = Classification(np.array([0, 0, 7]), np.array([0, 0, 2]))
    >>> for metric, value in classification_metrics("probe", found, [0, 0, 1], 9):
    ...     print(metric, round(value, 3))
    probe/top_1 0.667
    probe/top_5 0.667
    probe/mean_per_class 0.5
    """
    yield from whole_metrics(classification_statistics(name, found, labels, classes))


def classification_statistics(name, found, labels, classes):
    """The metrics of `classification_metrics`, as `sliced_metrics` takes them.

    Args:
        name: str, what begins the names.
        found: `Classification`.
        labels: integer array (pictures,).
        classes: int, as `classification_metrics`.

    Returns:
        dict, name → `Statistic`.

    Example:
    >>> found = Classification(np.array([0, 0, 7]), np.array([0, 0, 2]))
    >>> statistics = classification_statistics("probe", found, [0, 0, 1], 9)
    >>> statistics["probe/top_1"].function(np.array([[0, 1], [1, 2]])).tolist()
    [1.0, 0.5]
    """
    labels, right = np.asarray(labels), found.ranks == 0
    ks = [1, 5] if classes > 5 else [1]
    statistics = mean_statistics(item_outcomes(f"{name}/top_", found.ranks, ks))
    statistics[f"{name}/mean_per_class"] = Statistic(
        np.ones(len(labels), bool),
        lambda rows: mean_per_class(right[rows], labels[rows]),
    )
    return statistics


def mean_per_class(right, labels):
    """Mean over the classes that occur of the share of their items that are right.

    Args:
        right: array (..., items), bool, or the share of runs in which it is right.
        labels: integer array (..., items), from 0 on.

    Returns:
        float64 array (...), one mean for each row of items.

    Example:
    >>> mean_per_class(np.array([True, True, False]), np.array([0, 0, 1])).item()
    0.5
    """
    right, labels = np.asarray(right), np.asarray(labels)
    rows, classes = int(np.prod(labels.shape[:-1])), labels.max() + 1
    # Each row of items has counters of its own.
    place = (np.arange(rows)[:, None] * classes + labels.reshape(rows, -1)).ravel()
    items = np.bincount(place, minlength=rows * classes).reshape(rows, classes)
    hits = np.bincount(place, right.ravel(), rows * classes).reshape(rows, classes)
    shares = hits / np.maximum(items, 1)
    return (shares.sum(axis=1) / (items > 0).sum(axis=1)).reshape(labels.shape[:-1])
