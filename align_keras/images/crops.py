"""Random and central crops of training images, for ALIGN and for classifiers."""

import tensorflow as tf

from align_keras.images.decode import (
    JPEG_SIGNATURE,
    decode_image,
    jpeg_orientation,
    size_check,
)
from align_keras.images.preprocess import crop_size_to_resize_size, resize_image

# Scales of JPEG decoding. libjpeg can decode 8, 4, 2 or 1 of the 8 rows and columns of
# a block.
_JPEG_RATIOS = (1, 2, 4, 8)
_ASPECT_RATIOS = (3 / 4, 4 / 3)


def crop_image_bytes(
    image_bytes: tf.Tensor,
    image_size: int,
    position: tf.Tensor | tuple[float, float],
    is_flipped: tf.Tensor | bool = False,
) -> tf.Tensor:
    """Decodes an image and resizes a window of it to the encoder's input size.

    The result approximates decoding the image, resizing it to the side that
    `crop_size_to_resize_size` returns, cropping and mirroring. Only the window is
    decoded and resampled, and a JPEG is decoded at the smallest scale that needs no
    enlargement.

    The filter differs from that of the evaluation. Source pixels are averaged over the
    area of a pixel, while the evaluation weights them by a triangle of twice this
    width. The mean difference in gray levels on the same window is:

    | input size | stamps: median, 90th percentile, maximum | two photographs |
    |---|---|---|
    | 289 | 0.16, 0.41, 1.7 | 0.5, 1.5 |
    | 144 | 0.28, 1.8, 7.6 | 3.5, 6.8 |

    These are every tenth stamp of Tux Paint, and the photographs of scikit-learn. The
    window also starts at a whole source pixel. Images that are stored at the resize
    size are not changed. `ALIGNImageConverter(crop="paper")` resizes the whole image.

    Args:
        image_bytes: scalar string tensor, file that `decode_image` supports.
        image_size: side of the encoder's input in pixels.
        position: float tensor (2,) in [0, 1), vertical and horizontal position of the
            window, from the top and from the left.
        is_flipped: bool tensor (), True to mirror the image horizontally.

    Returns:
        uint8 tensor (image_size, image_size, 3).

    Raises:
        tf.errors.InvalidArgumentError: if the bytes are not a supported image.

    References:
        Jia et al. 2021, section 5 (resize, random crop, horizontal flip).

    Example:

    >>> jpeg = tf.io.encode_jpeg(tf.zeros((300, 400, 3), tf.uint8))
    >>> crop_image_bytes(jpeg, 64, (0.5, 0.5)).shape
    TensorShape([64, 64, 3])
    """
    # The function would be traced again for each value of another type than a tensor.
    return _decode_and_crop(
        tf.convert_to_tensor(image_bytes),
        image_size,
        tf.convert_to_tensor(position),
        tf.convert_to_tensor(is_flipped),
    )


def crop_image(
    image: tf.Tensor,
    image_size: int,
    position: tf.Tensor | tuple[float, float],
    is_flipped: tf.Tensor | bool = False,
) -> tf.Tensor:
    """Crops uint8 pixels (height, width, 3) in the same way as `crop_image_bytes`.

    Example:

    >>> image = tf.zeros((300, 400, 3), tf.uint8)
    >>> crop_image(image, 64, (0.5, 0.5)).shape
    TensorShape([64, 64, 3])
    """
    window = _window(image, image_size, position)
    return _resample_and_mirror(window, image_size, is_flipped)


@tf.function(autograph=False)
def _decode_and_crop(
    image_bytes: tf.Tensor, image_size: int, position: tf.Tensor, is_flipped: tf.Tensor
) -> tf.Tensor:
    is_upright_jpeg = tf.cond(
        tf.strings.substr(image_bytes, 0, 3) == JPEG_SIGNATURE,
        # The orientations 2 to 8 are rotated or mirrored.
        lambda: tf.abs(jpeg_orientation(image_bytes) - 5) > 3,
        lambda: tf.constant(False),
    )
    window = tf.cond(
        is_upright_jpeg,
        lambda: _jpeg_window(image_bytes, image_size, position),
        lambda: _window(decode_image(image_bytes), image_size, position),
    )
    return _resample_and_mirror(window, image_size, is_flipped)


def _resample_and_mirror(
    window: tf.Tensor, image_size: int, is_flipped: tf.Tensor | bool
) -> tf.Tensor:
    image = _resample(window, image_size)
    is_flipped = tf.convert_to_tensor(is_flipped)
    return tf.cond(is_flipped, lambda: tf.reverse(image, [1]), lambda: image)


