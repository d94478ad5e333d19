"""What a tower's file says of its inputs, outputs, preprocessing and terms."""

import json
from importlib import metadata

from align_keras.export.litert_metadata import LICENCE, METADATA, VOCABULARY
from align_keras.images import crop_size_to_resize_size
from align_keras.utils.image_limits import MAX_PIXELS

_NO_LICENCE = (
    "The terms of these weights weren't stated when the file was made; they are those "
    "of whoever trained the model and of the weights and pictures it was trained from. "
    "The code that wrote the file, align-keras, is under the Apache License 2.0."
)


def describe_image_tower(model, quantize, calibration_pictures, resizable, licence):
    """Returns the files that stand behind an image tower.

    Args:
        model: `ALIGN`.
        quantize: str, one of `QUANTIZATIONS`.
        calibration_pictures: int, those that ranges of activations were taken from.
        resizable: bool, whether number and size of the pictures are open.
        licence: str or None, the terms of the weights.

    Returns:
        dict, name → str: `metadata.json` and `LICENSE.txt`.
    """
    size = model.image_size
    resized = crop_size_to_resize_size(size)
    own = {
        "signature": "encode_image_pixels",
        "inputs": [
            {
                "name": "images",
                "dtype": "float32",
                "shape": [-1, -1, -1, 3] if resizable else [1, size, size, 3],
                "content": "RGB grey levels from 0 to 255, rows from the top; their "
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
                "bilinear with antialiasing, rounded to whole grey levels",
                f"crop the {size} × {size} in the middle, from "
                f"{(resized - size) // 2} on",
            ],
        },
    }
    if quantize == "int8":
        own["calibration_pictures"] = calibration_pictures
    return _files(model, "image", quantize, own, licence)


def describe_text_tower(model, quantize, resizable, licence):
    """Returns the files that stand behind a text tower.

    Args:
        model: `ALIGN` with a vocabulary.
        quantize: str, one of `QUANTIZATIONS`.
        resizable: bool, whether the number of texts is open.
        licence: str or None, the terms of the weights.

    Returns:
        dict, name → str: `metadata.json`, `LICENSE.txt` and `vocabulary.txt`.
    """
    tokenizer = model.tokenizer
    shape = [-1 if resizable else 1, tokenizer.sequence_length]
    own = {
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
            "vocabulary_file": VOCABULARY,
        },
    }
    files = _files(model, "text", quantize, own, licence)
    return files | {VOCABULARY: "".join(f"{own}\n" for own in tokenizer.vocabulary)}


def _embedding(model, kind, resizable):
    encoder = model.image_encoder if kind == "image" else model.text_encoder
    other = "text" if kind == "image" else "image"
    return {
        "name": f"{kind}_embedding",
        "dtype": "float32",
        "shape": [-1 if resizable else 1, encoder.output_shape[-1]],
        "content": f"unit length; its dot product with a {other}_embedding is their "
        "similarity, from -1 to 1",
    }


def _files(model, kind, quantize, own, licence):
    encoder = model.image_encoder if kind == "image" else model.text_encoder
    described = {
        "name": f"ALIGN's {kind} tower",
        "made_by": f"align-keras {_version()}",
        "quantization": quantize,
        # By which `encode_images(engine=…)` tells the model's own file.
        "encoder_fingerprint": encoder.fingerprint(),
        **own,
        # By which similarities are divided before a softmax over texts or pictures.
        "temperature": float(model.temperature),
        "licence_file": LICENCE,
    }
    text = json.dumps(described, indent=2, ensure_ascii=False)
    return {METADATA: f"{text}\n", LICENCE: f"{licence or _NO_LICENCE}\n"}


def _version():
    try:
        return metadata.version("align-keras")
    except metadata.PackageNotFoundError:
        return "of a source folder"
