"""Conversion of the encoders to ONNX files, for runtimes other than TensorFlow."""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np

from align_keras.export import tower_functions
from align_keras.utils.errors import needs

# Newest version of ONNX operations that ONNX Runtime 1.20 supports.
_OPSET = 18
# Largest difference of embeddings. About a hundred layers sum in another order, with
# rounding errors of 2^-24.
_LARGEST_DIFFERENCE = 1e-4


def image_onnx(model: Any, *, license: str | None = None) -> bytes:
    """Converts the image encoder: float32 (n, height, width, 3) in [0, 255] → (n, d).

    The metadata properties of the file are the files in the archive of a LiteRT file.
    """
    encode = tower_functions.image_tower_function(model, resizable=True)
    files = tower_functions.describe_image_tower(model, "none", 0, True, license)
    return _converted(
        encode, files, {"images": tower_functions.noise(model.image_size)}
    )


def text_onnx(model: Any, *, license: str | None = None) -> bytes:
    """Converts the text encoder: `token_ids`, `padding_mask`, int32 (n, L) → (n, d)."""
    encode = tower_functions.text_tower_function(model, resizable=True)
    tokens = tower_functions.some_tokens(model)
    return _converted(
        encode,
        tower_functions.describe_text_tower(model, "none", True, license),
        tokens,
    )


def _converted(
    encode: Any, files: dict[str, str], inputs: dict[str, np.ndarray]
) -> bytes:
    """Converts a function to ONNX, and compares its outputs on `inputs`."""
    with needs("onnx", "ONNX files need tf2onnx with onnxruntime"):
        import onnxruntime
        import tf2onnx
    with _quietly():
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
    (embeddings,) = session.run(None, inputs)
    (expected,) = encode(**inputs).values()
    difference = float(np.max(np.abs(embeddings - np.asarray(expected))))
    # The comparison is False for NaN.
    if not difference <= _LARGEST_DIFFERENCE:
        raise RuntimeError(
            f"the converted tower isn't the model's: its embeddings differ from "
            f"Keras's by {difference:.2g}, more than {_LARGEST_DIFFERENCE}; report it."
        )
    return content


def _erfc(graph: Any, node: Any, name: str, arguments: Any) -> None:
    """Replaces Erfc by 1 - Erf. TensorFlow computes Keras's exact GELU with Erfc."""
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
def _quietly() -> Iterator[None]:
    """Hides the log of the converter."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
