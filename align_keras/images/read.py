"""Reading of image files, with checks for files that are not images."""

import os
from typing import Any

import tensorflow as tf

from align_keras.images.preprocess import (
    preprocess_image,
    preprocess_image_bytes,
    uint8_pixels,
)
from align_keras.utils.errors import InputError
from align_keras.utils.files import MAX_FILE_BYTES, MAX_PIXELS, is_special
from align_keras.utils.pillow_images import GRAPH_SIGNATURES, graph_image, rgb_pixels

# First bytes of JPEG, PNG, GIF and PNM.
_SIGNATURES = (
    b"\xff\xd8\xff",
    b"\x89PNG",
    b"GIF87a",
    b"GIF89a",
    b"P1\n",
    b"P2\n",
    b"P3\n",
    b"P4\n",
    b"P5\n",
    b"P6\n",
)


def image_path(path: str | os.PathLike) -> str:
    """Returns the path of an image file as a str after a check.

    A missing file is not an error here. Reading it raises an error.

    Raises:
        InputError: if the path is a pipe or a device, which may block the reader, or
            if the file is too large.
    """
    path = os.fspath(path)
    try:
        size = os.path.getsize(path)
    # The file is missing, or TensorFlow has a file system for its path.
    except (OSError, ValueError):
        return path
    if is_special(path) or size > MAX_FILE_BYTES:
        raise InputError(
            f"images must be files of at most {MAX_FILE_BYTES:,} bytes. Received: "
            f"{path}, a pipe, a device or a larger file."
        )
    return path


def encoded_image(image: tf.Tensor) -> tf.Tensor:
    """Reads the file if the image is a path, and converts it as `graph_file`.

    Args:
        image: scalar string tensor with an encoded image or a path, or pixels.

    Returns:
        A file in a format that the graph decodes as a scalar string tensor, or `image`
        if it has pixels.
    """
    if image.dtype != tf.string:
        return image
    # Short paths are padded.
    head = tf.strings.join([tf.strings.substr(image, 0, 12), b"?" * 12])
    sizes = [len(signature) for signature in _SIGNATURES]
    starts = tf.strings.substr(head, [0] * len(sizes), sizes) == _SIGNATURES
    is_webp = tf.strings.substr(head, [0, 8], [4, 4]) == [b"RIFF", b"WEBP"]
    # A path has no NUL, unlike the header of all other formats.
    parts = tf.raw_ops.StringSplitV2(input=head[tf.newaxis], sep=b"\0", maxsplit=1)
    has_nul = tf.size(parts.values) > 1
    is_encoded = tf.reduce_any(starts) | tf.reduce_all(is_webp) | has_nul
    return graph_file(
        tf.cond(is_encoded, lambda: image, lambda: tf.io.read_file(image))
    )


def read_graph_file(path: tf.Tensor) -> tf.Tensor:
    """Reads an image file, scalar string tensor, as `graph_file`."""
    return graph_file(tf.io.read_file(path))


def graph_file(content: tf.Tensor) -> tf.Tensor:
    """Converts an image file to PNG if the graph does not decode its format.

    Pillow converts it, so Python must run. Exports do not contain this operation.

    Args:
        content: scalar string tensor, content of the file.
    """
    sizes = [len(signature) for signature in GRAPH_SIGNATURES]
    starts = tf.strings.substr(content, [0] * len(sizes), sizes) == GRAPH_SIGNATURES

    def convert_in_python(value: Any) -> bytes:
        # The value is an array of objects in eager mode.
        return graph_image(value if isinstance(value, bytes) else value.item())

    def convert() -> tf.Tensor:
        png = tf.numpy_function(convert_in_python, [content], tf.string, stateful=False)
        return tf.ensure_shape(png, ())

    return tf.cond(tf.reduce_any(starts), lambda: content, convert)


