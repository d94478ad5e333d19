"""Image preprocessing for embedders that run without TensorFlow."""

import io
import os
from typing import Any

import numpy as np
from PIL import Image

from align_keras.utils.errors import InputError


def as_png(pixels: np.ndarray) -> bytes:
    """Returns the content of a PNG file for a uint8 array (height, width, 3)."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png", compress_level=1)
    return file.getvalue()


def square_pixels(image: Any, resize_to: int) -> np.ndarray:
    """Reads an image and resizes it to a square.

    Args:
        image: path, file content as bytes, or uint8 array (height, width, 3).
        resize_to: int, side of the square in pixels.

    Returns:
        uint8 array (resize_to, resize_to, 3).

    Raises:
        InputError: if the image cannot be read.
    """
    from align_keras.corpus.image import normalize_image
    from align_keras.utils.pillow_images import ImageError

    source = as_png(image) if isinstance(image, np.ndarray) else image
    try:
        decoded, _ = normalize_image(source, shorter_side=2 * resize_to)
    except ImageError as error:
        is_path = isinstance(image, str | os.PathLike)
        name = os.fspath(image) if is_path else "the image"
        raise InputError(
            f"`images` must be readable. Received: {name} ({error.detail}). Check the "
            "path, or convert the image to JPEG or PNG."
        ) from None
    square = decoded.resize((resize_to, resize_to), Image.Resampling.BILINEAR)
    return np.asarray(square)
