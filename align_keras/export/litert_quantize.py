"""Quantized copies of a float LiteRT file."""

import contextlib
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from align_keras.utils.errors import InputError, needs
from align_keras.utils.quiet import silent_standard_error

# Biases are int32, in steps of the scale of the inputs times that of the weights.
_LARGEST_BIAS = 2.0**30
_LARGEST_WEIGHT = 127.0


def quantize_flatbuffer(
    flatbuffer: bytes, quantize: str, samples: Sequence[dict] = ()
) -> bytes:
    """Quantizes a float LiteRT file of one signature. Inputs and outputs stay float.

    - `float16`, `weight-int8`: the weights are stored in this form. All arithmetic is
      float32.
    - `dynamic-int8`: the weights of `weight-int8` are multiplied in integers with
      inputs that each product scales at run time.
    - `int8`: weights and activations are integers from the first convolution to the
      pooling. `samples`, dicts of inputs, determine their ranges. Later products are
      those of `dynamic-int8`, and everything else is float (Jacob et al. 2018).
    """
    if quantize == "none":
        return bytes(flatbuffer)
    if quantize == "int8":
        return _quantize_integers(flatbuffer, samples)
    library, types = _import()
    quantizer = library.Quantizer(bytearray(flatbuffer))
    everything = types.TFLOperationName.ALL_SUPPORTED
    if quantize == "float16":
        half = types.OpQuantizationConfig(
            weight_tensor_config=types.TensorQuantizationConfig(
                num_bits=16, dtype=types.TensorDataType.FLOAT
            ),
            compute_precision=types.ComputePrecision.FLOAT,
            explicit_dequantize=True,
        )
        casting = library.AlgorithmName.FLOAT_CASTING
        quantizer.update_quantization_recipe(".*", everything, half, casting)
    elif quantize == "weight-int8":
        quantizer.add_weight_only_config(".*", everything, num_bits=8)
    else:
        quantizer.add_dynamic_config(".*", everything, num_bits=8)
    return _quantized(quantizer)


def _import() -> tuple[Any, Any]:
    with needs("litert", "quantize needs litert-quantizer", ", or leave it at none"):
        from litert_quantizer import qtyping, quantizer
    return quantizer, qtyping


