"""Random and central crops, decoded, cropped and shrunk in one pass: of ALIGN's
training (`crop_image_bytes`), and of classifiers'.
"""

import tensorflow as tf

from align_keras.images.decode import (
    JPEG_SIGNATURE,
    decode_image,
    jpeg_orientation,
    size_check,
)
from align_keras.images.preprocess import crop_size_to_resize_size, resize_image

# libjpeg's inverse transform of 4, 2 or 1 of a block's 8 rows and columns.
_JPEG_RATIOS = (1, 2, 4, 8)
_ASPECT_RATIOS = (3 / 4, 4 / 3)


def crop_image_bytes(
    image_bytes: tf.Tensor,
    image_size: int,
    place: tf.Tensor | tuple[float, float],
    flipped: tf.Tensor | bool = False,
) -> tf.Tensor:
    """Decodes an image and brings a window of it to the encoder's input size.

    The same as decoding the image, resizing it to the side that
    `crop_size_to_resize_size` gives, cropping and mirroring, up to the filter: source
    pixels are averaged over the area of a pixel, where evaluation weights them by a
    triangle of twice this width. Most images differ by less than one gray level in the
    mean, very detailed photographs by up to three, and images stored at the resize size
    by none. Only the window is decoded and resampled, a JPEG at the smallest scale that
    leaves nothing to enlarge.

    Args:
        image_bytes: scalar string tensor, as `decode_image` takes it.
        image_size: int, the side of the encoder's input in pixels.
        place: float tensor (2,) in [0, 1), where the window lies, from the top
            to the bottom and from the left to the right.
        flipped: bool tensor (), mirror the image left to right.

    Returns:
        uint8 tensor (image_size, image_size, 3).

    Raises:
        tf.errors.InvalidArgumentError: if the bytes aren't such an image.

    References:
        Jia et al. 2021, section 5 (resize, random crop, horizontal flip).

    Example:

    >>> jpeg = tf.io.encode_jpeg(tf.zeros((300, 400, 3), tf.uint8))
    >>> crop_image_bytes(jpeg, 64, (0.5, 0.5)).shape
    TensorShape([64, 64, 3])
    """
    place, flipped = tf.convert_to_tensor(place), tf.convert_to_tensor(flipped)
    return _cropped(image_bytes, image_size, place, flipped)


def crop_image(
    image: tf.Tensor,
    image_size: int,
    place: tf.Tensor | tuple[float, float],
    flipped: tf.Tensor | bool = False,
) -> tf.Tensor:
    """As `crop_image_bytes`, of a decoded image, uint8 tensor (height, width, 3)."""
    window = _window(image, image_size, place)
    return _resampled_and_mirrored(window, image_size, flipped)


@tf.function(autograph=False)
def _cropped(image_bytes, image_size, place, flipped):
    is_upright_jpeg = tf.cond(
        tf.strings.substr(image_bytes, 0, 3) == JPEG_SIGNATURE,
        lambda: tf.abs(jpeg_orientation(image_bytes) - 5) > 3,  # None of 2 to 8.
        lambda: tf.constant(False),
    )
    window = tf.cond(
        is_upright_jpeg,
        lambda: _jpeg_window(image_bytes, image_size, place),
        lambda: _window(decode_image(image_bytes), image_size, place),
    )
    return _resampled_and_mirrored(window, image_size, flipped)


def _resampled_and_mirrored(window, image_size, flipped):
    image = _resample(window, image_size)
    flipped = tf.convert_to_tensor(flipped)
    return tf.cond(flipped, lambda: tf.reverse(image, [1]), lambda: image)


