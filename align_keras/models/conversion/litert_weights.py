"""A preset whose large weights are the 8-bit integers of the LiteRT towers beside it.

A folder so serves phones, search without TensorFlow and Keras at the size of one of
them. `litert_weights.json` says for each variable that is an integer tensor of a tower
which one; the rest, biases, norms and positions, lies in `rest.safetensors`. Keras then
computes in floats with the rounded weights: embeddings are those of the towers but for
the rounding of activations.
"""

import json
import pathlib
import struct
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_write, read_json

TABLE_FILE = "litert_weights.json"
REST_FILE = "rest.safetensors"
TOWER_FILES = ("image.tflite", "text.tflite")
# Smaller ones are kept as they are.
_LEAST_SIZE = 256
# Of rounding to 8 bits by channel it is about 0.01, of two other kernels 1.4.
_LARGEST_ERROR = 0.1
# LiteRT moves the halving of the class logits into the classifier.
_FACTORS = (1.0, 2.0)
_DAMAGES = (AttributeError, LookupError, TypeError, ValueError, MemoryError)
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
    """Writes what towers of 8 bits, made of this very model, lack of its weights.

    Raises:
        InputError: if most of the weights aren't found in the towers.
    """
    tensors = {name: read_tensors(directory / name) for name in TOWER_FILES}
    table: dict[str, Any] = {}
    rest = {}
    for variable in _variables(model):
        value = np.asarray(variable, "float32")
        place = _find(value, tensors) if value.size >= _LEAST_SIZE else None
        if place is None:
            rest[variable.path] = np.ascontiguousarray(value)
        else:
            table[variable.path] = place
    found = sum(np.prod(v.shape) for v in _variables(model) if v.path in table)
    if found < 0.5 * model.count_params():
        raise InputError(
            f"{directory} must hold the model's towers of 8 bits, received others: "
            f"{found:,.0f} of {model.count_params():,} weights are in them; export "
            "this model by quantize int8, its batch norms folded."
        )
    (directory / REST_FILE).write_bytes(save(rest))
    with atomic_write(directory / TABLE_FILE) as file:
        json.dump(table, file, indent=1)


def load_beside_towers(model: keras.Model, directory: pathlib.Path) -> None:
    """Gives a model the weights of a folder that `save_beside_towers` wrote."""
    try:
        table = read_json(directory / TABLE_FILE)
        rest = load_file(directory / REST_FILE)
        tensors = {name: read_tensors(directory / name) for name in TOWER_FILES}
        values = []
        for variable in _variables(model):
            place = table.get(variable.path)
            value = (
                rest[variable.path].reshape(variable.shape)
                if place is None
                else place[2] * to_keras(tensors[place[0]][place[1]], variable.shape)
            )
            if value.shape != tuple(variable.shape) or not np.isfinite(value).all():
                raise ValueError(f"{variable.path} has another shape or isn't finite")
            values.append(value)
    except (OSError, SafetensorError, struct.error, *_DAMAGES) as error:
        raise InputError(
            f"{directory} is damaged ({type(error).__name__}: {str(error)[:200]}); "
            "install it again, or leave load_weights out."
        ) from None
    for variable, value in zip(_variables(model), values, strict=True):
        variable.assign(value)


def _variables(model):
    """All weights that matter; seeds of dropout differ at each opening."""
    return [v for v in model.weights if v.dtype.startswith(("float", "bfloat"))]


def read_tensors(path: pathlib.Path) -> dict[int, np.ndarray]:
    """Returns a LiteRT file's tensors of 8 bits as float32, by their numbers.

    Output channels come first, as LiteRT has them. A table that is gathered from, whose
    scales are a constant (rows, 1), is laid out alike: (width, rows).
    """
    from tensorflow.lite.python import schema_py_generated as schema

    content = path.read_bytes()
    graph = schema.Model.GetRootAsModel(content, 0)
    main = graph.Subgraphs(0)
    kernels, tables, columns = {}, {}, {}
    for number in range(main.TensorsLength()):
        tensor = main.Tensors(number)
        data = _constant(content, graph.Buffers(tensor.Buffer()))
        if not len(data) or not tensor.ShapeLength():
            continue
        shape, scaling = tuple(tensor.ShapeAsNumpy()), tensor.Quantization()
        if tensor.Type() == schema.TensorType.INT8:
            values = data.view("int8").reshape(shape).astype("float32")
            if scaling is not None and scaling.ScaleLength():
                axes = [1] * len(shape)
                axes[scaling.QuantizedDimension()] = -1
                kernels[number] = values * scaling.ScaleAsNumpy().reshape(axes)
            elif len(shape) == 2:
                tables[number] = values
        elif tensor.Type() == schema.TensorType.FLOAT32 and shape[1:] == (1,):
            columns[shape[0]] = data.view("float32").reshape(shape)
    for number, values in tables.items():
        if len(values) in columns:
            kernels[number] = (values * columns[len(values)]).T
    return kernels


def _constant(content, buffer):
    """A buffer's bytes: inside the flatbuffer, or behind it by offset."""
    if buffer.DataLength():
        return buffer.DataAsNumpy()
    end = buffer.Offset() + buffer.Size()
    return np.frombuffer(content[buffer.Offset() : end], "uint8")


def to_keras(tensor: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Lays a tensor out as a Keras kernel, whose output channels come last."""
    return np.moveaxis(tensor, 0, -1).reshape(shape)


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
