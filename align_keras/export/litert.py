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

# Minimum of the mean cosine similarity to the embeddings of Keras. These thresholds
# only detect broken files, since correct files exceed them by far. `align-keras export`
# measures the recall of quantized files.
MIN_COSINE = {
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
        quantize: one of `QUANTIZATIONS`.
        pixels: at least a hundred preprocessed images (n, S, S, 3). They calibrate the
            value ranges of `int8`. The file is compared with Keras on the first images,
            or on noise if there are none.
        resizable: leave the number, height and width of the images open. They are 1, S
            and S until the program that runs the file resizes the input.
        license: terms of the weights, or None.

    Returns:
        The content of the file.

    Raises:
        InputError: if the model does not compute in float32, or an argument is invalid,
            or the quantized file differs too much from Keras.
    """
    check_choice("quantize", quantize, QUANTIZATIONS)
    encode = tower_functions.image_tower_function(model, resizable)
    size = model.image_size
    pixels = np.asarray(pixels, "float32")
    content = _convert(encode, model.image_encoder, "encode_image_pixels")
    if resizable:
        content = _set_default_shapes(content, [1, size, size, 3])
    samples = [{"images": image[None]} for image in pixels]
    content = quantize_flatbuffer(content, quantize, samples)
    content = append_files(
        content,
        tower_functions.describe_image_tower(
            model, quantize, len(pixels), resizable, license
        ),
    )
    images = (
        pixels[: tower_functions.SAMPLE_COUNT]
        if len(pixels)
        else tower_functions.sample_images(size)
    )
    expected = np.asarray(model.normalize_image(model.image_encoder(images)))
    check_samples = [{"images": image[None]} for image in images]
    _check_embeddings(content, check_samples, expected, quantize)
    return content


def text_flatbuffer(
    model: Any, quantize: str = "none", *, license: str | None = None
) -> bytes:
    """Converts the text encoder to a LiteRT file with one signature.

    The signature `encode_token_ids` takes `token_ids` and `padding_mask`, int32
    (n, length), and returns `text_embedding`, float32 (n, d) of unit length. The length
    is at most L, so texts need no padding. The shape of the inputs is (1, L) until the
    program that runs the file resizes them.

    Args:
        model: `ALIGN` in float32.
        quantize: one of `QUANTIZATIONS`. `int8` is replaced by `dynamic-int8`, since
            outliers in the activations of a transformer do not fit into fixed 8-bit
            ranges (Bondarenko et al. 2021).
        license: terms of the weights, or None.

    Returns:
        The content of the file.

    Raises:
        InputError: if the model does not compute in float32, or an argument is invalid,
            or the quantized file differs too much from Keras.
    """
    check_choice("quantize", quantize, QUANTIZATIONS)
    encode = tower_functions.text_tower_function(model)
    encoder = model.text_encoder
    tokens = tower_functions.sample_tokens(model)
    if quantize == "int8":
        quantize = "dynamic-int8"
    with _quantized_embedding(encoder.token_embedding, quantize):
        content = _convert(encode, encoder, "encode_token_ids")
    content = _set_default_shapes(content, [1, encoder.sequence_length])
    content = quantize_flatbuffer(content, quantize)
    content = append_files(
        content,
        tower_functions.describe_text_tower(model, quantize, license),
    )
    expected = np.asarray(model.normalize_text(encoder(tokens)))
    samples = [
        {name: ids[row, None, :length] for name, ids in tokens.items()}
        for row, length in enumerate(tokens["padding_mask"].sum(axis=1))
    ]
    _check_embeddings(content, samples, expected, quantize)
    return content


@silent_standard_error()
def _convert(encode: Callable, encoder: Any, key: str) -> bytes:
    """Converts a function and its variables to a float LiteRT file."""
    # The conversion goes through a SavedModel, since `from_concrete_functions` silently
    # writes files without weights for Keras 3 models.
    module = tf.Module()
    module.encode = encode
    module.stored_variables = [variable.value for variable in encoder.variables]
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, signatures={key: encode})
        converter = tf.lite.TFLiteConverter.from_saved_model(
            folder, signature_keys=[key]
        )
        # TensorFlow operations in the file would require more than the LiteRT runtime.
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        return converter.convert()


@contextlib.contextmanager
def _quantized_embedding(layer: Any, quantize: str) -> Iterator[None]:
    """Makes an embedding layer look up integer rows with a scale per row."""
    # The change lasts until the context ends. The function that is traced in this
    # context contains the integer table. This is necessary since the quantizer does not
    # quantize the table of a gather operation, and LiteRT cannot gather float16.
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
        # The attribute is deleted, so that `layer.call` is the method of the class.
        del layer.call


def _set_default_shapes(content: bytes, shape: list[int]) -> bytes:
    """Returns a LiteRT file whose inputs have `shape` until they are resized."""
    # The converter sets each open axis to 1.
    from ai_edge_litert.tools import flatbuffer_utils

    graph = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    main = graph.subgraphs[0]
    for index in main.inputs:
        main.tensors[index].shape = shape
    return bytes(flatbuffer_utils.convert_object_to_bytearray(graph))


@silent_standard_error()
def _check_embeddings(
    content: bytes,
    samples: list[dict[str, np.ndarray]],
    expected: np.ndarray,
    quantize: str,
) -> None:
    """Raises if the embeddings of a file differ too much from those of Keras."""
    tower = LiteRTTower(content)
    embeddings = np.concatenate([tower(**sample) for sample in samples])
    cosine = float(np.mean(np.sum(embeddings * expected, axis=1)))
    # A cosine of NaN does not pass, since comparisons with NaN are False.
    if not cosine >= MIN_COSINE[quantize]:
        raise InputError(
            "The embeddings of the converted tower must have a mean cosine similarity "
            f"of at least {MIN_COSINE[quantize]} to those of Keras with `quantize` "
            f"{quantize}. Received: {cosine:.4f}. Choose a quantization with more bits."
        )
