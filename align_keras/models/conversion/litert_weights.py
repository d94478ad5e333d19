"""Loading of presets whose large weights are 8-bit integers in LiteRT files.

`litert_weights.json` maps variables to tensors of the LiteRT files. The other weights
are in `rest.safetensors`. tools/make_small_model.py writes both files.
"""

import pathlib
from typing import Any

import keras
import numpy as np
from safetensors.numpy import load_file

from align_keras.presets.layout import REST_FILE, TABLE_FILE, TOWER_FILES
from align_keras.utils.files import read_json


def load_litert_weights(model: keras.Model, directory: pathlib.Path) -> None:
    """Loads the weights from the LiteRT files and `rest.safetensors` of a folder."""
    table = read_json(directory / TABLE_FILE)
    float_tensors = load_file(directory / REST_FILE)
    tensors = {name: read_tensors(directory / name) for name in TOWER_FILES}
    for variable in float_weights(model):
        entry = table.get(variable.path)
        if entry is None:
            value = float_tensors[variable.path].reshape(variable.shape)
        else:
            file_name, number, factor = entry
            tensor = tensors[file_name][number]
            value = factor * to_keras(tensor, variable.shape)
        variable.assign(value)


def float_weights(model: keras.Model) -> list:
    """Returns the weights of a model without the dropout seeds."""
    return [v for v in model.weights if v.dtype.startswith(("float", "bfloat"))]


def read_tensors(path: pathlib.Path) -> dict[int, np.ndarray]:
    """Returns a dict from the number of each 8-bit tensor of a file to its values.

    The values are float32, scaled by the quantization parameters of the file.
    """
    from tensorflow.lite.python import schema_py_generated as schema

    content = path.read_bytes()
    graph = schema.Model.GetRootAsModel(content, 0)
    main = graph.Subgraphs(0)
    kernels: dict[int, np.ndarray] = {}
    tables: dict[int, np.ndarray] = {}
    columns: dict[int, np.ndarray] = {}
    for number in range(main.TensorsLength()):
        tensor = main.Tensors(number)
        data = _constant(content, graph.Buffers(tensor.Buffer()))
        if not len(data) or not tensor.ShapeLength():
            continue
        shape = tuple(tensor.ShapeAsNumpy())
        scaling = tensor.Quantization()
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
    # The first axis of a kernel is the output channels. Embedding tables, whose rows
    # are scaled by a column of the file, are transposed to the same layout.
    for number, values in tables.items():
        if len(values) in columns:
            kernels[number] = (values * columns[len(values)]).T
    return kernels


def _constant(content: bytes, buffer: Any) -> np.ndarray:
    """Returns the bytes of a buffer, which are in the flatbuffer or follow it."""
    if buffer.DataLength():
        return buffer.DataAsNumpy()
    end = buffer.Offset() + buffer.Size()
    return np.frombuffer(content[buffer.Offset() : end], "uint8")


def to_keras(tensor: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Converts a tensor to a Keras kernel, whose last axis is the output channels."""
    return np.moveaxis(tensor, 0, -1).reshape(shape)
