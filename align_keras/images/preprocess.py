"""Preprocessing of images for evaluation: decode, resize and center crop."""

from typing import Any

import numpy as np
import tensorflow as tf

from align_keras.images.decode import decode_image
from align_keras.utils.errors import InputError

# Jia et al. 2021, section 5, resize to 346 and crop 289. Other sizes use this ratio.
_RESIZE_TO_CROP = 346 / 289
# Part of the key of embeddings on disk. Raise it if the same file gives other pixels.
PREPROCESSING_VERSION = 1


def crop_size_to_resize_size(image_size: int) -> int:
    """Returns the side to which an image is resized before a crop, rounded.

    Args:
        image_size: ≥ 32, side of the crop and of the encoder's input in pixels.

    References:
        Jia et al. 2021, section 5 (346 for 289).

    Example:

    >>> crop_size_to_resize_size(289)
    346
    """
    return round(image_size * _RESIZE_TO_CROP)


def uint8_pixels(
    pixels: np.ndarray | tf.Tensor, value_range: tuple[float, float] | None = None
) -> tf.Tensor:
    """Converts the pixels of images to gray levels in uint8.

    Float pixels may be in [0, 1], [-1, 1] or [0, 255]. Their range is never guessed.

    Args:
        pixels: array or tensor of any shape, uint8 or float in `value_range`.
        value_range: two floats, black and white of float pixels, such as (0, 1), or
            None to allow only uint8.

    Returns:
        uint8 tensor of the same shape. Float pixels are rounded.

    Raises:
        InputError: if the dtype is not supported, floats have no range or are out of
            range, or the range is not two increasing numbers. In a graph, floats that
            are out of range raise `tf.errors.InvalidArgumentError`.

    Example:

    >>> uint8_pixels(np.array([0.0, 0.5, 1.0]), value_range=(0, 1)).numpy().tolist()
    [0, 128, 255]
    """
    pixels = tf.convert_to_tensor(pixels)
    if pixels.dtype == tf.uint8:
        return pixels
    check_pixel_dtype(pixels.dtype, value_range)
    low, high = checked_value_range(value_range)
    pixels = tf.cast(pixels, tf.float32)
    with tf.control_dependencies(_range_check(pixels, low, high)):
        levels = tf.round((pixels - low) * (255.0 / (high - low)))
    return tf.cast(tf.clip_by_value(levels, 0.0, 255.0), tf.uint8)


def _range_check(pixels: tf.Tensor, low: float, high: float) -> list[tf.Operation]:
    """Checks the range of float pixels, and returns the assertions of a graph."""
    # A tolerance is needed, because resizing of floats may overshoot the range.
    slack = 1e-3 * (high - low)
    inside = tf.reduce_all((pixels >= low - slack) & (pixels <= high + slack))
    ends = [tf.reduce_min(pixels), tf.reduce_max(pixels)]
    message = f"float pixels must be in value_range=({low:g}, {high:g}). Received:"
    if not tf.executing_eagerly():
        return [tf.debugging.Assert(inside, [message, *ends])]
    if not inside:
        raise InputError(
            f"{message} {float(ends[0]):g} to {float(ends[1]):g}. Pass the range of "
            "these pixels."
        )
    return []


def check_pixel_dtype(
    dtype: tf.DType, value_range: tuple[float, float] | None = None
) -> None:
    """Raises `InputError` if `uint8_pixels` doesn't support the dtype."""
    if dtype == tf.uint8:
        return
    if value_range is None or not dtype.is_floating:
        raise InputError(
            "pixels must be uint8 in [0, 255], or floats with a value_range. Received: "
            f"{dtype.name} and value_range={value_range}. Convert them with "
            'astype("uint8"), or pass the values of black and white, such as '
            "value_range=(0, 1)."
        )


def checked_value_range(value_range: Any) -> tuple[float, float]:
    """Converts a value range to the black and the white level as floats.

    Raises:
        InputError: if `value_range` is not two increasing numbers.
    """
    low, high = map(float, value_range)
    if not low < high:
        raise InputError(
            "value_range must be two increasing numbers for black and white. "
            f"Received: value_range={value_range!r}. Pass (0, 1), (-1, 1) or (0, 255)."
        )
    return low, high


def resize_image(image: tf.Tensor, size: int) -> tf.Tensor:
    """Resizes images to squares without keeping their aspect ratio.

    The pixels differ from the bilinear filter of Pillow by at most 1 gray level.

    Args:
        image: uint8 tensor (…, height, width, 3).
        size: side in pixels.

    Returns:
        uint8 tensor (…, size, size, 3).

    References:
        Jia et al. 2021, section 5.

    Example:

    >>> resize_image(tf.zeros((300, 400, 3), tf.uint8), 64).shape
    TensorShape([64, 64, 3])
    """
    image = uint8_pixels(image)
    resized = tf.image.resize(image, (size, size), method="bilinear", antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(resized), 0.0, 255.0), tf.uint8)


def preprocess_image(image: tf.Tensor, image_size: int) -> tf.Tensor:
    """Resizes and center-crops images for the image encoder.

    Args:
        image: uint8 tensor (…, height, width, 3).
        image_size: side of the encoder's input in pixels.

    Returns:
        float32 tensor (…, image_size, image_size, 3) of whole numbers in [0, 255].

    Example:

    >>> preprocess_image(tf.zeros((300, 400, 3), tf.uint8), 64).shape
    TensorShape([64, 64, 3])
    """
    resize_size = crop_size_to_resize_size(image_size)
    offset = (resize_size - image_size) // 2
    resized = resize_image(image, resize_size)
    window = slice(offset, offset + image_size)
    return tf.cast(resized[..., window, window, :], tf.float32)


def preprocess_image_bytes(image_bytes: tf.Tensor, image_size: int) -> tf.Tensor:
    """Decodes a file with `decode_image` and applies `preprocess_image`.

    Args:
        image_bytes: scalar string tensor, content of the file.
        image_size: side of the encoder's input in pixels.

    Returns:
        float32 tensor (image_size, image_size, 3) of whole numbers in [0, 255].

    Example:

    >>> png = tf.io.encode_png(tf.zeros((300, 400, 3), tf.uint8))
    >>> preprocess_image_bytes(png, 64).shape
    TensorShape([64, 64, 3])
    """
    return preprocess_image(decode_image(image_bytes), image_size)
