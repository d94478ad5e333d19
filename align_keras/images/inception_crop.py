"""The pictures of classifiers: a random crop to train, a central one to judge."""

import tensorflow as tf

from align_keras.images.decode import decode_image
from align_keras.images.preprocess import resize_image

_ASPECT_RATIOS = (3 / 4, 4 / 3)


def inception_crop_bytes(image_bytes, image_size, seed, min_area=0.08, flip=True):
    """Decodes a picture, and cuts and resizes a window of random area and aspect.

    Args:
        image_bytes: scalar string tensor, as `decode_image` takes it.
        image_size: int, the new side in pixels.
        seed: integer tensor (2,); the same seed gives the same window.
        min_area: float in (0, 1], the least share of the picture's area.
        flip: bool, mirror half of the pictures left to right.

    Returns:
        uint8 tensor (image_size, image_size, 3).

    Raises:
        tf.errors.InvalidArgumentError: if the bytes aren't such a picture.

    References:
        Szegedy et al. 2015, "Going deeper with convolutions", section 6: 8% to
        100% of the area, aspects from 3/4 to 4/3; Jia et al. 2021, section 5.3.

    Example:

    >>> import tensorflow as tf
    >>> png = tf.io.encode_png(tf.zeros((20, 30, 3), tf.uint8))
    >>> inception_crop_bytes(png, 64, (0, 1)).shape
    TensorShape([64, 64, 3])
    """
    image = decode_image(image_bytes)
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.shape(image),
        tf.zeros((1, 0, 4)),
        seed=seed,
        min_object_covered=0.0,
        aspect_ratio_range=_ASPECT_RATIOS,
        area_range=(min_area, 1.0),
        # Where none of these fits, as in a very long picture, it takes all of it.
        max_attempts=10,
        use_image_if_no_bounding_boxes=True,
    )
    image = resize_image(_static(tf.slice(image, begin, size)), image_size)
    return random_flip(image, seed) if flip else image


def central_crop_bytes(image_bytes, image_size, fraction=0.875):
    """Decodes a picture, and resizes its central part without keeping its aspect.

    Args:
        image_bytes: scalar string tensor, as `decode_image` takes it.
        image_size: int, the new side in pixels.
        fraction: float in (0, 1], share of each side that is kept.

    Returns:
        uint8 tensor (image_size, image_size, 3).

    Raises:
        tf.errors.InvalidArgumentError: if the bytes aren't such a picture.

    References:
        Jia et al. 2021, section 5.3: a single central crop with ratio 0.875.

    Example:

    >>> import tensorflow as tf
    >>> png = tf.io.encode_png(tf.zeros((20, 30, 3), tf.uint8))
    >>> central_crop_bytes(png, 64).shape
    TensorShape([64, 64, 3])
    """
    image = tf.image.central_crop(decode_image(image_bytes), fraction)
    return resize_image(_static(image), image_size)


def random_flip(image, seed):
    """Mirrors a picture left to right, or not, by the seed."""
    # The crop's own numbers come from the seed too.
    seed = tf.cast(tf.convert_to_tensor(seed), tf.int64)
    mirrored = tf.random.stateless_uniform((), seed + tf.constant([0, 1], tf.int64) * 7)
    return tf.cond(mirrored < 0.5, lambda: tf.reverse(image, [1]), lambda: image)


def _static(image):
    return tf.ensure_shape(image, (None, None, 3))
