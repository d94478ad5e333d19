"""The one evaluation path of a picture: decode, resize, centre crop."""

import tensorflow as tf

# Jia et al. 2021, section 5: resize to 346, crop 289. Other input sizes keep
# this ratio.
_RESIZE_TO_CROP = 346 / 289
_PNG_SIGNATURE = b"\x89PNG"


def crop_size_to_resize_size(image_size):
    """Returns the side to resize to before a crop of `image_size`.

    Args:
        image_size: int ≥ 32, the side of the encoder's input in pixels.

    Returns:
        int, `image_size` × 346 / 289, rounded.

    References:
        Jia et al. 2021, section 5 (346 for 289).

    Example:

    >>> crop_size_to_resize_size(289)
    346
    """
    return round(image_size * _RESIZE_TO_CROP)


def decode_image(image_bytes):
    """Decodes JPEG, PNG, GIF (first frame) or BMP bytes to RGB.

    Transparent PNGs are composited on white, as the corpus builders do.

    Args:
        image_bytes: scalar string tensor, the file's bytes.

    Returns:
        uint8 tensor (height, width, 3).

    Raises:
        tf.errors.InvalidArgumentError: if the bytes aren't such a picture.
    """

    def png():
        rgba = tf.io.decode_png(image_bytes, channels=4)
        rgb, alpha = rgba[..., :3], rgba[..., 3:]

        def blended():
            colour, opacity = tf.cast(rgb, tf.uint16), tf.cast(alpha, tf.uint16)
            white = 255 * (255 - opacity) + 127
            return tf.cast((colour * opacity + white) // 255, tf.uint8)

        # Most have no transparent pixel.
        return tf.cond(tf.reduce_min(alpha) == 255, lambda: rgb, blended)

    def other():
        return tf.io.decode_image(image_bytes, channels=3, expand_animations=False)

    is_png = tf.strings.substr(image_bytes, 0, 4) == _PNG_SIGNATURE
    image = tf.cond(is_png, png, other)
    return tf.ensure_shape(image, (None, None, 3))


def resize_image(image, size):
    """Resizes a picture, without keeping its aspect, to a square of `size`.

    Args:
        image: uint8 tensor (height, width, 3), or a batch (n, height, width, 3).
        size: int, the new side in pixels.

    Returns:
        uint8 tensor (size, size, 3), or (n, …), within 1 grey level of PIL's bilinear.

    References:
        Jia et al. 2021, section 5 (the aspect isn't kept).
    """
    resized = tf.image.resize(image, (size, size), method="bilinear", antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(resized), 0.0, 255.0), tf.uint8)


def preprocess_image(image, image_size):
    """Resizes and centre-crops a decoded picture for the image encoder.

    Args:
        image: uint8 tensor (height, width, 3), or a batch (n, height, width, 3).
        image_size: int, the side of the encoder's input in pixels.

    Returns:
        float32 tensor (image_size, image_size, 3), or (n, …), in [0, 255], whole
        numbers.
    """
    resize_size = crop_size_to_resize_size(image_size)
    offset = (resize_size - image_size) // 2
    resized = resize_image(image, resize_size)
    window = slice(offset, offset + image_size)
    return tf.cast(resized[..., window, window, :], tf.float32)


def preprocess_image_bytes(image_bytes, image_size):
    """Decodes, resizes and centre-crops a picture for the image encoder.

    Args:
        image_bytes: scalar string tensor, a JPEG, PNG, GIF, BMP or WebP file's bytes.
        image_size: int, the side of the encoder's input in pixels.

    Returns:
        float32 tensor (image_size, image_size, 3) in [0, 255], whole numbers.

    Example:

    >>> import tensorflow as tf
    >>> png = tf.io.encode_png(tf.zeros((20, 30, 3), tf.uint8))
    >>> preprocess_image_bytes(png, 64).shape
    TensorShape([64, 64, 3])
    """
    return preprocess_image(decode_image(image_bytes), image_size)
