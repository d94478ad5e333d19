"""Batches of images and classes for the training and evaluation of a classifier."""

import os
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from align_keras.images import decode_image, image_path, uint8_pixels
from align_keras.images.read import graph_file, read_graph_file
from align_keras.utils.errors import InputError

if TYPE_CHECKING:
    from align_keras.preprocessing.image_converter import ALIGNImageConverter

_PREFETCHED = 2


def labeled_batches(
    images: Collection,
    labels: np.ndarray,
    image_converter: "ALIGNImageConverter",
    *,
    batch_size: int,
    seed: int = 0,
    shuffle_buffer_size: int = 10_000,
    start_step: int = 0,
) -> tf.data.Dataset:
    """Returns endless batches of augmented images and their classes.

    A batch may contain the end of an epoch and the start of the next one, so the number
    of images may be smaller than a batch. Images that cannot be decoded are skipped.
    The batches depend only on the arguments. Batch k is the same for each `start_step`,
    unless an earlier image cannot be decoded.

    Args:
        images: collection of paths, of encoded images (bytes) or of uint8 arrays
            (height, width, 3), all of the same kind. It must have a length and allow
            several iterations.
        labels: int array (n,), classes of the images.
        image_converter: `ALIGNImageConverter`. Its options determine crop, flip and
            size. `crop="inception"` is the recipe of the paper.
        batch_size: int ≥ 1.
        seed: seed of shuffling and augmentation.
        shuffle_buffer_size: ≥ 1, size of the shuffle buffer in encoded images.
            Paths are shuffled as a whole.
        start_step: ≥ 0, number of batches to skip.

    Returns:
        `tf.data.Dataset` of images, uint8 (batch_size, image_size, image_size, 3), and
        their classes, int32 (batch_size,).

    Raises:
        InputError: if no image can be decoded.

    References:
        Jia et al. 2021, section 5.3.

    Example:

    ```python
    images = ["photos/china.jpg", "photos/flower.jpg"]
    converter = align_keras.ALIGNImageConverter(64, crop="inception")
    batches = labeled_batches(images, [0, 1], converter, batch_size=8)
    pixels, classes = next(iter(batches))
    pixels.shape  # TensorShape([8, 64, 64, 3])
    ```
    """
    read, items = _items(images, labels)
    if next(iter(_decodable_rows(read, items)), None) is None:
        raise InputError(
            "images must contain an image file to learn from. Received: no image that "
            "can be decoded. Download the data again."
        )
    if read is read_graph_file:
        shuffle_buffer_size = len(images)
    labels = tf.constant(np.asarray(labels), tf.int32)
    numbers = tf.data.Dataset.random(seed, rerandomize_each_iteration=True)
    items = items.shuffle(shuffle_buffer_size, seed, reshuffle_each_iteration=True)

    def augment(item: tuple, number: tf.Tensor) -> tuple:
        row, image = item
        image_seed = tf.stack([number, tf.constant(seed, tf.int64)])
        return image_converter.augment(read(image), image_seed), labels[row]

    # `skip` comes before `map`, so that no image of a skipped batch is decoded.
    numbered = tf.data.Dataset.zip((items, numbers)).repeat()
    numbered = numbered.skip(start_step * batch_size)
    pairs = numbered.map(augment, tf.data.AUTOTUNE).ignore_errors()
    return pairs.batch(batch_size, drop_remainder=True).prefetch(_PREFETCHED)


def evaluation_batches(
    images: Collection, image_converter: "ALIGNImageConverter", *, batch_size: int
) -> tf.data.Dataset:
    """Returns batches of all images that can be decoded, once and in order.

    Args:
        images: as in `labeled_batches`.
        image_converter: `ALIGNImageConverter`, for example with `central_crop=0.875`.
        batch_size: int ≥ 1.

    Returns:
        `tf.data.Dataset` of row numbers, int64 (b,), and images (b, image_size,
        image_size, 3), uint8 if the converter has a `central_crop`.

    Example:

    ```python
    images = ["photos/china.jpg", "photos/flower.jpg"]
    converter = align_keras.ALIGNImageConverter(64, central_crop=0.875)
    for rows, pixels in evaluation_batches(images, converter, batch_size=8):
        print(rows.numpy(), pixels.shape)
    ```
    """
    read, items = _items(images, images)

    def convert(row: tf.Tensor, image: tf.Tensor) -> tuple:
        return row, image_converter.convert(read(image))

    decoded = items.map(convert, tf.data.AUTOTUNE).ignore_errors()
    return decoded.batch(batch_size).prefetch(_PREFETCHED)


def unreadable_rows(images: Collection) -> list[int]:
    """Returns the row numbers of the images that cannot be decoded.

    `images` is a collection as in `labeled_batches`.

    Example:

    ```python
    unreadable_rows(["photos/china.jpg", "pairs.csv"])  # [1]
    ```
    """
    read, items = _items(images, images)
    decodable = _decodable_rows(read, items)
    return sorted(set(range(len(images))) - set(decodable.as_numpy_iterator()))


def _decodable_rows(read: Callable, items: tf.data.Dataset) -> tf.data.Dataset:
    """Returns the row numbers of the images that can be decoded."""

    def decode(row: tf.Tensor, image: tf.Tensor) -> tf.Tensor:
        pixels = decode_image(read(image))
        return row + tf.cast(tf.size(pixels) * 0, tf.int64)

    return items.map(decode, tf.data.AUTOTUNE).ignore_errors()


def _items(images: Collection, labels: Collection) -> tuple[Callable, tf.data.Dataset]:
    """Returns a function that reads an image, and the dataset of rows and images."""
    first = next(iter(images))
    if isinstance(first, np.ndarray):
        # `encode_png` would fail for floats, and `ignore_errors` would hide this.
        uint8_pixels(first)
    if isinstance(first, str | os.PathLike):
        paths = tf.constant(list(map(image_path, images)))
        return read_graph_file, tf.data.Dataset.from_tensor_slices(paths).enumerate()

    def encoded() -> Iterator:
        for image in images:
            is_array = isinstance(image, np.ndarray)
            yield tf.io.encode_png(image) if is_array else image

    signature = tf.TensorSpec((), tf.string)
    stream = tf.data.Dataset.from_generator(encoded, output_signature=signature)
    return graph_file, stream.enumerate()
