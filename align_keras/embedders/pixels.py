"""Pixels of images for embedders that run without TensorFlow."""

import io
import os
from typing import Any

import numpy as np
from PIL import Image

from align_keras.embedders.image_transforms import ImageTransform
from align_keras.utils.errors import ImageError, InputError
from align_keras.utils.pillow_images import decode_rgb


def as_png(pixels: np.ndarray) -> bytes:
    """Returns the content of a PNG file for a uint8 array (height, width, 3)."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png", compress_level=1)
    return file.getvalue()


def transformed_pixels(image: Any, transform: ImageTransform) -> np.ndarray:
    """Reads an image and transforms it to the pixels that an image tower takes.

    Args:
        image: path, file content as bytes, or uint8 array (height, width, 3).
        transform: `image_transform` of the model.

    Returns:
        uint8 array (height, width, 3).

    Raises:
        InputError: if the image cannot be read.
    """
    source = as_png(image) if isinstance(image, np.ndarray) else image
    try:
        decoded, _ = decode_rgb(source, shorter_side=transform.shorter_side)
    except ImageError as error:
        is_path = isinstance(image, str | os.PathLike)
        name = os.fspath(image) if is_path else "the image"
        raise InputError(
            f"`images` must be readable. Received: {name} ({error.detail}). Check the "
            "path, or convert the image to JPEG or PNG."
        ) from None
    return transform(decoded)
