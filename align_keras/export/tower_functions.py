"""Encoders as `tf.function`s for converters, with sample inputs and descriptions."""

import contextlib
import json
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any

import numpy as np
import tensorflow as tf

from align_keras.export.litert_file import LICENSE_FILE, METADATA_FILE
from align_keras.images import crop_size_to_resize_size
from align_keras.text.vocabulary import VOCABULARY_FILE
from align_keras.utils.errors import InputError
from align_keras.utils.files import MAX_PIXELS

_NO_LICENSE = (
    "The license of these weights was not stated when this file was exported. The "
    "license of the person or company that trained the model applies, together with "
    "the licenses of the pretrained weights and images that were used. The program "
    "that wrote this file, align-keras, is under the Apache License 2.0."
)


# Number of sample inputs on which a converted file is compared with Keras.
SAMPLE_COUNT = 8


def image_tower_function(model: Any, resizable: bool) -> Callable:
    """Returns the image encoder as a `tf.function`.

    Args:
        model: `ALIGN` in float32.
        resizable: if True, the argument `images` of the function, float32 RGB in
            [0, 255], has the shape (None, None, None, 3), and otherwise (1, S, S, 3),
            where S is the image size of the model.
    """
    encoder = model.image_encoder
    _check_float32(encoder)
    normalize = model.normalize_image
    size = model.image_size
    shape = (None, None, None, 3) if resizable else (1, size, size, 3)

    @tf.function(
        input_signature=[tf.TensorSpec(shape, tf.float32, name="images")],
        autograph=False,
    )
    def encode(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"image_embedding": normalize(encoder(images, training=False))}

    return encode


def text_tower_function(model: Any) -> Callable:
    """Returns the text encoder of an `ALIGN` in float32 as a `tf.function`.

    Its arguments `token_ids` and `padding_mask` are int32 (n, length). The length is at
    most the sequence length of the model.
    """
    encoder = model.text_encoder
    _check_float32(encoder)
    normalize = model.normalize_text

    @tf.function(
        input_signature=[
            tf.TensorSpec((None, None), tf.int32, name="token_ids"),
            tf.TensorSpec((None, None), tf.int32, name="padding_mask"),
        ],
        autograph=False,
    )
    def encode(token_ids: tf.Tensor, padding_mask: tf.Tensor) -> dict[str, tf.Tensor]:
        inputs = {"token_ids": token_ids, "padding_mask": padding_mask}
        with _short_position_table(encoder):
            return {"text_embedding": normalize(encoder(inputs, training=False))}

    return encode


@contextlib.contextmanager
def _short_position_table(encoder: Any) -> Iterator[None]:
    """Makes a text encoder use only the positions up to its sequence length."""
    # A converter would store the whole table, which has 512 rows in BERT.
    from keras_hub.layers import PositionEmbedding

    (layer,) = (
        layer
        for layer in encoder._flatten_layers()
        if isinstance(layer, PositionEmbedding)
    )
    table = layer.position_embeddings[: encoder.sequence_length]

    # DistilBERT also passes the defaults of the other arguments.
    def look_up(tokens: tf.Tensor, **_: Any) -> tf.Tensor:
        shape = tf.shape(tokens)
        return tf.broadcast_to(table[: shape[1]], shape)

    layer.call = look_up
    try:
        yield
    finally:
        # The attribute is deleted, so that `layer.call` is the method of the class.
        del layer.call


def sample_images(size: int) -> np.ndarray:
    """Returns random images, float32 (`SAMPLE_COUNT`, size, size, 3) in [0, 255]."""
    random = np.random.default_rng(0)
    return random.integers(0, 256, (SAMPLE_COUNT, size, size, 3)).astype("float32")


def sample_tokens(model: Any) -> dict[str, np.ndarray]:
    """Returns token ids and masks of `SAMPLE_COUNT` texts with different lengths."""
    words = [token for token in model.tokenizer.vocabulary if token.isalnum()]
    texts = [" ".join(words[-count:]) for count in range(SAMPLE_COUNT)]
    return {name: np.asarray(ids) for name, ids in model.tokenizer(texts).items()}


def _check_float32(encoder: Any) -> None:
    """Raises unless all layers of an encoder compute in float32."""
    policies = {layer.dtype_policy.name for layer in encoder._flatten_layers()}
    if policies != {"float32"}:
        raise InputError(
            "`model` must compute in float32 for the conversion. Received: "
            f"{encoder.name} in {', '.join(sorted(policies - {'float32'}))}. Load the "
            'model with ALIGN.from_preset(…, dtype="float32").'
        )