def _jpeg_window(
    image_bytes: tf.Tensor, image_size: int, position: tf.Tensor
) -> tf.Tensor:
    """Decodes the window of a JPEG at the smallest scale that needs no enlargement."""
    shape = tf.io.extract_jpeg_shape(image_bytes)[:2]
    pixels = tf.reduce_prod(tf.cast(shape, tf.int64))
    with tf.control_dependencies([size_check(pixels)]):
        shape = tf.identity(shape)

    def window_at(ratio: int) -> tf.Tensor:
        box = _box(-(-shape // ratio), image_size, position)
        return tf.image.decode_and_crop_jpeg(
            image_bytes, box, channels=3, ratio=ratio, dct_method="INTEGER_ACCURATE"
        )

    smallest = tf.reduce_min(_window_size(shape, image_size)) // image_size
    fitting = tf.reduce_sum(tf.cast(_JPEG_RATIOS[1:] <= smallest, tf.int32))
    return tf.switch_case(
        fitting, [lambda ratio=ratio: window_at(ratio) for ratio in _JPEG_RATIOS]
    )


def _window(
    image: tf.Tensor, image_size: int, position: tf.Tensor | tuple[float, float]
) -> tf.Tensor:
    """Returns the pixels of the window before resampling."""
    box = _box(tf.shape(image)[:2], image_size, position)
    y, x, height, width = tf.unstack(box)
    return image[y : y + height, x : x + width]


def _window_size(shape: tf.Tensor, image_size: int) -> tf.Tensor:
    """Returns the height and width of the window in source pixels, int32 (2,)."""
    fraction = image_size / crop_size_to_resize_size(image_size)
    size = tf.cast(tf.round(tf.cast(shape, tf.float32) * fraction), tf.int32)
    return tf.maximum(size, 1)


def _box(
    shape: tf.Tensor, image_size: int, position: tf.Tensor | tuple[float, float]
) -> tf.Tensor:
    """Returns the top, left, height and width of the window in source pixels."""
    size = _window_size(shape, image_size)
    slack = tf.cast(shape - size + 1, tf.float32)
    # The product of `slack` and a number just below 1 can be rounded up to `slack`.
    corner = tf.minimum(tf.cast(position * slack, tf.int32), shape - size)
    return tf.concat([corner, size], axis=0)


def _resample(window: tf.Tensor, image_size: int) -> tf.Tensor:
    """Resizes a window to the encoder's input size."""
    # A reduced axis is averaged over all source pixels of a target pixel, so that fine
    # patterns do not alias. An enlarged axis is interpolated.
    size = tf.shape(window)[:2]
    target = (image_size, image_size)

    def enlarge(images: tf.Tensor) -> tf.Tensor:
        return tf.cond(
            tf.reduce_all(tf.shape(images)[1:3] == image_size),
            lambda: tf.cast(images, tf.float32),
            # float32 gives the same pixels as uint8, for which TensorFlow has no
            # vectorized kernel.
            lambda: tf.image.resize(tf.cast(images, tf.float32), target),
        )

    def resample() -> tf.Tensor:
        images = window[tf.newaxis]
        image = tf.cond(
            tf.reduce_any(size > image_size),
            lambda: enlarge(
                tf.raw_ops.ResizeArea(images=images, size=tf.minimum(size, image_size))
            ),
            lambda: enlarge(images),
        )[0]
        return tf.cast(image + 0.5, tf.uint8)

    image = tf.cond(tf.reduce_all(size == image_size), lambda: window, resample)
    return tf.ensure_shape(image, (*target, 3))


# === Crops for classifiers ===


def inception_crop(
    image: tf.Tensor,
    image_size: int,
    seed: tf.Tensor,
    min_area: float = 0.08,
    flip: bool = True,
) -> tf.Tensor:
    """Crops a window with a random area and aspect ratio and resizes it.

    Args:
        image: uint8 tensor (height, width, 3).
        image_size: side of the result in pixels.
        seed: integer tensor (2,). The same seed gives the same window.
        min_area: in (0, 1], smallest area of the window relative to the image.
        flip: True to mirror half of the images horizontally.

    Returns:
        uint8 tensor (image_size, image_size, 3).

    References:
        Szegedy et al. 2015, "Going deeper with convolutions", section 6 (8% to 100% of
        the area, aspect ratios from 3/4 to 4/3). Jia et al. 2021, section 5.3.

    Example:

    >>> image = tf.zeros((300, 400, 3), tf.uint8)
    >>> inception_crop(image, 64, seed=tf.constant([0, 1])).shape
    TensorShape([64, 64, 3])
    """
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.shape(image),
        tf.zeros((1, 0, 4)),
        seed=seed,
        min_object_covered=0.0,
        aspect_ratio_range=_ASPECT_RATIOS,
        area_range=(min_area, 1.0),
        # If no window fits into a very long image, TensorFlow uses the whole image.
        max_attempts=10,
        use_image_if_no_bounding_boxes=True,
    )
    image = resize_image(_static(tf.slice(image, begin, size)), image_size)
    return random_flip(image, seed) if flip else image


def central_crop(
    image: tf.Tensor, image_size: int, fraction: float = 0.875
) -> tf.Tensor:
    """Crops the center of an image and resizes it without keeping the aspect ratio.

    Args:
        image: uint8 tensor (height, width, 3).
        image_size: side of the result in pixels.
        fraction: in (0, 1], side of the crop relative to the side of the image.

    Returns:
        uint8 tensor (image_size, image_size, 3).

    References:
        Jia et al. 2021, section 5.3 (a single central crop with ratio 0.875).

    Example:

    >>> central_crop(tf.zeros((300, 400, 3), tf.uint8), 64).shape
    TensorShape([64, 64, 3])
    """
    image = tf.image.central_crop(image, fraction)
    return resize_image(_static(image), image_size)


def random_flip(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Mirrors an image horizontally for half of the seeds.

    Args:
        image: tensor (height, width, channels).
        seed: integer tensor (2,).

    Returns:
        Tensor (height, width, channels) with the dtype of `image`.

    Example:

    >>> image = tf.constant([[[1], [2]]])
    >>> flips = [random_flip(image, (0, number)) for number in range(20)]
    >>> sorted({tuple(flip.numpy().ravel().tolist()) for flip in flips})
    [(1, 2), (2, 1)]
    """
    # The seed differs from that of the crop, so that the numbers are independent.
    seed = tf.cast(tf.convert_to_tensor(seed), tf.int64)
    number = tf.random.stateless_uniform((), seed + tf.constant([0, 1], tf.int64) * 7)
    return tf.cond(number < 0.5, lambda: tf.reverse(image, [1]), lambda: image)


def _static(image: tf.Tensor) -> tf.Tensor:
    """Restores the static number of channels, which some operations lose."""
    return tf.ensure_shape(image, (None, None, 3))
