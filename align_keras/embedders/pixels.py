"""Image preprocessing for embedders that run without TensorFlow."""

import io
import os
from typing import Any

import numpy as np
from PIL import Image

from align_keras.utils.errors import ImageError, InputError
from align_keras.utils.pillow_images import decode_rgb


def as_png(pixels: np.ndarray) -> bytes:
    """Returns the content of a PNG file for a uint8 array (height, width, 3)."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png", compress_level=1)
    return file.getvalue()


def square_pixels(
    image: Any, resize_to: int, as_tensorflow: bool = False
) -> np.ndarray:
    """Reads an image and resizes it to a square.

    Args:
        image: file content as bytes, or uint8 array (height, width, 3).
        resize_to: side of the square in pixels.
        as_tensorflow: If True, the pixels are those of `resize_image`, the graph
            operation, and a JPEG is decoded at its full size.

    Returns:
        uint8 array (resize_to, resize_to, 3).

    Raises:
        InputError: if the image cannot be read.
    """
    source = as_png(image) if isinstance(image, np.ndarray) else image
    try:
        shorter_side = None if as_tensorflow else 2 * resize_to
        decoded, _ = decode_rgb(source, shorter_side=shorter_side)
    except ImageError as error:
        is_path = isinstance(image, str | os.PathLike)
        name = os.fspath(image) if is_path else "the image"
        raise InputError(
            f"`images` must be readable. Received: {name} ({error.detail}). Check the "
            "path, or convert the image to JPEG or PNG."
        ) from None
    if as_tensorflow:
        return _resize_as_tensorflow(decoded, resize_to)
    square = decoded.resize((resize_to, resize_to), Image.Resampling.BILINEAR)
    return np.asarray(square)


def _resize_as_tensorflow(image: Image.Image, side: int) -> np.ndarray:
    """Resizes an image with floats, because Pillow rounds 8-bit images twice."""
    # Pillow rounds after each of its two passes. On 100 drawings and 100 screenshots,
    # 6% and 12% of the values therefore differ from TensorFlow by one gray level, and
    # 0.02% with floats. The embeddings of Keras then differ by a cosine of 0.996 at
    # worst, and those of the 8-bit `image.tflite` by 0.989. Floats take 2.5 times as
    # long, and an index, the LiteRT example and a browser resize 8-bit images too, so
    # this is only for comparisons with a Keras model.
    size = (side, side)
    channels = [
        np.asarray(channel.convert("F").resize(size, Image.Resampling.BILINEAR))
        for channel in image.split()
    ]
    return np.rint(np.stack(channels, axis=-1)).clip(0, 255).astype(np.uint8)
