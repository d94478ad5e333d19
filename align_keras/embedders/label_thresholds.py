"""Thresholds of zero-shot labels, and their calibration on labeled images."""

import collections
import dataclasses
import json
import os
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from align_keras.utils.arguments import check_number
from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_write, read_json

# Minimum number of calibration images with a label for which the label gets its own
# threshold.
MIN_LABEL_IMAGES = 5
# Maximum number of times that the thresholds of the labels are adapted to each other.
_ROUNDS = 10


@dataclasses.dataclass(frozen=True)
class LabelThresholds:
    """Minimum cosine similarities at which an image gets a label.

    Args:
        default: in [-1, 1], threshold of the labels without their own threshold.
        by_label: dict from label to its own threshold.
        model: fingerprint of the model whose similarities are compared, or "" for
            any model.

    Raises:
        InputError: if a threshold is not a number from -1 to 1.

    Example:

    >>> thresholds = LabelThresholds(0.3, {"cat": 0.5})
    >>> thresholds.choose(np.array([[0.4, 0.45], [0.1, 0.2]]), ["dog", "cat"])
    [['dog'], []]
    """

    default: float
    by_label: dict[str, float] = dataclasses.field(default_factory=dict)
    model: str = ""

    def __post_init__(self) -> None:
        for value in (self.default, *self.by_label.values()):
            check_number("A threshold", value, -1, 1)

    def choose(self, scores: np.ndarray, labels: Sequence[str]) -> list[list[str]]:
        """Returns the labels of each image, in descending order of the score.

        Args:
            scores: float (images, labels), cosine similarities.
            labels: sequence of str.

        Returns:
            list with a list of labels for each image. It is empty if no label reaches
            its threshold.
        """
        thresholds = np.array(
            [self.by_label.get(name, self.default) for name in labels]
        )
        chosen = []
        for row in np.asarray(scores):
            order = np.argsort(-row, kind="stable")
            chosen.append([labels[i] for i in order if row[i] >= thresholds[i]])
        return chosen

    def write(self, path: str | os.PathLike) -> None:
        """Writes the thresholds to a JSON file."""
        content = {
            "threshold": self.default,
            "labels": self.by_label,
            "model": self.model,
        }
        with atomic_write(path) as file:
            json.dump(content, file, indent=2, ensure_ascii=False)
            file.write("\n")

    @classmethod
    def read(cls, path: str | os.PathLike) -> "LabelThresholds":
        """Reads thresholds from a JSON file.

        Raises:
            InputError: if the file does not exist or is not a file of thresholds.
        """
        content = read_json(os.fspath(path))
        by_label = content.get("labels", {})
        model = content.get("model", "")
        is_valid = isinstance(by_label, dict) and isinstance(model, str)
        if "threshold" not in content or not is_valid:
            raise InputError(
                "`thresholds` must be a file that `align-keras tag --calibrate` wrote. "
                f"Received: {path}. Check the path, or calibrate again."
            )
        return cls(content["threshold"], by_label, model)


