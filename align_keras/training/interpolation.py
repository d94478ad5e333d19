"""Interpolation between the weights of a model before and after fine-tuning."""

from collections.abc import Mapping

import keras
import numpy as np

Weights = Mapping[str, np.ndarray]


def read_weights(model: keras.Model) -> dict[str, np.ndarray]:
    """Returns a copy of the float weights of a model by their paths.

    Example:

    >>> import align_keras
    >>> model = align_keras.ALIGN.from_preset("align_nano", vocabulary_size=100)
    >>> read_weights(model)["image_encoder/projection/kernel"].shape
    (160, 256)
    """
    return {
        variable.path: np.array(variable.numpy())
        for variable in model.weights
        if "float" in variable.dtype
    }


def interpolate_weights(
    model: keras.Model, start: Weights, end: Weights, factor: float
) -> None:
    """Sets the weights of a model to (1 - factor) · start + factor · end.

    Args:
        model: model whose weights have the paths of `start`.
        start: weights before fine-tuning, from `read_weights`.
        end: weights after fine-tuning.
        factor: float in [0, 1]. 0 restores `start`, and 1 restores `end`.

    References:
        Wortsman et al. 2022, "Robust fine-tuning of zero-shot models", equation 1.

    Example:

    >>> import align_keras
    >>> model = align_keras.ALIGN.from_preset("align_nano", vocabulary_size=100)
    >>> start = read_weights(model)
    >>> end = {path: value + 1.0 for path, value in start.items()}
    >>> interpolate_weights(model, start, end, 0.25)
    >>> path = "image_encoder/projection/bias"
    >>> float(read_weights(model)[path][0] - start[path][0])
    0.25
    """
    for variable in model.weights:
        if "float" not in variable.dtype:
            continue
        path = variable.path
        variable.assign((1.0 - factor) * start[path] + factor * end[path])
