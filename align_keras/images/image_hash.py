"""Hashes of images, by which equal images are recognized."""

import tensorflow as tf


def image_hash(image: tf.Tensor) -> tf.Tensor:
    """Returns a scalar int64 hash of an image.

    Args:
        image: scalar string tensor, an encoded image or a path, or a tensor (height,
            width, 3) of pixels.
    """
    if image.dtype != tf.string:
        image = tf.io.serialize_tensor(image)
    return tf.strings.to_hash_bucket_fast(image, 2**63 - 1)
