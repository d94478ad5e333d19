"""Quantization of a float LiteRT file."""

import contextlib
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from align_keras.utils.errors import needs
from align_keras.utils.quiet import silent_standard_error

# Limits of quantized values. Weights are int8. Biases are int32 multiples of the scale
# of the inputs times the scale of the weights, and 2^30 leaves room for rounding.
_MAX_BIAS = 2.0**30
_MAX_WEIGHT = 127.0


def quantize_flatbuffer(
    flatbuffer: bytes, quantize: str, samples: Sequence[dict] = ()
) -> bytes:
    """Quantizes a float LiteRT file with one signature.

    The inputs and outputs of the file remain float32.

    - `float16` and `weight-int8` store the weights in this format. All operations
      compute in float32.
    - `dynamic-int8` stores weights as `weight-int8` does. Matrix products and
      convolutions compute in integers. They quantize their inputs at run time.
    - `int8` quantizes weights and activations from the first convolution to the pooling
      (Jacob et al. 2018). Later matrix products compute as in `dynamic-int8`. All other
      operations compute in float32.

    Args:
        flatbuffer: content of the file.
        quantize: one of `QUANTIZATIONS`.
        samples: dicts of inputs that determine the value ranges of `int8`.

    Returns:
        The content of the quantized file.
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
    return _run_quantizer(quantizer)


def _import() -> tuple[Any, Any]:
    """Returns the modules `quantizer` and `qtyping` of litert-quantizer."""
    with needs("litert", "quantize needs litert-quantizer", ", or omit `quantize`"):
        from litert_quantizer import qtyping, quantizer
    return quantizer, qtyping


def _run_quantizer(quantizer: Any, ranges: dict[str, dict] | None = None) -> bytes:
    with _hidden_output():
        result = quantizer.quantize(
            ranges, enable_progress_bar=False, enable_progress_report=False
        )
    return bytes(result.quantized_model)


@contextlib.contextmanager
def _hidden_output() -> Iterator[None]:
    """Hides the progress bars, log messages and a memory warning of the libraries."""
    with silent_standard_error(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Warning: Enabling", UserWarning)
        yield


# === Integers ===


def _quantize_integers(flatbuffer: bytes, samples: Sequence[dict]) -> bytes:
    library, types = _import()
    from ai_edge_litert.tools import flatbuffer_utils

    graph = flatbuffer_utils.read_model_from_bytearray(bytearray(flatbuffer))
    before, after = _tensors_outside_convolutions(graph)

    def build_quantizer(content: bytes) -> Any:
        operation = types.TFLOperationName
        skip = library.AlgorithmName.NO_QUANTIZE
        quantizer = library.Quantizer(bytearray(content))
        quantizer.add_static_config(".*", operation.ALL_SUPPORTED, 8, 8)
        for end in (operation.INPUT, operation.OUTPUT):
            quantizer.update_quantization_recipe(".*", end, algorithm_key=skip)
        # Softmax and the normalization to unit length would lose the most accuracy in
        # 8 bits, and they take little time in float32.
        for tensor_names in (before, after):
            if tensor_names:
                quantizer.update_quantization_recipe(
                    _prefix_pattern(tensor_names),
                    operation.ALL_SUPPORTED,
                    algorithm_key=skip,
                )
        pattern = _prefix_pattern(after)
        quantizer.add_dynamic_config(pattern, operation.FULLY_CONNECTED, 8)
        return quantizer

    recipe = build_quantizer(flatbuffer).get_quantization_recipe()
    ranges = _measure_ranges(flatbuffer, samples, recipe)
    _raise_tiny_weights(graph, ranges)
    adjusted = flatbuffer_utils.convert_object_to_bytearray(graph)
    return _run_quantizer(build_quantizer(adjusted), ranges)


def _tensors_outside_convolutions(graph: Any) -> tuple[list[str], list[str]]:
    """Returns the tensors before the first convolution and after the pooling."""
    from ai_edge_litert.schema_py_generated import BuiltinOperator

    main = graph.subgraphs[0]
    kinds = [
        graph.operatorCodes[operator.opcodeIndex].builtinCode
        for operator in main.operators
    ]
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


def _prefix_pattern(prefixes: list[str]) -> str:
    """Returns a regular expression for names that start with one of the prefixes."""
    return f"^(?:{'|'.join(map(re.escape, prefixes))})"


def widest_range(old: dict, new: dict) -> dict:
    """Returns the union of the value ranges of a tensor for two samples.

    Args:
        old: dict with the arrays `min` and `max`, or an empty dict.
        new: dict with the arrays `min` and `max`.
    """
    if not old:
        return new
    return {
        "min": np.minimum(old["min"], new["min"]),
        "max": np.maximum(old["max"], new["max"]),
    }


def _measure_ranges(
    flatbuffer: bytes, samples: Sequence[dict], recipe: Any
) -> dict[str, dict]:
    """Returns the minimum and maximum of each tensor over all samples."""
    # The library computes moving averages by default. They depend on the order of the
    # samples, and rare samples such as white images have almost no effect on them.
    from litert_quantizer import calibrator, recipe_manager

    manager = recipe_manager.RecipeManager()
    manager.load_quantization_recipe(recipe)

    with _hidden_output():
        calibration = calibrator.Calibrator(
            bytearray(flatbuffer), num_threads=1, qsv_update_func=widest_range
        )
        (key,) = calibration.get_signature_list()
        calibration.calibrate({key: list(samples)}, manager)
    return calibration.get_model_qsvs()


def _raise_tiny_weights(graph: Any, ranges: dict[str, dict]) -> None:
    """Increases one weight in each channel whose weights are almost zero."""
    # The step of an int32 bias is proportional to the largest weight of its channel. If
    # all weights of a channel are below 1e-6, the bias overflows. The increased weight
    # makes the bias fit, and changes outputs by less than 1e-6 of the bias.
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
        min_weight = _MAX_WEIGHT * np.abs(bias) / (scale * _MAX_BIAS)
        # Depthwise convolutions store the channels in the last axis, and other
        # convolutions in the first axis.
        axis = 3 if weights.shape[0] == 1 and weights.shape[3] == len(bias) else 0
        channels = np.moveaxis(weights, axis, 0)
        is_tiny = np.abs(channels).max(axis=(1, 2, 3)) < min_weight
        if is_tiny.any():
            channels[is_tiny, 0, 0, 0] = min_weight[is_tiny]
            buffer = graph.buffers[parts[1].buffer]
            buffer.data = np.frombuffer(weights.tobytes(), "uint8")


def _float_values(graph: Any, tensor: Any) -> np.ndarray | None:
    """Returns a copy of a constant float32 tensor, or None for other tensors."""
    from ai_edge_litert.schema_py_generated import TensorType

    data = graph.buffers[tensor.buffer].data
    if tensor.type != TensorType.FLOAT32 or data is None:
        return None
    return np.frombuffer(bytes(data), "float32").reshape(tensor.shape).copy()
