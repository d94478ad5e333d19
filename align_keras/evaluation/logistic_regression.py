"""Multinomial logistic regression by L-BFGS."""

from typing import NamedTuple

import numpy as np

# Items that are scored at once, in float64.
_BLOCK = 8192
# Pairs of steps and of changes of the gradient that tell the curvature.
_HISTORY = 10
_SUFFICIENT_DECREASE = 1e-4
_HALVINGS = 30


class FittedRegression(NamedTuple):
    """What a fit found.

    Attributes:
        weights: float64 array (dimension + 1, classes); the last row is the
            intercepts.
        iterations: int, how many it took; `max_iterations` if it didn't end.
        slope: float, the gradient's largest entry at the end.
    """

    weights: np.ndarray
    iterations: int
    slope: float


def fit_logistic_regression(
    features, labels, classes, penalty, start=None, max_iterations=1000, tolerance=1e-6
):
    """Minimises the mean cross-entropy plus penalty / 2 · ‖weights‖².

    Intercepts aren't penalised. scikit-learn's C is 1 / (penalty · items).

    Args:
        features: real array (items, dimension); may be memory-mapped.
        labels: int array (items,) in [0, classes).
        classes: int >= 2.
        penalty: float > 0.
        start: float array (dimension + 1, classes) to begin from; zeros by default.
        max_iterations: int >= 1.
        tolerance: float, the gradient's largest entry at which the fit ends.

    Returns:
        `FittedRegression`.

    References:
        Nocedal and Wright, "Numerical Optimization", algorithms 7.4 and 7.5.

    Example:
    >>> features, labels = np.array([[-1.0], [1.0]]), np.array([0, 1])
    >>> fit = fit_logistic_regression(features, labels, classes=2, penalty=0.1)
    >>> (np.array([[-1.0, 1.0]]) @ fit.weights > 0).tolist()
    [[True, False]]
    """
    shape = (features.shape[1] + 1, classes)
    point = np.zeros(shape) if start is None else np.array(start, float)
    value, gradient = _objective(point, features, labels, penalty)
    steps, changes = [], []
    iterations = 0
    for iterations in range(1, max_iterations + 1):
        if np.abs(gradient).max() <= tolerance:
            iterations -= 1
            break
        direction = -_inverse_curvature(gradient, steps, changes)
        size = 1.0 if steps else min(1.0, 1.0 / np.linalg.norm(gradient))
        decrease = np.vdot(gradient, direction)
        for _ in range(_HALVINGS):
            new_point = point + size * direction
            new_value, new_gradient = _objective(new_point, features, labels, penalty)
            if new_value <= value + _SUFFICIENT_DECREASE * size * decrease:
                break
            size /= 2
        else:
            break  # Nothing lower in this direction but by rounding.
        # The objective is convex: a step and its change never point apart, and
        # only rounding can make them orthogonal.
        if np.vdot(new_point - point, new_gradient - gradient) > 0:
            steps = [*steps[1 - _HISTORY :], new_point - point]
            changes = [*changes[1 - _HISTORY :], new_gradient - gradient]
        point, value, gradient = new_point, new_value, new_gradient
    return FittedRegression(point, iterations, float(np.abs(gradient).max()))


def _inverse_curvature(gradient, steps, changes):
    """The gradient times L-BFGS's estimate of the inverse Hessian."""
    result, weights = gradient.copy(), []
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


def _objective(point, features, labels, penalty):
    """The objective and its gradient, over blocks of items."""
    weights, intercepts = point[:-1], point[-1]
    loss, gradient = 0.0, np.zeros_like(point)
    for start in range(0, len(features), _BLOCK):
        block = np.asarray(features[start : start + _BLOCK], float)
        own = labels[start : start + _BLOCK]
        items = np.arange(len(block))
        logits = block @ weights + intercepts
        logits -= logits.max(axis=1, keepdims=True)
        right = logits[items, own]
        np.exp(logits, out=logits)
        total = logits.sum(axis=1)
        loss += (np.log(total) - right).sum()
        logits /= total[:, None]  # Probabilities now.
        logits[items, own] -= 1
        gradient[:-1] += block.T @ logits
        gradient[-1] += logits.sum(axis=0)
    gradient /= len(features)
    gradient[:-1] += penalty * weights
    return loss / len(features) + penalty / 2 * np.vdot(weights, weights), gradient