def _jpeg_window(image_bytes, image_size, place):
    shape = tf.io.extract_jpeg_shape(image_bytes)[:2]
    pixels = tf.reduce_prod(tf.cast(shape, tf.int64))
    with tf.control_dependencies([size_check(pixels)]):
        shape = tf.identity(shape)

    def window_at(ratio):
        box = _box(-(-shape // ratio), image_size, place)
        return tf.image.decode_and_crop_jpeg(
            image_bytes, box, channels=3, ratio=ratio, dct_method="INTEGER_ACCURATE"
        )

    smallest = tf.reduce_min(_window_size(shape, image_size)) // image_size
    fitting = tf.reduce_sum(tf.cast(_JPEG_RATIOS[1:] <= smallest, tf.int32))
    return tf.switch_case(
        fitting, [lambda ratio=ratio: window_at(ratio) for ratio in _JPEG_RATIOS]
    )


def _window(image, image_size, place):
    top, left, height, width = tf.unstack(_box(tf.shape(image)[:2], image_size, place))
    return image[top : top + height, left : left + width]


def _window_size(shape, image_size):
    share = image_size / crop_size_to_resize_size(image_size)
    size = tf.cast(tf.round(tf.cast(shape, tf.float32) * share), tf.int32)
    return tf.maximum(size, 1)


def _box(shape, image_size, place):
    """Returns the window's top, left, height and width in whole source pixels."""
    size = _window_size(shape, image_size)
    slack = tf.cast(shape - size + 1, tf.float32)
    # Rounding can lift a product of a number just below 1 to `slack`.
    corner = tf.minimum(tf.cast(place * slack, tf.int32), shape - size)
    return tf.concat([corner, size], axis=0)


def _resample(window, image_size):
    """Brings a window to the encoder's input size.

    An axis that shrinks is averaged over all source pixels of a target pixel, so that
    fine patterns do not alias. An axis that grows is interpolated.
    """
    size, target = tf.shape(window)[:2], (image_size, image_size)

    def grown(images):
        return tf.cond(
            tf.reduce_all(tf.shape(images)[1:3] == image_size),
            lambda: tf.cast(images, tf.float32),
            # The same numbers as from uint8, for which there is no vector code.
            lambda: tf.image.resize(tf.cast(images, tf.float32), target),
        )

    def resampled():
        images = window[tf.newaxis]
        image = tf.cond(
            tf.reduce_any(size > image_size),
            lambda: grown(
                tf.raw_ops.ResizeArea(images=images, size=tf.minimum(size, image_size))
            ),
            lambda: grown(images),
        )[0]
        return tf.cast(image + 0.5, tf.uint8)

    image = tf.cond(tf.reduce_all(size == image_size), lambda: window, resampled)
    return tf.ensure_shape(image, (*target, 3))


# === Crops of classifiers ===


def inception_crop_bytes(
    image_bytes: tf.Tensor,
    image_size: int,
    seed: tf.Tensor,
    min_area: float = 0.08,
    flip: bool = True,
) -> tf.Tensor:
    """Decodes an image, and cuts and resizes a window of random area and aspect.

    Of `seed`, integers (2,), the same gives the same window, at least `min_area` of the
    image's, mirrored or not. Returned is uint8 (image_size, image_size, 3).

    References:
        Szegedy et al. 2015, "Going deeper with convolutions", section 6: 8% to
        100% of the area, aspects from 3/4 to 4/3; Jia et al. 2021, section 5.3.
    """
    image = decode_image(image_bytes)
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.shape(image),
        tf.zeros((1, 0, 4)),
        seed=seed,
        min_object_covered=0.0,
        aspect_ratio_range=_ASPECT_RATIOS,
        area_range=(min_area, 1.0),
        # Where none of these fits, as in a very long image, it takes all of it.
        max_attempts=10,
        use_image_if_no_bounding_boxes=True,
    )
    image = resize_image(_static(tf.slice(image, begin, size)), image_size)
    return random_flip(image, seed) if flip else image


def central_crop_bytes(
    image_bytes: tf.Tensor, image_size: int, fraction: float = 0.875
) -> tf.Tensor:
    """Decodes an image, and resizes its central part, a fraction of each side, without
    keeping its aspect, to uint8 (image_size, image_size, 3).

    References:
        Jia et al. 2021, section 5.3: a single central crop with ratio 0.875.
    """
    image = tf.image.central_crop(decode_image(image_bytes), fraction)
    return resize_image(_static(image), image_size)


def random_flip(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Mirrors an image left to right, or not, by the seed."""
    # The crop's own numbers come from the seed too.
    seed = tf.cast(tf.convert_to_tensor(seed), tf.int64)
    mirrored = tf.random.stateless_uniform((), seed + tf.constant([0, 1], tf.int64) * 7)
    return tf.cond(mirrored < 0.5, lambda: tf.reverse(image, [1]), lambda: image)


def _static(image):
    return tf.ensure_shape(image, (None, None, 3))