def calibrate_thresholds(
    scores: np.ndarray,
    labels: Sequence[str],
    image_labels: Sequence[Collection[str]],
    model: str = "",
) -> LabelThresholds:
    """Chooses thresholds on labeled images.

    F1 is computed over all pairs of an image and a label. The default threshold is the
    single threshold with the highest F1. A label with at least `MIN_LABEL_IMAGES`
    images gets its own threshold, with which F1 of all labels together is highest. A
    label whose scores do not separate its images then gets few images or none. The
    highest F1 of each label alone would give such a label to almost every image.

    Args:
        scores: float (images, labels), cosine similarities.
        labels: sequence of str.
        image_labels: sequence of collections of str, the correct labels of each image.
        model: fingerprint of the model of the similarities.

    Returns:
        `LabelThresholds`.

    Raises:
        InputError: if no image has one of the labels.

    Example:

    >>> scores = np.array([[0.5], [0.4], [0.2]])
    >>> calibrate_thresholds(scores, ["cat"], [["cat"], ["cat"], []]).default
    0.3
    """
    is_correct = np.array(
        [[label in correct for label in labels] for correct in image_labels], bool
    ).reshape(len(image_labels), len(labels))
    if not is_correct.any():
        raise InputError(
            "The calibration table must have images with the labels. Received: "
            f"{len(image_labels)} images, none with one of {len(labels)} labels. Write "
            "the labels as in the list of labels."
        )
    default, f1 = _best_single_threshold(scores, is_correct)
    counts = is_correct.sum(axis=0)
    columns = [
        column for column in range(len(labels)) if counts[column] >= MIN_LABEL_IMAGES
    ]
    thresholds = np.full(len(labels), default)
    for _ in range(_ROUNDS):
        # F1 grows with each added pair whose probability to be correct is above F1 / 2.
        for column in columns:
            thresholds[column] = _best_label_threshold(
                scores[:, column], is_correct[:, column], f1 / 2
            )
        previous = f1
        f1 = _f1(scores >= thresholds, is_correct)
        if abs(f1 - previous) < 1e-4:
            break
    by_label = {
        labels[column]: round(float(thresholds[column]), 6) for column in columns
    }
    return LabelThresholds(round(default, 6), by_label, model)


def _f1(is_chosen: np.ndarray, is_correct: np.ndarray) -> float:
    hits = (is_chosen & is_correct).sum()
    return float(2 * hits / (is_chosen.sum() + is_correct.sum()))


def _best_single_threshold(
    scores: np.ndarray, is_correct: np.ndarray
) -> tuple[float, float]:
    """Returns the threshold with the highest F1, and its F1.

    Args:
        scores: float (images, labels).
        is_correct: bool (images, labels), with at least one True.
    """
    ranked, hits = _rank(scores, is_correct)
    f1 = 2 * hits / (np.arange(1, len(ranked) + 1) + hits[-1])
    threshold, best = _threshold_of_best(ranked, f1)
    return threshold, float(f1[best])


def _best_label_threshold(
    scores: np.ndarray, is_correct: np.ndarray, cost: float
) -> float:
    """Returns the threshold with the highest number of hits minus the cost of a choice.

    If each threshold costs more than its hits, no image reaches the returned threshold.

    Args:
        scores: float (images,).
        is_correct: bool (images,).
        cost: in [0, 1], cost of each image that gets the label.
    """
    ranked, hits = _rank(scores, is_correct)
    gains = hits - cost * np.arange(1, len(ranked) + 1)
    threshold, best = _threshold_of_best(ranked, gains)
    return threshold if gains[best] > 0 else min(float(ranked[0]) + 1e-3, 1.0)


def _rank(scores: np.ndarray, is_correct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the scores in descending order, and the number of hits up to each."""
    order = np.argsort(-np.ravel(scores), kind="stable")
    ranked = np.ravel(scores)[order].astype(float)
    return ranked, np.cumsum(np.ravel(is_correct)[order])


def _threshold_of_best(ranked: np.ndarray, values: np.ndarray) -> tuple[float, int]:
    """Returns the threshold after the highest value, and the position of the value.

    The threshold is halfway to the next score. It cannot separate equal scores.
    """
    following = np.append(ranked[1:], ranked[-1])
    is_separable = np.append(ranked[1:] < ranked[:-1], True)
    best = int(np.argmax(np.where(is_separable, values, -np.inf)))
    return float((ranked[best] + following[best]) / 2), best


def check_labels(labels: Any) -> list[str]:
    """Returns labels as a list.

    Raises:
        InputError: if there are no labels, or a label is blank or repeated.
    """
    names = [labels] if isinstance(labels, str) else list(labels)
    counts = collections.Counter(names)
    wrong = [name for name in names if counts[name] > 1 or not str(name).strip()]
    if not names or wrong:
        received = f"{wrong[0]!r:.80}, which is blank or repeated" if wrong else "none"
        raise InputError(
            "`labels` must be one or more different texts that are not blank. "
            f"Received: {received}."
        )
    return names
