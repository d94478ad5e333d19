"""The one evaluation path of an image: decode, resize, center crop."""

from typing import Any

import numpy as np
import tensorflow as tf

from align_keras.images.decode import decode_image
from align_keras.utils.errors import InputError

# Jia et al. 2021, section 5: resize to 346, crop 289; other sizes keep this ratio.
_RESIZE_TO_CROP = 346 / 289
# Of embeddings on disk: raise it where the same file gives other pixels.
PREPROCESSING_VERSION = 1


def crop_size_to_resize_size(image_size: int) -> int:
    """Returns the side to resize to before a crop of `image_size`, rounded.

    Args:
        image_size: int ≥ 32, the side of the encoder's input in pixels.

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
    """Returns the pixels of images as gray levels, or refuses what could be misread.

    Float pixels may mean [0, 1], [-1, 1] or [0, 255], so their range is never guessed.

    Args:
        pixels: uint8 array or tensor of any shape, or a float one in `value_range`.
        value_range: two floats, black and white of float pixels, such as (0, 1);
            None takes uint8 alone.

    Returns:
        uint8 tensor of the same shape; float pixels are rounded.

    Raises:
        InputError: for another dtype, floats without a range, values outside it, or
            a range that isn't two numbers that increase. In a graph, values outside
            the range raise `tf.errors.InvalidArgumentError`.

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
    """Raises if pixels are out of range, or returns the assertions of a graph."""
    # Resizing of floats may overshoot the range.
    slack = 1e-3 * (high - low)
    inside = tf.reduce_all((pixels >= low - slack) & (pixels <= high + slack))
    ends = [tf.reduce_min(pixels), tf.reduce_max(pixels)]
    message = f"float pixels must lie in value_range=({low:g}, {high:g})"
    if not tf.executing_eagerly():
        return [tf.debugging.Assert(inside, [f"{message}, received", *ends])]
    if not inside:
        raise InputError(
            f"{message}, received {float(ends[0]):g} to {float(ends[1]):g}; give the "
            "range that they have."
        )
    return []


def check_pixel_dtype(
    dtype: tf.DType, value_range: tuple[float, float] | None = None
) -> None:
    """Raises `InputError` unless `uint8_pixels` takes pixels of this dtype."""
    if dtype == tf.uint8:
        return
    if value_range is None or not dtype.is_floating:
        raise InputError(
            "pixels must be uint8 in [0, 255], or floats with a value_range, received "
            f"{dtype.name} and value_range={value_range}; convert them by "
            'astype("uint8"), or say what black and white are: value_range=(0, 1).'
        )


def checked_value_range(value_range: Any) -> tuple[float, float]:
    """Returns black and white of float pixels as two floats.

    Raises:
        InputError: unless `value_range` is two finite numbers that increase.
    """
    try:
        low, high = map(float, value_range)
    except (TypeError, ValueError):
        low = high = 0.0
    if not low < high < float("inf"):
        raise InputError(
            "value_range must be two numbers, black and white, the second larger, "
            f"received {value_range!r}; write (0, 1), (-1, 1) or (0, 255)."
        )
    return low, high


def resize_image(image: tf.Tensor, size: int) -> tf.Tensor:
    """Resizes uint8 images (…, height, width, 3), without keeping the aspect (Jia et
    al. 2021, section 5), to squares of `size`, within 1 gray level of PIL's bilinear.
    """
    image = uint8_pixels(image)
    resized = tf.image.resize(image, (size, size), method="bilinear", antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(resized), 0.0, 255.0), tf.uint8)


def preprocess_image(image: tf.Tensor, image_size: int) -> tf.Tensor:
    """Resizes and center-crops uint8 images (…, height, width, 3) for the image
    encoder, float32 (…, image_size, image_size, 3) in [0, 255], whole numbers.
    """
    resize_size = crop_size_to_resize_size(image_size)
    offset = (resize_size - image_size) // 2
    resized = resize_image(image, resize_size)
    window = slice(offset, offset + image_size)
    return tf.cast(resized[..., window, window, :], tf.float32)


def preprocess_image_bytes(image_bytes: tf.Tensor, image_size: int) -> tf.Tensor:
    """As `preprocess_image`, of a file's bytes, which `decode_image` takes."""
    return preprocess_image(decode_image(image_bytes), image_size)
