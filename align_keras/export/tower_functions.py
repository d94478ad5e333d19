"""Encoders as functions for converters, with sample inputs and descriptions."""

import json
from collections.abc import Callable
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
    "The terms of these weights weren't stated when the file was made; they are those "
    "of whoever trained the model and of the weights and images it was trained from. "
    "The code that wrote the file, align-keras, is under the Apache License 2.0."
)


# Number of inputs that check a converted file.
CHECKED = 8


def image_tower_function(model: Any, resizable: bool) -> Callable:
    """Returns the image encoder as a `tf.function`.

    Its argument `images` has gray levels in [0, 255] and the shape (1, S, S, 3), or any
    number and size of images if `resizable`.
    """
    _check(model, "image_encoder")
    encoder = model.image_encoder
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


def text_tower_function(model: Any, resizable: bool) -> Callable:
    """Returns the text encoder as a `tf.function`.

    Its arguments `token_ids` and `padding_mask` have the shape (1, L), or any number of
    rows if `resizable`.
    """
    _check(model, "text_encoder")
    encoder = model.text_encoder
    normalize = model.normalize_text
    shape = (None if resizable else 1, encoder.sequence_length)

    @tf.function(
        input_signature=[
            tf.TensorSpec(shape, tf.int32, name="token_ids"),
            tf.TensorSpec(shape, tf.int32, name="padding_mask"),
        ],
        autograph=False,
    )
    def encode(token_ids: tf.Tensor, padding_mask: tf.Tensor) -> dict[str, tf.Tensor]:
        inputs = {"token_ids": token_ids, "padding_mask": padding_mask}
        return {"text_embedding": normalize(encoder(inputs, training=False))}

    return encode


def noise(size: int) -> np.ndarray:
    """Returns random images, float32 (`CHECKED`, size, size, 3) in [0, 255]."""
    random = np.random.default_rng(0)
    return random.integers(0, 256, (CHECKED, size, size, 3)).astype("float32")


def some_tokens(model: Any) -> dict[str, np.ndarray]:
    """Returns token ids and masks of `CHECKED` texts of different lengths."""
    words = [token for token in model.tokenizer.vocabulary if token.isalnum()]
    texts = [" ".join(words[-count:]) for count in range(CHECKED)]
    return {name: np.asarray(ids) for name, ids in model.tokenizer(texts).items()}


def check_has(model: Any, *names: str) -> None:
    """Raises unless `model` has these attributes of an `ALIGN`."""
    missing = [name for name in names if not hasattr(model, name)]
    if missing:
        raise InputError(
            f"model must be an ALIGN, received {type(model).__name__} without "
            f"{', '.join(missing)}; build one by ALIGN.from_preset."
        )


def _check(model: Any, name: str) -> None:
    """Raises unless the encoder `name` of a model exists and computes in float32."""
    check_has(model, name)
    policies = {
        layer.dtype_policy.name for layer in getattr(model, name)._flatten_layers()
    }
    if policies != {"float32"}:
        raise InputError(
            "model must compute in float32 to be converted, received a "
            f"{name} in {', '.join(sorted(policies - {'float32'}))}; open it by "
            'ALIGN.from_preset(…, dtype="float32").'
        )


def describe_image_tower(
    model: Any,
    quantize: str,
    calibration_images: int,
    resizable: bool,
    license: str | None,
) -> dict[str, str]:
    """Returns the files that describe an image encoder, a dict from name to text."""
    size = model.image_size
    resized = crop_size_to_resize_size(size)
    description: dict[str, Any] = {
        "signature": "encode_image_pixels",
        "inputs": [
            {
                "name": "images",
                "dtype": "float32",
                "shape": [-1, -1, -1, 3] if resizable else [1, size, size, 3],
                "content": "RGB gray levels from 0 to 255, rows from the top; their "
                "scaling is part of the model",
            }
        ],
        "outputs": [_embedding(model, "image", resizable)],
        "preprocessing": {
            "image_size": size,
            "resize_to": resized,
            "max_pixels": MAX_PIXELS,
            "steps": [
                f"decode JPEG, PNG, WebP, GIF or uncompressed BMP of at most "
                f"{MAX_PIXELS:,} pixels to RGB of 8 bits, upright by EXIF, on white "
                "where transparent, the first frame of an animation",
                f"resize to {resized} × {resized} without keeping the aspect: "
                "bilinear with antialiasing, rounded to whole gray levels",
                f"crop the {size} × {size} in the middle, from "
                f"{(resized - size) // 2} on",
            ],
        },
    }
    if quantize == "int8":
        description["calibration_images"] = calibration_images
    return _files(model, "image", quantize, description, license)


def describe_text_tower(
    model: Any, quantize: str, resizable: bool, license: str | None
) -> dict[str, str]:
    """Returns the files that describe a text encoder, with its vocabulary."""
    tokenizer = model.tokenizer
    shape = [-1 if resizable else 1, tokenizer.sequence_length]
    description = {
        "signature": "encode_token_ids",
        "inputs": [
            {
                "name": "token_ids",
                "dtype": "int32",
                "shape": shape,
                "content": "rows of vocabulary.txt, from 0: [CLS] tokens [SEP], filled "
                "up with [PAD]",
            },
            {
                "name": "padding_mask",
                "dtype": "int32",
                "shape": shape,
                "content": "1 on everything but the filling, else 0",
            },
        ],
        "outputs": [_embedding(model, "text", resizable)],
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
        "content": f"unit length; its dot product with a {other_kind}_embedding is "
        "their similarity, from -1 to 1",
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
        # `load_model` compares it with the model that the file embeds for.
        "encoder_fingerprint": encoder.fingerprint(),
        **description,
        # Divides similarities before a softmax over texts or images.
        "temperature": float(model.temperature),
        "license_file": LICENSE_FILE,
    }
    text = json.dumps(metadata_values, indent=2, ensure_ascii=False)
    return {METADATA_FILE: f"{text}\n", LICENSE_FILE: f"{license or _NO_LICENSE}\n"}


def _version() -> str:
    try:
        return metadata.version("align-keras")
    except metadata.PackageNotFoundError:
        return "of a source folder"