def _quantized(quantizer: Any, ranges: dict[str, dict] | None = None) -> bytes:
    with _quietly():
        result = quantizer.quantize(
            ranges, enable_progress_bar=False, enable_progress_report=False
        )
    return bytes(result.quantized_model)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Hides progress bars and notes of the libraries, and a warning about memory."""
    with silent_standard_error(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Warning: Enabling", UserWarning)
        yield


# === Integers ===


def _quantize_integers(flatbuffer: bytes, samples: Sequence[dict]) -> bytes:
    if not len(samples):
        raise InputError(
            "`quantize` int8 needs calibration images, received none; give pairs like "
            "those that the model will see, or choose dynamic-int8."
        )
    library, types = _import()
    from ai_edge_litert.tools import flatbuffer_utils

    graph = flatbuffer_utils.read_model_from_bytearray(bytearray(flatbuffer))
    before, after = _outside_the_convolutions(graph)

    def quantizer_of(content: bytes) -> Any:
        operation = types.TFLOperationName
        skip = library.AlgorithmName.NO_QUANTIZE
        quantizer = library.Quantizer(bytearray(content))
        quantizer.add_static_config(".*", operation.ALL_SUPPORTED, 8, 8)
        for end in (operation.INPUT, operation.OUTPUT):
            quantizer.update_quantization_recipe(".*", end, algorithm_key=skip)
        # Softmax and the division by the length lose most in 8 bits, and take little
        # time.
        for outside in (before, after):
            if outside:
                quantizer.update_quantization_recipe(
                    _any_of(outside), operation.ALL_SUPPORTED, algorithm_key=skip
                )
        quantizer.add_dynamic_config(_any_of(after), operation.FULLY_CONNECTED, 8)
        return quantizer

    recipe = quantizer_of(flatbuffer).get_quantization_recipe()
    ranges = _ranges(flatbuffer, samples, recipe)
    _lift_dead_channels(graph, ranges)
    lifted = flatbuffer_utils.convert_object_to_bytearray(graph)
    return _quantized(quantizer_of(lifted), ranges)


def _outside_the_convolutions(graph: Any) -> tuple[list[str], list[str]]:
    """Returns the outputs of operations outside of the convolutions.

    Returns:
        Names of tensors before the first convolution, and after the pooling.
    """
    from ai_edge_litert.schema_py_generated import BuiltinOperator

    main = graph.subgraphs[0]
    kinds = [
        graph.operatorCodes[operator.opcodeIndex].builtinCode
        for operator in main.operators
    ]
    if BuiltinOperator.CONV_2D not in kinds or BuiltinOperator.MEAN not in kinds:
        raise InputError(
            "`quantize` int8 needs an image tower, received a file without "
            "convolutions; use dynamic-int8."
        )
    first = kinds.index(BuiltinOperator.CONV_2D)
    pooling = len(kinds) - 1 - kinds[::-1].index(BuiltinOperator.MEAN)
    before = _output_names(main, main.operators[:first])
    after = _output_names(main, main.operators[pooling + 1 :])
    return before, after


def _output_names(main: Any, operators: Sequence[Any]) -> list[str]:
    """Returns the names of the outputs of operators of the main graph."""
    return [
        main.tensors[index].name.decode()
        for operator in operators
        for index in operator.outputs
    ]


def _any_of(names: list[str]) -> str:
    """Returns a regular expression that matches names with one of these prefixes."""
    return f"^(?:{'|'.join(map(re.escape, names))})"


def widest_range(old: dict, new: dict) -> dict:
    """Joins the range of a tensor, empty at first, with that of another sample."""
    if not old:
        return new
    return {
        "min": np.minimum(old["min"], new["min"]),
        "max": np.maximum(old["max"], new["max"]),
    }


def _ranges(flatbuffer: bytes, samples: Sequence[dict], recipe: Any) -> dict[str, dict]:
    """Returns the smallest and the largest value of each tensor over all samples.

    The moving averages of the library depend on the order of the samples and forget
    white images.
    """
    from litert_quantizer import calibrator, recipe_manager

    manager = recipe_manager.RecipeManager()
    manager.load_quantization_recipe(recipe)

    with _quietly():
        calibration = calibrator.Calibrator(
            bytearray(flatbuffer), num_threads=1, qsv_update_func=widest_range
        )
        (key,) = calibration.get_signature_list()
        calibration.calibrate({key: list(samples)}, manager)
    return calibration.get_model_qsvs()


def _lift_dead_channels(graph: Any, ranges: dict[str, dict]) -> None:
    """Raises weights of channels whose weights are almost zero.

    An int32 bias is stored in steps of the channel's largest weight, and overflows for
    weights below 1e-6. One weight is raised until the bias fits, which changes outputs
    by less than 1e-6 of the bias.
    """
    main = graph.subgraphs[0]
    for operation in main.operators:
        parts = [main.tensors[index] for index in operation.inputs if index >= 0]
        input_range = ranges.get(parts[0].name.decode()) if len(parts) == 3 else None
        if not input_range:
            continue
        weights = _float_values(graph, parts[1])
        bias = _float_values(graph, parts[2])
        if weights is None or bias is None or bias.ndim != 1 or weights.ndim != 4:
            continue
        low = np.min(input_range["min"])
        high = np.max(input_range["max"])
        scale = (max(float(high), 0.0) - min(float(low), 0.0)) / 255
        least = _LARGEST_WEIGHT * np.abs(bias) / (scale * _LARGEST_BIAS)
        # The channel is the last axis in a depthwise convolution, and the first one in
        # other convolutions.
        axis = 3 if weights.shape[0] == 1 and weights.shape[3] == len(bias) else 0
        channels = np.moveaxis(weights, axis, 0)
        dead = np.abs(channels).max(axis=(1, 2, 3)) < least
        if dead.any():
            channels[dead, 0, 0, 0] = least[dead]
            buffer = graph.buffers[parts[1].buffer]
            buffer.data = np.frombuffer(weights.tobytes(), "uint8")


def _float_values(graph: Any, tensor: Any) -> np.ndarray | None:
    """Returns a copy of a constant float32 tensor, or None for other tensors."""
    from ai_edge_litert.schema_py_generated import TensorType

    data = graph.buffers[tensor.buffer].data
    if tensor.type != TensorType.FLOAT32 or data is None:
        return None
    return np.frombuffer(bytes(data), "float32").reshape(tensor.shape).copy()
