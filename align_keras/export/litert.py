"""Conversion of the encoders to LiteRT (TensorFlow Lite) files."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from align_keras.export import QUANTIZATIONS, tower_functions
from align_keras.export.litert_file import LiteRTTower, append_files
from align_keras.export.litert_quantize import quantize_flatbuffer
from align_keras.utils.arguments import check_choice
from align_keras.utils.errors import InputError
from align_keras.utils.quiet import silent_standard_error

# Smallest mean cosine to the embeddings of Keras. The bounds are far below the measured
# values, and detect broken files. `align-keras export` measures the recall.
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
    """Converts the image encoder to a LiteRT file with one signature.

    The signature `encode_image_pixels` takes `images`, float32 (1, S, S, 3) in
    [0, 255], and returns `image_embedding`, float32 (1, d) of unit length.

    Args:
        model: `ALIGN` in float32.
        quantize: str, one of `QUANTIZATIONS`.
        pixels: preprocessed images (n, S, S, 3), a hundred or more, that calibrate the
            ranges of `int8`. The file is checked on the first ones, or on noise.
        resizable: bool, leave number, height and width open. They are 1, S and S until
            the interpreter resizes them.
        license: str, terms of the weights, or None.
    """
    check_choice("quantize", quantize, QUANTIZATIONS)
    encode = tower_functions.image_tower_function(model, resizable)
    size = model.image_size
    pixels = _checked_pixels(pixels, size)
    content = _convert(encode, model.image_encoder, "encode_image_pixels")
    if resizable:
        content = _with_default_shapes(content, [1, size, size, 3])
    samples = [{"images": image[None]} for image in pixels]
    content = quantize_flatbuffer(content, quantize, samples)
    content = append_files(
        content,
        tower_functions.describe_image_tower(
            model, quantize, len(pixels), resizable, license
        ),
    )
    checked = (
        pixels[: tower_functions.CHECKED]
        if len(pixels)
        else tower_functions.noise(size)
    )
    expected = np.asarray(model.normalize_image(model.image_encoder(checked)))
    _check(content, [{"images": image[None]} for image in checked], expected, quantize)
    return content


def text_flatbuffer(
    model: Any,
    quantize: str = "none",
    *,
    resizable: bool = False,
    license: str | None = None,
) -> bytes:
    """Converts the text encoder to a LiteRT file with one signature.

    The signature `encode_token_ids` takes `token_ids` and `padding_mask`, int32 (1, L),
    and returns `text_embedding`, float32 (1, d) of unit length.

    `int8` is `dynamic-int8` here, since outliers in the activations of a transformer
    don't fit into fixed ranges of 8 bits (Bondarenko et al. 2021). The arguments are
    those of `image_flatbuffer`.
    """
    check_choice("quantize", quantize, QUANTIZATIONS)
    encode = tower_functions.text_tower_function(model, resizable)
    encoder = model.text_encoder
    tokens = tower_functions.some_tokens(model)
    if quantize == "int8":
        quantize = "dynamic-int8"
    with _narrow_embedding(encoder.token_embedding, quantize):
        content = _convert(encode, encoder, "encode_token_ids")
    content = quantize_flatbuffer(content, quantize)
    content = append_files(
        content,
        tower_functions.describe_text_tower(model, quantize, resizable, license),
    )
    expected = np.asarray(model.normalize_text(encoder(tokens)))
    samples = [
        {name: ids[row, None] for name, ids in tokens.items()}
        for row in range(len(expected))
    ]
    _check(content, samples, expected, quantize)
    return content


def _checked_pixels(pixels: Sequence | np.ndarray, size: int) -> np.ndarray:
    pixels = np.asarray(pixels, "float32")
    if len(pixels) and pixels.shape[1:] != (size, size, 3):
        raise InputError(
            f"pixels must have the shape (n, {size}, {size}, 3), received "
            f"{pixels.shape}; preprocess the images by preprocess_image."
        )
    return pixels


@silent_standard_error()
def _convert(encode: Callable, encoder: Any, key: str) -> bytes:
    """Converts a function and its variables to a float LiteRT file.

    The conversion goes through a SavedModel, since `from_concrete_functions` silently
    writes files without weights for Keras 3 models.
    """
    module = tf.Module()
    module.encode = encode
    module.stored_variables = [variable.value for variable in encoder.variables]
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, signatures={key: encode})
        converter = tf.lite.TFLiteConverter.from_saved_model(
            folder, signature_keys=[key]
        )
        # Without operations of TensorFlow the file needs no runtime but LiteRT's.
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        return converter.convert()


@contextlib.contextmanager
def _narrow_embedding(layer: Any, quantize: str) -> Iterator[None]:
    """Makes a token embedding look up integers with a scale per row, for tracing.

    The quantizer doesn't quantize tables that rows are gathered from, and LiteRT can't
    gather float16.
    """
    if quantize == "none":
        yield
        return
    dtype = "int16" if quantize == "float16" else "int8"
    table = np.asarray(layer.embeddings)
    largest = np.iinfo(dtype).max
    scales = np.maximum(np.abs(table).max(axis=1, keepdims=True) / largest, 1e-12)
    rows = tf.constant(np.rint(table / scales).astype(dtype))
    scales = tf.constant(scales.astype("float32"))

    def look_up(ids: tf.Tensor) -> tf.Tensor:
        return tf.cast(tf.gather(rows, ids), "float32") * tf.gather(scales, ids)

    layer.call = look_up
    try:
        yield
    finally:
        # The layer gets the method of its class again.
        del layer.call


def _with_default_shapes(content: bytes, shape: list[int]) -> bytes:
    """Writes the shape that open inputs have before they are resized.

    The converter writes 1 for each open axis.
    """
    from ai_edge_litert.tools import flatbuffer_utils

    graph = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    main = graph.subgraphs[0]
    for index in main.inputs:
        main.tensors[index].shape = shape
    return bytes(flatbuffer_utils.convert_object_to_bytearray(graph))


@silent_standard_error()
def _check(
    content: bytes,
    samples: list[dict[str, np.ndarray]],
    expected: np.ndarray,
    quantize: str,
) -> None:
    """Raises if the embeddings of a file differ too much from those of Keras."""
    tower = LiteRTTower(content)
    embeddings = np.concatenate([tower(**sample) for sample in samples])
    cosine = float(np.mean(np.sum(embeddings * expected, axis=1)))
    # NaN fails this comparison too.
    if cosine >= LEAST_COSINE[quantize]:
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