def read_image(
    image: Any,
    row: int,
    image_size: int,
    value_range: tuple[float, float] | None = None,
) -> tf.Tensor:
    """Reads an image, resizes it and crops its center.

    Args:
        image: bytes of a file, or array (height, width, 3) of uint8 or of floats
            in `value_range`.
        row: number of the image for messages.
        image_size: side of the encoder's input in pixels.
        value_range: two floats, black and white of float pixels, or None.

    Returns:
        float32 tensor (image_size, image_size, 3) in [0, 255].

    Raises:
        InputError: if the image can't be read. The message contains the path or `row`.

    Example:

    >>> import numpy as np
    >>> read_image(np.zeros((300, 400, 3), np.uint8), row=0, image_size=64).shape
    TensorShape([64, 64, 3])
    """
    name = f"images[{row}]"
    try:
        if isinstance(image, str | os.PathLike):
            name = os.fspath(image)
            image = tf.io.read_file(image_path(name))
        if isinstance(image, bytes) or tf.is_tensor(image) and image.dtype == tf.string:
            content = graph_file(tf.convert_to_tensor(image))
            return preprocess_image_bytes(content, image_size)
    except tf.errors.OpError as error:
        is_missing = isinstance(error, tf.errors.NotFoundError)
        problem = "was not found" if is_missing else "can't be decoded"
        raise InputError(
            f"{name} {problem}. It must be an image of at most {MAX_PIXELS:,} pixels, "
            "such as JPEG, PNG, WebP or TIFF, or HEIC with the extra `heic`."
        ) from None
    return preprocess_image(gray_levels(name, image, value_range), image_size)


def gray_levels(
    name: str, image: Any, value_range: tuple[float, float] | None
) -> tf.Tensor:
    """Returns the gray levels of an array, uint8 (height, width, 3).

    Raises:
        InputError: if the array has another shape or dtype.
    """
    pixels = rgb_pixels(image)
    if pixels.ndim != 3 or pixels.shape[-1] != 3 or not pixels.size:
        raise InputError(
            f"{name} must be an array (height, width, 3). Received: {pixels.dtype} "
            f"{pixels.shape}. To correct it, {_shape_remedy(pixels.shape)}."
        )
    return uint8_pixels(pixels, value_range)


def _shape_remedy(shape: tuple[int, ...]) -> str:
    """Returns a remedy for an image whose shape isn't (height, width, 3).

    >>> _shape_remedy((3, 224, 224))
    'move its channels to the last axis with numpy.moveaxis(image, 0, -1)'
    """
    if len(shape) == 3 and shape[0] == 3:
        return "move its channels to the last axis with numpy.moveaxis(image, 0, -1)"
    return "convert it to RGB"


def readable_images(
    image_bytes: tf.Tensor, image_size: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Preprocesses a batch of files, some of which may not be images.

    Args:
        image_bytes: string tensor (n,), contents of the files.
        image_size: side of the encoder's input in pixels.

    Returns:
        float32 tensor (n, image_size, image_size, 3), black for files that aren't
        images, and bool tensor (n,), True for images.

    Example:

    >>> png = tf.io.encode_png(tf.ones((20, 30, 3), tf.uint8)).numpy()
    >>> _, valid = readable_images(tf.constant([b"no image", png, b""]), 64)
    >>> valid.numpy().tolist()
    [False, True, False]
    """
    count = tf.size(image_bytes, tf.int64)

    def read(row: tf.Tensor, file: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return row, preprocess_image_bytes(file, image_size)

    # Only a data set can ignore the errors of single files in a graph.
    decoded = (
        tf.data.Dataset.from_tensor_slices(image_bytes)
        .enumerate()
        .map(read, tf.data.AUTOTUNE)
        .ignore_errors()
    )
    # An additional element ensures that the batch isn't empty.
    last = tf.constant(-1, tf.int64), tf.zeros((image_size, image_size, 3))
    decoded = decoded.concatenate(tf.data.Dataset.from_tensors(last))
    rows, images = decoded.batch(count + 1).get_single_element()
    rows = rows[:-1, tf.newaxis]
    images = images[:-1]
    shape = tf.stack([count, image_size, image_size, 3])
    valid = tf.scatter_nd(rows, tf.ones_like(rows[:, 0], tf.int32), [count]) > 0
    images = tf.scatter_nd(rows, images, tf.cast(shape, tf.int64))
    return tf.ensure_shape(images, (None, image_size, image_size, 3)), valid
