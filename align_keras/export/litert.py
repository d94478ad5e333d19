"""The towers as LiteRT (TensorFlow Lite) files, for phones, browsers and boards."""

import contextlib
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from align_keras.export import QUANTIZATIONS, towers
from align_keras.export.litert_file import LiteRTTower, append_files
from align_keras.export.litert_quantize import quantize_flatbuffer
from align_keras.utils.arguments import check_choice
from align_keras.utils.errors import InputError
from align_keras.utils.quiet import silent_standard_error

# The least mean cosine to Keras's embeddings, far below what was measured: it tells
# broken files from rounded ones. Recall is judged by `align-keras export`.
LEAST_COSINE = {
    "none": 0.9999,
    "float16": 0.999,
    "weight-int8": 0.95,
    "dynamic-int8": 0.95,
    "int8": 0.9,
}


def image_flatbuffer(
    model: Any,
    quantize: str = "none",
    pixels: Sequence | np.ndarray = (),
    *,
    resizable: bool = False,
    license: str | None = None,
) -> bytes:
    """Converts the image tower to one signature, `encode_image_pixels`: `images`,
    float32 (1, S, S, 3) in [0, 255], → `image_embedding`, float32 (1, d), of unit
    length.

    `pixels`, preprocessed images (n, S, S, 3), a hundred or more, give `int8` its
    ranges; the file is checked on the first, or on noise. `resizable` leaves number,
    height and width open: they are 1, S and S until the interpreter is told otherwise.
    """
    check_choice("quantize", quantize, QUANTIZATIONS)
    encode = towers.image_tower_function(model, resizable)
    size = model.image_size
    pixels = _checked_pixels(pixels, size)
    content = _convert(encode, model.image_encoder, "encode_image_pixels")
    if resizable:
        content = _with_default_shapes(content, [1, size, size, 3])
    samples = [{"images": image[None]} for image in pixels]
    content = quantize_flatbuffer(content, quantize, samples)
    content = append_files(
        content,
        towers.describe_image_tower(model, quantize, len(pixels), resizable, license),
    )
    shown = pixels[: towers.CHECKED] if len(pixels) else towers.noise(size)
    expected = np.asarray(model.normalize_image(model.image_encoder(shown)))
    _check(content, [{"images": image[None]} for image in shown], expected, quantize)
    return content


def text_flatbuffer(
    model: Any,
    quantize: str = "none",
    *,
    resizable: bool = False,
    license: str | None = None,
) -> bytes:
    """Converts the text tower to one signature, `encode_token_ids`: `token_ids` and
    `padding_mask`, int32 (1, L), → `text_embedding`, float32 (1, d), of unit length.

    `int8` is `dynamic-int8` here: outliers of a transformer's activations don't fit
    fixed ranges of 8 bits (Bondarenko et al. 2021).
    """
    check_choice("quantize", quantize, QUANTIZATIONS)
    encode = towers.text_tower_function(model, resizable)
    encoder = model.text_encoder
    tokens = towers.some_tokens(model)
    if quantize == "int8":
        quantize = "dynamic-int8"
    with _narrow_embedding(encoder.token_embedding, quantize):
        content = _convert(encode, encoder, "encode_token_ids")
    content = quantize_flatbuffer(content, quantize)
    content = append_files(
        content, towers.describe_text_tower(model, quantize, resizable, license)
    )
    expected = np.asarray(model.normalize_text(encoder(tokens)))
    rows = range(len(expected))
    shown = [{name: ids[row, None] for name, ids in tokens.items()} for row in rows]
    _check(content, shown, expected, quantize)
    return content


def _checked_pixels(pixels, size):
    pixels = np.asarray(pixels, "float32")
    if len(pixels) and pixels.shape[1:] != (size, size, 3):
        raise InputError(
            f"pixels must have the shape (n, {size}, {size}, 3), received "
            f"{pixels.shape}; preprocess the images by preprocess_image."
        )
    return pixels


@silent_standard_error()
def _convert(encode, encoder, key):
    """A function and its variables as a float LiteRT file, by way of a SavedModel: of
    Keras 3 models `from_concrete_functions` writes files without weights, and says
    nothing.
    """
    module = tf.Module()
    module.encode = encode
    module.stored_variables = [variable.value for variable in encoder.variables]
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, signatures={key: encode})
        converter = tf.lite.TFLiteConverter.from_saved_model(
            folder, signature_keys=[key]
        )
        # No operations of TensorFlow: no runtime but LiteRT's is needed.
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        return converter.convert()


@contextlib.contextmanager
def _narrow_embedding(layer, quantize):
    """Lets a token embedding look up integers with a scale a row, while it is traced.
    The quantizer leaves tables alone that are gathered from; LiteRT gathers no float16.
    """
    if quantize == "none":
        yield
        return
    dtype = "int16" if quantize == "float16" else "int8"
    table, largest = np.asarray(layer.embeddings), np.iinfo(dtype).max
    scales = np.maximum(np.abs(table).max(axis=1, keepdims=True) / largest, 1e-12)
    rows = tf.constant(np.rint(table / scales).astype(dtype))
    scales = tf.constant(scales.astype("float32"))

    def look_up(ids):
        return tf.cast(tf.gather(rows, ids), "float32") * tf.gather(scales, ids)

    layer.call = look_up
    try:
        yield
    finally:
        del layer.call  # The class's again.


def _with_default_shapes(content, shape):
    """Writes what open inputs are before they are resized; the converter writes 1."""
    from ai_edge_litert.tools import flatbuffer_utils

    graph = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    main = graph.subgraphs[0]
    for index in main.inputs:
        main.tensors[index].shape = shape
    return bytes(flatbuffer_utils.convert_object_to_bytearray(graph))


@silent_standard_error()
def _check(content, samples, expected, quantize):
    tower = LiteRTTower(content)
    found = np.concatenate([tower(**sample) for sample in samples])
    cosine = float(np.mean(np.sum(found * expected, axis=1)))
    if cosine >= LEAST_COSINE[quantize]:  # Not of not-a-number either.
        return
    problem = (
        f"its mean cosine to Keras's embeddings is {cosine:.4f}, below "
        f"{LEAST_COSINE[quantize]} for {quantize}"
    )
    if quantize == "none":
        raise RuntimeError(
            f"the converted tower isn't the model's: {problem}; report it."
        )
    raise InputError(
        f"quantize must leave the tower as it was, received {quantize!r}: {problem}; "
        "choose a finer quantization."
    )
