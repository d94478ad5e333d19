"""The towers as ONNX files, for runtimes other than TensorFlow's."""

import contextlib
import logging
from typing import Any

import numpy as np

from align_keras.export import towers
from align_keras.utils.errors import needs

# The newest whose operations ONNX Runtime 1.20 has.
_OPSET = 18
# Sums in another order, rounded at 2^-24, through some hundred layers.
_LARGEST_DIFFERENCE = 1e-4


def image_onnx(model: Any, *, license: str | None = None) -> bytes:
    """Converts the image tower: float32 (n, height, width, 3) in [0, 255] → (n, d).
    What a LiteRT file holds besides are metadata properties.
    """
    encode = towers.image_tower_function(model, resizable=True)
    files = towers.describe_image_tower(model, "none", 0, True, license)
    return _converted(encode, files, {"images": towers.noise(model.image_size)})


def text_onnx(model: Any, *, license: str | None = None) -> bytes:
    """Converts the text tower: `token_ids`, `padding_mask`, int32 (n, L) → (n, d)."""
    encode = towers.text_tower_function(model, resizable=True)
    tokens = towers.some_tokens(model)
    return _converted(
        encode, towers.describe_text_tower(model, "none", True, license), tokens
    )


def _converted(encode, files, inputs):
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
    (found,) = session.run(None, inputs)
    (expected,) = encode(**inputs).values()
    difference = float(np.max(np.abs(found - np.asarray(expected))))
    if not difference <= _LARGEST_DIFFERENCE:  # Not-a-number too.
        raise RuntimeError(
            f"the converted tower isn't the model's: its embeddings differ from "
            f"Keras's by {difference:.2g}, more than {_LARGEST_DIFFERENCE}; report it."
        )
    return content


def _erfc(graph, node, name, arguments):
    """Makes 1 - Erf of the Erfc that Keras's exact GELU is in TensorFlow."""
    (x,), outputs = node.input, node.output
    shapes, dtypes = node.output_shapes, node.output_dtypes
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
def _quietly():
    """Without the converter's lines on each step it takes."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
