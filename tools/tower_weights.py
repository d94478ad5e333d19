"""Writes a preset whose large weights are those of its LiteRT towers of 8 bits.

A folder so serves phones, search without TensorFlow and Keras at the size of one of
them. Keras then computes in floats with the rounded weights: embeddings are those of
the towers but for the rounding of activations.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from safetensors.numpy import save

from align_keras.models.conversion.litert_weights import (
    REST_FILE,
    TABLE_FILE,
    TOWER_FILES,
    float_weights,
    read_tensors,
    to_keras,
)
from align_keras.models.preset_io import WEIGHTS_FILE
from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_write

# Smaller ones are kept as they are.
_LEAST_SIZE = 256
# Of rounding to 8 bits by channel it is about 0.01, of two other kernels 1.4.
_LARGEST_ERROR = 0.1
# LiteRT moves the halving of the class logits into the classifier.
_FACTORS = (1.0, 2.0)
# Layer of a convolution → its batch normalization.
_NORMALIZED = {
    name: f"{name}_norm" for name in ("stem", "head", "expand", "depthwise", "project")
}


def fold_batch_norms(image_encoder: keras.Model) -> None:
    """Moves batch normalizations into the convolutions before them, as LiteRT does.

    The encoder's outputs stay as they are. What is left of a normalization is its
    shift; it can't be trained on batch statistics any more.
    """
    layers: dict[str, Any] = {layer.name: layer for layer in image_encoder.layers}
    pairs: list[tuple[Any, Any]] = [
        (layers.get(a), layers.get(b)) for a, b in _NORMALIZED.items()
    ]
    for block in image_encoder.blocks:
        for a, b in _NORMALIZED.items():
            pairs.append((getattr(block, a, None), getattr(block, b, None)))
    for conv, norm in pairs:
        if conv is None:
            continue
        gamma, beta, mean, variance = (
            np.asarray(weight, "float64")
            for weight in (
                norm.gamma,
                norm.beta,
                norm.moving_mean,
                norm.moving_variance,
            )
        )
        scale = gamma / np.sqrt(variance + norm.epsilon)
        kernel = conv.kernel
        # A depthwise kernel is (height, width, channels, 1).
        by_channel = scale if kernel.shape[-1] == len(scale) else scale[:, None]
        kernel.assign(np.asarray(kernel) * by_channel)
        norm.gamma.assign(np.ones_like(scale))
        norm.beta.assign(beta - mean * scale)
        norm.moving_mean.assign(np.zeros_like(mean))
        norm.moving_variance.assign(np.full_like(variance, 1 - norm.epsilon))


def save_beside_towers(model: keras.Model, directory: pathlib.Path) -> None:
    """Saves a model beside its towers of 8 bits, without the weights that they hold.

    Raises:
        InputError: if most of the weights aren't found in the towers.
    """
    tensors = {name: read_tensors(directory / name) for name in TOWER_FILES}
    table: dict[str, Any] = {}
    rest = {}
    for variable in float_weights(model):
        value = np.asarray(variable, "float32")
        place = _find(value, tensors) if value.size >= _LEAST_SIZE else None
        if place is None:
            rest[variable.path] = np.ascontiguousarray(value)
        else:
            table[variable.path] = place
    found = sum(np.prod(v.shape) for v in float_weights(model) if v.path in table)
    if found < 0.5 * model.count_params():
        raise InputError(
            f"{directory} must hold the model's towers of 8 bits, received others: "
            f"{found:,.0f} of {model.count_params():,} weights are in them; export "
            "this model by quantize int8, its batch norms folded."
        )
    (directory / REST_FILE).write_bytes(save(rest))
    with atomic_write(directory / TABLE_FILE) as file:
        json.dump(table, file, indent=1)
    model.save_to_preset(directory)
    (directory / WEIGHTS_FILE).unlink()


def _find(value: np.ndarray, tensors: Mapping) -> list | None:
    """Returns the file, the number and the factor of a kernel's rounded tensor."""
    places = [
        (float(np.linalg.norm(factor * to_keras(tensor, value.shape) - value)), place)
        for file, known in tensors.items()
        for number, tensor in known.items()
        if tensor.size == value.size
        for factor, place in ((factor, [file, number, factor]) for factor in _FACTORS)
    ]
    error, place = min(places, default=(np.inf, None))
    fits = error <= _LARGEST_ERROR * float(np.linalg.norm(value))
    return place if fits else None
