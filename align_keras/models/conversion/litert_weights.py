"""A preset whose large weights are the 8-bit integers of the LiteRT towers beside it.

`litert_weights.json` says which tensor of a tower a variable is; the rest lies in
`rest.safetensors`. tools/make_small_model.py writes both.
"""

import pathlib
import struct

import keras
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from align_keras.utils.errors import InputError
from align_keras.utils.files import read_json

TABLE_FILE = "litert_weights.json"
REST_FILE = "rest.safetensors"
TOWER_FILES = ("image.tflite", "text.tflite")
_DAMAGES = (AttributeError, LookupError, TypeError, ValueError, MemoryError)


def load_beside_towers(model: keras.Model, directory: pathlib.Path) -> None:
    """Gives a model the weights of the towers and of the files beside them."""
    try:
        table = read_json(directory / TABLE_FILE)
        rest = load_file(directory / REST_FILE)
        tensors = {name: read_tensors(directory / name) for name in TOWER_FILES}
        values = []
        for variable in float_weights(model):
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
    for variable, value in zip(float_weights(model), values, strict=True):
        variable.assign(value)


def float_weights(model: keras.Model) -> list:
    """All weights that matter; seeds of dropout differ at each opening."""
    return [v for v in model.weights if v.dtype.startswith(("float", "bfloat"))]


def read_tensors(path: pathlib.Path) -> dict[int, np.ndarray]:
    """Returns a LiteRT file's tensors of 8 bits as float32, by their numbers."""
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
    # Output channels come first; a table that is gathered from is laid out alike.
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
