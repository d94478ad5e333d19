"""Multinomial logistic regression on the embeddings of a frozen image encoder."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from align_keras.evaluation.class_metrics import (
    Classification,
    as_labels,
    zero_shot_classification,
)
from align_keras.utils.errors import InputError

# Number of items that are scored at once in float64. It limits the memory.
PROBE_ITEMS_PER_BLOCK = 8192
# Number of past steps from which L-BFGS estimates the curvature.
_HISTORY = 10
# Armijo constant of the line search and its maximum number of step-size halvings.
_SUFFICIENT_DECREASE = 1e-4
_HALVINGS = 30
# Penalties that `probe` compares, from strong to weak. They suit features of unit
# length.
PENALTIES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7)
# One in five items of each class is held out to compare the penalties.
_HELD_OUT = 5


class FittedRegression(NamedTuple):
    """Fitted logistic regression.

    Attributes:
        weights: float64 array (dimension + 1, classes). The last row contains the
            intercepts.
        iterations: number of L-BFGS iterations.
        slope: largest absolute entry of the gradient at the end.
    """

    weights: np.ndarray
    iterations: int
    slope: float


def fit_logistic_regression(
    features: Any,
    labels: np.ndarray,
    classes: int,
    penalty: float,
    start: np.ndarray | None = None,
    max_iterations: int = 1000,
    tolerance: float = 1e-6,
) -> FittedRegression:
    """Fits multinomial logistic regression with L-BFGS.

    The objective is the mean cross-entropy plus penalty / 2 · ‖weights‖². Intercepts
    aren't penalized. The argument C of scikit-learn is 1 / (penalty · items).

    Args:
        features: real array (items, dimension), can be memory-mapped.
        labels: int array (items,) in [0, classes).
        classes: int >= 2.
        penalty: weight of the L2 penalty, > 0.
        start: float array (dimension + 1, classes), initial weights, zeros by default.
        max_iterations: int >= 1.
        tolerance: largest absolute entry of the gradient at which the fit stops.

    Returns:
        `FittedRegression`.

    References:
        Nocedal and Wright, "Numerical Optimization", algorithms 7.4 and 7.5 (L-BFGS).

    Example:
    >>> features, labels = np.array([[-1.0], [1.0]]), np.array([0, 1])
    >>> fit = fit_logistic_regression(features, labels, classes=2, penalty=0.1)
    >>> (np.array([[-1.0, 1.0]]) @ fit.weights > 0).tolist()
    [[True, False]]
    """
    shape = (features.shape[1] + 1, classes)
    point = np.zeros(shape) if start is None else np.array(start, float)
    value, gradient = _objective(point, features, labels, penalty)
    steps: list[np.ndarray] = []
    changes: list[np.ndarray] = []
    iterations = 0
    for iterations in range(1, max_iterations + 1):
        if np.abs(gradient).max() <= tolerance:
            iterations -= 1
            break
        direction = -_inverse_curvature(gradient, steps, changes)
        size = 1.0 if steps else min(1.0, 1.0 / float(np.linalg.norm(gradient)))
        decrease = np.vdot(gradient, direction)
        for _ in range(_HALVINGS):
            new_point = point + size * direction
            new_value, new_gradient = _objective(new_point, features, labels, penalty)
            if new_value <= value + _SUFFICIENT_DECREASE * size * decrease:
                break
            size /= 2
        else:
            # A further decrease in this direction is below the rounding error.
            break
        # Because the objective is convex, the product of a step and the change of the
        # gradient is positive. Only rounding can make it zero.
        if np.vdot(new_point - point, new_gradient - gradient) > 0:
            steps = [*steps[1 - _HISTORY :], new_point - point]
            changes = [*changes[1 - _HISTORY :], new_gradient - gradient]
        point, value, gradient = new_point, new_value, new_gradient
    return FittedRegression(point, iterations, float(np.abs(gradient).max()))


def _inverse_curvature(
    gradient: np.ndarray, steps: list[np.ndarray], changes: list[np.ndarray]
) -> np.ndarray:
    """Multiplies the gradient by the L-BFGS estimate of the inverse Hessian."""
    result = gradient.copy()
    weights: list[float] = []
    for step, change in zip(reversed(steps), reversed(changes), strict=True):
        weights.append(np.vdot(step, result) / np.vdot(step, change))
        result -= weights[-1] * change
    if steps:
        result *= np.vdot(steps[-1], changes[-1]) / np.vdot(changes[-1], changes[-1])
    for step, change in zip(steps, changes, strict=True):
        result += (
            weights.pop() - np.vdot(change, result) / np.vdot(step, change)
        ) * step
    return result


def _objective(
    point: np.ndarray, features: Any, labels: np.ndarray, penalty: float
) -> tuple[float, np.ndarray]:
    """Computes the objective and its gradient in blocks of items."""
    weights = point[:-1]
    intercepts = point[-1]
    loss = 0.0
    gradient = np.zeros_like(point)
    for start in range(0, len(features), PROBE_ITEMS_PER_BLOCK):
        block = np.asarray(features[start : start + PROBE_ITEMS_PER_BLOCK], float)
        block_labels = labels[start : start + PROBE_ITEMS_PER_BLOCK]
        items = np.arange(len(block))
        logits = block @ weights + intercepts
        logits -= logits.max(axis=1, keepdims=True)
        label_logits = logits[items, block_labels]
        np.exp(logits, out=logits)
        total = logits.sum(axis=1)
        loss += (np.log(total) - label_logits).sum()
        # The next lines normalize the exponentials to probabilities and subtract the
        # one-hot labels, both in place. The result is the gradient of the logits.
        logits /= total[:, None]
        logits[items, block_labels] -= 1
        gradient[:-1] += block.T @ logits
        gradient[-1] += logits.sum(axis=0)
    gradient /= len(features)
    gradient[:-1] += penalty * weights
    return loss / len(features) + penalty / 2 * np.vdot(weights, weights), gradient


def probe(
    features: np.ndarray,
    labels: Any,
    test_features: np.ndarray,
    test_labels: Any,
    classes: int,
    penalties: Sequence[float] = PENALTIES,
) -> tuple[Classification, list[tuple[str, float]]]:
    """Fits a linear probe with the best of several penalties and tests it.

    The best penalty has the highest top-1 accuracy on held-out items. These are the
    fifth, tenth, … training item of each class. The strongest penalty wins a tie. The
    final fit uses all training items.

    Args:
        features: real array (items, dimension), finite, can be memory-mapped.
        labels: integers (items,) in [0, classes).
        test_features: real array (test items, dimension), finite.
        test_labels: integers (test items,) in [0, classes).
        classes: int >= 2.
        penalties: floats > 0, from strong to weak, as in `fit_logistic_regression`.

    Returns:
        `Classification` of the test items, and list of pairs of str and float:
        `linear_probe/penalty`, the selected penalty, `linear_probe/held_out_top_1`, its
        accuracy on the held-out items, and `linear_probe/iterations` of the final fit,
        which are 1000 if it didn't converge.

    Raises:
        InputError: if the number or the range of the labels is wrong, or no class has
            five items.

    Example:
    >>> labels = np.arange(60) % 3
    >>> features = np.random.default_rng(0).normal(np.eye(3)[labels], 0.1)
    >>> result, metrics = probe(features, labels, np.eye(3), [0, 1, 2], classes=3)
    >>> result.predictions.tolist(), dict(metrics)["linear_probe/held_out_top_1"]
    ([0, 1, 2], 1.0)
    """
    features = np.asarray(features)
    test_features = np.asarray(test_features)
    labels = as_labels("labels", labels, len(features), classes)
    test_labels = as_labels("test_labels", test_labels, len(test_features), classes)
    held_out = _every_fifth_of_its_class(labels)
    if not held_out.any():
        raise InputError(
            "`labels` must contain a class with at least five items, because one in "
            "five is held out to select the penalty. Received: "
            f"{len(labels)} items in {len(np.unique(labels))} classes. Pass more "
            "training images."
        )
    train = _RowSubset(features, ~held_out)
    train_labels = labels[~held_out]
    held_out_features = _RowSubset(features, held_out)
    held_out_labels = labels[held_out]
    weights = None
    best_top_1 = -1.0
    best_penalty = penalties[0]
    for penalty in penalties:
        weights = fit_logistic_regression(
            train, train_labels, classes, penalty, weights
        ).weights
        result = _classify(held_out_features, held_out_labels, weights)
        top_1 = float(np.mean(result.ranks == 0))
        if top_1 > best_top_1:
            best_top_1 = top_1
            best_penalty = penalty
    fit = fit_logistic_regression(features, labels, classes, best_penalty, weights)
    return _classify(test_features, test_labels, fit.weights), [
        ("linear_probe/penalty", best_penalty),
        ("linear_probe/held_out_top_1", best_top_1),
        ("linear_probe/iterations", float(fit.iterations)),
    ]


class _RowSubset:
    """View of selected rows of an array, which are copied when they are indexed."""

    def __init__(self, features: np.ndarray, is_included: np.ndarray) -> None:
        self._features = features
        self._rows = np.flatnonzero(is_included)
        self.shape = (len(self._rows), features.shape[1])

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: slice) -> np.ndarray:
        return self._features[self._rows[rows]]


def _every_fifth_of_its_class(labels: np.ndarray) -> np.ndarray:
    """Returns a bool array that is True for the fifth, tenth, … item of each class."""
    order = np.argsort(labels, kind="stable")
    counts = np.bincount(labels)
    firsts = np.repeat(np.cumsum(counts) - counts, counts)
    is_held_out = np.empty(len(labels), bool)
    numbers = np.arange(len(labels)) - firsts
    is_held_out[order] = numbers % _HELD_OUT == _HELD_OUT - 1
    return is_held_out


def _classify(features: Any, labels: np.ndarray, weights: np.ndarray) -> Classification:
    """Classifies by the largest logit, with ties as in `zero_shot_classification`."""
    parts = []
    for start in range(0, len(features), PROBE_ITEMS_PER_BLOCK):
        block = np.asarray(features[start : start + PROBE_ITEMS_PER_BLOCK], float)
        # An additional feature of 1 has the intercepts as weights.
        block = np.hstack([block, np.ones((len(block), 1))])
        block_labels = labels[start : start + PROBE_ITEMS_PER_BLOCK]
        parts.append(zero_shot_classification(block, weights.T, block_labels))
    return Classification(
        ranks=np.concatenate([part.ranks for part in parts]),
        predictions=np.concatenate([part.predictions for part in parts]),
    )
