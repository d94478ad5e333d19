"""Conversion of the encoders to ONNX files for runtimes other than TensorFlow."""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np

from align_keras.export import tower_functions
from align_keras.utils.errors import needs

# Newest ONNX operator set that ONNX Runtime 1.20 supports.
_OPSET = 18
# Largest allowed difference between the embeddings of ONNX Runtime and of Keras. The
# two runtimes add float32 values in different orders in about a hundred layers, and
# each addition has a rounding error of 2^-24.
_MAX_DIFFERENCE = 1e-4


def image_onnx(model: Any, *, license: str | None = None) -> bytes:
    """Converts the image encoder to an ONNX file.

    The metadata properties of the file have the names and contents of the files that
    `align_keras.export.litert_file` appends to a LiteRT file.

    Args:
        model: `ALIGN` in float32.
        license: terms of the weights, or None.

    Returns:
        The content of the file. Its input `images` is float32 (n, height, width, 3) in
        [0, 255], and its output is float32 (n, d).
    """
    encode = tower_functions.image_tower_function(model, resizable=True)
    files = tower_functions.describe_image_tower(model, "none", 0, True, license)
    sample_inputs = {"images": tower_functions.sample_images(model.image_size)}
    return _convert(encode, files, sample_inputs)


def text_onnx(model: Any, *, license: str | None = None) -> bytes:
    """Converts the text encoder to an ONNX file.

    Args:
        model: `ALIGN` in float32.
        license: terms of the weights, or None.

    Returns:
        The content of the file. Its inputs `token_ids` and `padding_mask` are int32
        (n, l) with a length l of at most L, and its output is float32 (n, d).
    """
    encode = tower_functions.text_tower_function(model)
    files = tower_functions.describe_text_tower(model, "none", license)
    return _convert(encode, files, tower_functions.sample_tokens(model))


def _convert(
    encode: Any, files: dict[str, str], sample_inputs: dict[str, np.ndarray]
) -> bytes:
    """Converts a function to ONNX and compares their outputs for sample inputs."""
    with needs("onnx", "ONNX files need tf2onnx with onnxruntime"):
        import onnxruntime
        import tf2onnx
    with _hidden_output():
        graph, _ = tf2onnx.convert.from_function(
            encode,
            input_signature=encode.input_signature,
            opset=_OPSET,
            custom_op_handlers={"Erfc": (_erfc, [])},
        )
    for name, text in files.items():
        graph.metadata_props.add(key=name, value=text)
    content = graph.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (embeddings,) = session.run(None, sample_inputs)
    (expected,) = encode(**sample_inputs).values()
    difference = float(np.max(np.abs(embeddings - np.asarray(expected))))
    # A difference of NaN must raise too, and comparisons with NaN are False.
    if not difference <= _MAX_DIFFERENCE:
        raise RuntimeError(
            "The embeddings of the converted tower must equal those of Keras up to "
            f"{_MAX_DIFFERENCE}. Received: a difference of {difference:.2g}. Please "
            "report this error of the conversion."
        )
    return content


def _erfc(graph: Any, node: Any, name: str, arguments: Any) -> None:
    """Replaces an Erfc node by 1 - Erf."""
    # TensorFlow computes the exact GELU of Keras with Erfc, which ONNX does not have.
    (x,) = node.input
    outputs = node.output
    shapes = node.output_shapes
    dtypes = node.output_dtypes
    one = graph.make_const(f"{name}/one", np.float32(1))
    erf = graph.make_node("Erf", [x], shapes=shapes, dtypes=dtypes)
    graph.remove_node(name)
    graph.make_node(
        "Sub",
        [one.output[0], erf.output[0]],
        name=name,
        outputs=outputs,
        shapes=shapes,
        dtypes=dtypes,
    )


@contextlib.contextmanager
def _hidden_output() -> Iterator[None]:
    """Hides the log messages of the converter."""
    previous_level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(previous_level)
