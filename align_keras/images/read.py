"""Reading of files that may not be images: one by its path, or a batch in a graph."""

import os
from typing import Any

import numpy as np
import tensorflow as tf

from align_keras.images.preprocess import (
    preprocess_image,
    preprocess_image_bytes,
    uint8_pixels,
)
from align_keras.utils.errors import InputError
from align_keras.utils.files import MAX_FILE_BYTES, MAX_PIXELS, is_special

# First bytes of JPEG, PNG and GIF.
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8")


def image_path(path: str | os.PathLike) -> str:
    """Returns the path of a file, or raises if reading it could hang.

    Missing files pass. Their reader raises.
    """
    path = os.fspath(path)
    try:
        size = os.path.getsize(path)
    # The file is missing, or on a file system of TensorFlow.
    except (OSError, ValueError):
        return path
    if is_special(path):
        raise InputError(
            f"images must be files, received {path}, a pipe or a device; "
            "give a file's path or its bytes."
        )
    if size > MAX_FILE_BYTES:
        raise InputError(
            f"images must be files of at most {MAX_FILE_BYTES:,} bytes, "
            f"received {path} of {size:,}; leave it out."
        )
    return path


def encoded_image(image: tf.Tensor) -> tf.Tensor:
    """Returns an encoded image or pixels unchanged, and the bytes of a path's file.

    Args:
        image: scalar string tensor, an encoded image or a path, or pixels.
    """
    if image.dtype != tf.string:
        return image
    # No path holds NUL, which pads the head of a short path.
    head = tf.strings.join([tf.strings.substr(image, 0, 12), b"\0" * 12])

    def has(start: int, part: bytes) -> tf.Tensor:
        return tf.strings.substr(head, start, len(part)) == part

    is_encoded = (has(0, b"RIFF") & has(8, b"WEBP")) | (has(0, b"BM") & has(6, b"\0\0"))
    for signature in _SIGNATURES:
        is_encoded |= has(0, signature)
    return tf.cond(is_encoded, lambda: image, lambda: tf.io.read_file(image))


def read_image(
    image: Any,
    row: int,
    image_size: int,
    value_range: tuple[float, float] | None = None,
) -> tf.Tensor:
    """Reads an image, resizes and center-crops it, float32 (image_size, image_size, 3).

    The image is a path, the bytes of a file, or an array (height, width, 3), uint8 or
    floats in `value_range`. An `InputError` names its path, or its number `row`.
    """
    name = f"images[{row}]"
    try:
        if isinstance(image, str | os.PathLike):
            name = os.fspath(image)
            image = tf.io.read_file(image_path(name))
        if isinstance(image, bytes) or tf.is_tensor(image) and image.dtype == tf.string:
            return preprocess_image_bytes(tf.convert_to_tensor(image), image_size)
    except tf.errors.NotFoundError:
        raise InputError(f"no such image: {name}; check the path.") from None
    except tf.errors.OpError:
        raise InputError(
            "not a readable JPEG, PNG, GIF, BMP or WebP image of at most "
            f"{MAX_PIXELS:,} pixels: {name}; open it and save it again, or leave it "
            "out."
        ) from None
    pixels = np.asarray(image)
    if pixels.ndim != 3 or pixels.shape[-1] != 3 or not pixels.size:
        raise InputError(
            f"{name} must be an array (height, width, 3), received {pixels.dtype} "
            f"{pixels.shape}; {shape_remedy(pixels.shape)}."
        )
    try:
        return preprocess_image(uint8_pixels(pixels, value_range), image_size)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


def shape_remedy(shape: tuple[int, ...]) -> str:
    """Returns a remedy for an image of this shape, which isn't (height, width, 3).

    >>> shape_remedy((3, 224, 224))
    'move its channels to the last axis, as by numpy.moveaxis(image, 0, -1)'
    """
    if len(shape) == 3 and shape[0] == 3:
        return "move its channels to the last axis, as by numpy.moveaxis(image, 0, -1)"
    return "convert it to RGB"


def readable_images(
    image_bytes: tf.Tensor, image_size: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes, resizes and crops files that may not be images.

    Args:
        image_bytes: string tensor (n,), contents of files.
        image_size: int, side in pixels.

    Returns:
        float32 tensor (n, image_size, image_size, 3), black for files that aren't
        images, and a bool tensor (n,), True for images.

    Example:

    >>> png = tf.io.encode_png(tf.ones((20, 30, 3), tf.uint8)).numpy()
    >>> _, valid = readable_images(tf.constant([b"no image", png, b""]), 64)
    >>> valid.numpy().tolist()
    [False, True, False]
    """
    count = tf.size(image_bytes, tf.int64)

    def read(row: tf.Tensor, file: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return row, preprocess_image_bytes(file, image_size)

    # A graph can ignore errors of files only by a data set.
    decoded = (
        tf.data.Dataset.from_tensor_slices(image_bytes)
        .enumerate()
        .map(read, tf.data.AUTOTUNE)
        .ignore_errors()
    )
    # Another element makes sure that the batch isn't empty.
    last = tf.constant(-1, tf.int64), tf.zeros((image_size, image_size, 3))
    decoded = decoded.concatenate(tf.data.Dataset.from_tensors(last))
    rows, images = decoded.batch(count + 1).get_single_element()
    rows = rows[:-1, tf.newaxis]
    images = images[:-1]
    shape = tf.stack([count, image_size, image_size, 3])
    valid = tf.scatter_nd(rows, tf.ones_like(rows[:, 0], tf.int32), [count]) > 0
    images = tf.scatter_nd(rows, images, tf.cast(shape, tf.int64))
    return tf.ensure_shape(images, (None, image_size, image_size, 3)), valid
