"""Images with classes → batches, to train a classifier and to judge it."""

import os
from collections.abc import Collection

import numpy as np
import tensorflow as tf

from align_keras.images import (
    central_crop_bytes,
    decode_image,
    image_path,
    inception_crop_bytes,
    random_flip,
    uint8_pixels,
)
from align_keras.utils.errors import InputError

_PREFETCHED = 2


def labeled_batches(
    images: Collection,
    labels: np.ndarray,
    *,
    image_size: int,
    batch_size: int,
    crop: str = "inception",
    min_area: float = 0.08,
    flip: bool = True,
    seed: int = 0,
    shuffle_buffer_size: int = 10_000,
    start_step: int = 0,
) -> tf.data.Dataset:
    """Endless batches of varied images, uint8 (batch_size, image_size, image_size, 3),
    and their classes, int32 (batch_size,).

    Epochs follow on each other within a batch, so that a set may be smaller than one.
    An image that can't be decoded is left out. The batches are a function of the
    arguments; batch k is that of a start at 0, unless some images before it can't be
    decoded.

    Args:
        images: re-iterable with a length, of paths, encoded images (bytes) or
            uint8 arrays (height, width, 3), all of one kind.
        labels: int array (n,), the images' classes.
        image_size: int, the side of the encoder's input in pixels.
        batch_size: int ≥ 1.
        crop: `"inception"`, as `inception_crop_bytes`; or `"whole"`, the whole
            image, resized without keeping its aspect.
        min_area: float in (0, 1], of `"inception"`.
        flip: bool, mirror half of the images.
        seed: int.
        shuffle_buffer_size: int ≥ 1, images to draw from, encoded, or all paths.
        start_step: int ≥ 0, batches to leave out.

    Raises:
        InputError: if `images` and `labels` differ in number, or none can be decoded.

    References:
        Jia et al. 2021, section 5.3.
    """
    read, items = _items(images, labels)
    if next(iter(_decodable(read, items)), None) is None:
        raise InputError(
            "images must hold a JPEG, PNG, GIF, BMP or WebP file to learn from, "
            "received none that can be decoded; fetch the data again."
        )
    if read is tf.io.read_file:
        shuffle_buffer_size = len(images)
    labels = tf.constant(np.asarray(labels), tf.int32)
    numbers = tf.data.Dataset.random(seed, rerandomize_each_iteration=True)
    items = items.shuffle(shuffle_buffer_size, seed, reshuffle_each_iteration=True)

    def varied(item, number):
        row, image = item
        own_seed = tf.stack([number, tf.constant(seed, tf.int64)])
        if crop == "inception":
            image = inception_crop_bytes(
                read(image), image_size, own_seed, min_area, flip
            )
        else:
            image = central_crop_bytes(read(image), image_size, 1.0)
            image = random_flip(image, own_seed) if flip else image
        return image, labels[row]

    # Left out before they are decoded.
    drawn = tf.data.Dataset.zip((items, numbers)).repeat().skip(start_step * batch_size)
    pairs = drawn.map(varied, tf.data.AUTOTUNE).ignore_errors()
    return pairs.batch(batch_size, drop_remainder=True).prefetch(_PREFETCHED)


def evaluation_batches(
    images: Collection, *, image_size: int, batch_size: int, central_crop: float = 0.875
) -> tf.data.Dataset:
    """All images that can be decoded, once and in order: batches of rows, int64 (b,),
    and uint8 (b, image_size, image_size, 3), of the share `central_crop` of each side.
    """
    read, items = _items(images, images)

    def cropped(row, image):
        return row, central_crop_bytes(read(image), image_size, central_crop)

    decoded = items.map(cropped, tf.data.AUTOTUNE).ignore_errors()
    return decoded.batch(batch_size).prefetch(_PREFETCHED)


def unreadable_rows(images: Collection) -> list[int]:
    """Returns the rows of images, as `labeled_batches`, that can't be decoded."""
    found = _decodable(*_items(images, images)).as_numpy_iterator()
    return sorted(set(range(len(images))) - set(found))


def _decodable(read, items):
    """The rows whose image can be decoded."""

    def decoded(row, image):
        return row + tf.cast(tf.size(decode_image(read(image))) * 0, tf.int64)

    return items.map(decoded, tf.data.AUTOTUNE).ignore_errors()


def _items(images, labels):
    """What reads an item, and the dataset of rows and items."""
    if len(images) != len(labels) or not len(images):
        raise InputError(
            "images and labels must be of one number and not empty, received "
            f"{len(images)} and {len(labels)}; check the data's split."
        )
    first = next(iter(images))
    if isinstance(first, np.ndarray):
        uint8_pixels(first)  # Which refuses floats, that would be left out below.
    if isinstance(first, str | os.PathLike):
        paths = tf.constant(list(map(image_path, images)))
        return tf.io.read_file, tf.data.Dataset.from_tensor_slices(paths).enumerate()

    def encoded():
        for image in images:
            is_array = isinstance(image, np.ndarray)
            yield tf.io.encode_png(image) if is_array else image

    signature = tf.TensorSpec((), tf.string)
    stream = tf.data.Dataset.from_generator(encoded, output_signature=signature)
    return tf.identity, stream.enumerate()