def describe_image_tower(
    model: Any,
    quantize: str,
    calibration_images: int,
    resizable: bool,
    license: str | None,
) -> dict[str, str]:
    """Returns the files that describe an image encoder.

    Args:
        model: exported `ALIGN`.
        quantize: one of `QUANTIZATIONS`.
        calibration_images: number of images that calibrated `int8`.
        resizable: the number and size of the images are open.
        license: terms of the weights, or None.

    Returns:
        dict from names of files to texts.
    """
    size = model.image_size
    resized = crop_size_to_resize_size(size)
    description: dict[str, Any] = {
        "signature": "encode_image_pixels",
        "inputs": [
            {
                "name": "images",
                "dtype": "float32",
                "shape": [-1, -1, -1, 3] if resizable else [1, size, size, 3],
                "content": "RGB values from 0 to 255, starting with the top row. The "
                "model scales them",
            }
        ],
        "outputs": [_embedding(model, "image", resizable)],
        "preprocessing": {
            "image_size": size,
            "resize_to": resized,
            "max_pixels": MAX_PIXELS,
            "steps": [
                "decode JPEG, PNG, WebP, GIF or uncompressed BMP files of at most "
                f"{MAX_PIXELS:,} pixels to 8-bit RGB. Use the first frame of an "
                "animation, apply the EXIF orientation, and put transparent images on "
                "a white background",
                f"resize to {resized} × {resized} with antialiased bilinear "
                "interpolation, without preserving the aspect ratio. Round to integers",
                f"crop the central {size} × {size} pixels, which start at row and "
                f"column {(resized - size) // 2}",
            ],
        },
    }
    if quantize == "int8":
        description["calibration_images"] = calibration_images
    return _files(model, "image", quantize, description, license)


def describe_text_tower(
    model: Any, quantize: str, license: str | None
) -> dict[str, str]:
    """Returns the files that describe a text encoder, including its vocabulary.

    Args:
        model: `ALIGN` with a vocabulary.
        quantize: one of `QUANTIZATIONS`.
        license: terms of the weights, or None.

    Returns:
        dict from names of files to texts.
    """
    tokenizer = model.tokenizer
    shape = [-1, -1]
    description = {
        "signature": "encode_token_ids",
        "inputs": [
            {
                "name": "token_ids",
                "dtype": "int32",
                "shape": shape,
                "content": "zero-based line numbers in vocabulary.txt: [CLS], the "
                "tokens of the text, [SEP], and [PAD] if another row is longer. A row "
                f"has at most {tokenizer.sequence_length} token ids",
            },
            {
                "name": "padding_mask",
                "dtype": "int32",
                "shape": shape,
                "content": "0 for [PAD], 1 for all other tokens",
            },
        ],
        "outputs": [_embedding(model, "text", resizable=True)],
        "preprocessing": {
            "tokenizer": "WordPiece, as Hugging Face's BertTokenizerFast",
            "normalization": tokenizer.normalization,
            "sequence_length": tokenizer.sequence_length,
            "vocabulary_file": VOCABULARY_FILE,
        },
    }
    files = _files(model, "text", quantize, description, license)
    return files | {
        VOCABULARY_FILE: "".join(f"{token}\n" for token in tokenizer.vocabulary)
    }


def _embedding(model: Any, kind: str, resizable: bool) -> dict[str, Any]:
    """Returns the description of the output of an encoder."""
    encoder = model.image_encoder if kind == "image" else model.text_encoder
    other_kind = "text" if kind == "image" else "image"
    return {
        "name": f"{kind}_embedding",
        "dtype": "float32",
        "shape": [-1 if resizable else 1, encoder.output_shape[-1]],
        "content": f"vector of unit length. Its dot product with a "
        f"{other_kind}_embedding is their cosine similarity",
    }


def _files(
    model: Any,
    kind: str,
    quantize: str,
    description: dict[str, Any],
    license: str | None,
) -> dict[str, str]:
    """Returns metadata.json and the license of an encoder."""
    encoder = model.image_encoder if kind == "image" else model.text_encoder
    metadata_values = {
        "name": f"ALIGN's {kind} tower",
        "made_by": f"align-keras {_version()}",
        "quantization": quantize,
        # `load_model(model, runtime=file)` compares this fingerprint with that of the
        # model.
        "encoder_fingerprint": encoder.fingerprint(),
        **description,
        # Applications divide similarities by the temperature before a softmax over
        # texts or images.
        "temperature": float(model.temperature),
        "license_file": LICENSE_FILE,
    }
    text = json.dumps(metadata_values, indent=2, ensure_ascii=False)
    return {METADATA_FILE: f"{text}\n", LICENSE_FILE: f"{license or _NO_LICENSE}\n"}


def _version() -> str:
    """Returns the installed version of align-keras for `made_by`."""
    try:
        return metadata.version("align-keras")
    except metadata.PackageNotFoundError:
        return "of a source folder"
