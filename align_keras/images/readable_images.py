"""A batch of picture files in a graph, of which any may be no picture."""

import tensorflow as tf

from align_keras.images.decode import FileBytes, gif_frame
from align_keras.images.preprocess import preprocess_image_bytes

# As of the corpora, and nearly Pillow's own: a file of more may be a bomb, a few
# kilobytes that fill the memory.
MAX_PIXELS = 89_000_000


def readable_images(image_bytes, image_size):
    """Decodes, resizes and crops files; one that is no picture fails nothing.

    Args:
        image_bytes: string tensor (n,), files.
        image_size: int, the side of the encoder's input in pixels.

    Returns:
        float32 tensor (n, image_size, image_size, 3) in [0, 255], each picture as
        `preprocess_image_bytes` makes it, or black; and bool tensor (n,), whether
        it is a JPEG, PNG, GIF, BMP or WebP file that can be decoded and has at most
        `MAX_PIXELS` pixels.

    Example:

    >>> import tensorflow as tf
    >>> png = tf.io.encode_png(tf.ones((20, 30, 3), tf.uint8)).numpy()
    >>> _, valid = readable_images(tf.constant([b"no picture", png, b""]), 64)
    >>> valid.numpy().tolist()
    [False, True, False]
    """
    count = tf.size(image_bytes, tf.int64)

    def read(row, file):
        # Before the pixels, since these may fill the memory.
        check = tf.debugging.assert_less_equal(
            pixels_by_header(file), tf.constant(MAX_PIXELS, tf.int64)
        )
        with tf.control_dependencies([check]):
            return row, preprocess_image_bytes(tf.identity(file), image_size)

    # The only way in a graph to leave out what raises.
    pictures = (
        tf.data.Dataset.from_tensor_slices(image_bytes)
        .enumerate()
        .map(read, tf.data.AUTOTUNE)
        .ignore_errors()
    )
    # One more, so that there is a batch where nothing can be read.
    last = tf.constant(-1, tf.int64), tf.zeros((image_size, image_size, 3))
    pictures = pictures.concatenate(tf.data.Dataset.from_tensors(last))
    rows, images = pictures.batch(count + 1).get_single_element()
    rows, images = rows[:-1, tf.newaxis], images[:-1]
    shape = tf.stack([count, image_size, image_size, 3])
    valid = tf.scatter_nd(rows, tf.ones_like(rows[:, 0], tf.int32), [count]) > 0
    images = tf.scatter_nd(rows, images, tf.cast(shape, tf.int64))
    return tf.ensure_shape(images, (None, image_size, image_size, 3)), valid


def pixels_by_header(file):
    """Returns how many pixels a file says that it has, before it is decoded.

    Args:
        file: scalar string tensor.

    Returns:
        int64 tensor (), 0 for what isn't one of the known formats; of a GIF, those of
        its canvas with the first frame.

    References:
        PNG, ISO/IEC 15948, section 11.2.2; GIF89a, sections 15 to 20;
        BITMAPINFOHEADER;
        WebP, RFC 9649; JPEG, by TensorFlow's own reader.
    """
    content = FileBytes(file)
    at = content.number

    def png():
        return at(16, 4, True) * at(20, 4, True)

    def gif():
        frame, _ = gif_frame(file)
        left, top, width, height = (at(frame + place, 2) for place in (1, 3, 5, 7))
        return tf.maximum(at(6, 2), left + width) * tf.maximum(at(8, 2), top + height)

    def bmp():
        # A negative height, of rows from the top down, is two's complement.
        height = at(22, 4)
        return at(18, 4) * tf.minimum(height, 2**32 - height)

    def webp():
        kind = content.part(12, 4)
        extended = (at(24, 3) + 1) * (at(27, 3) + 1)
        bits = at(21, 4)
        lossless = (bits % 2**14 + 1) * (bits // 2**14 % 2**14 + 1)
        lossy = at(26, 2) % 2**14 * (at(28, 2) % 2**14)
        return tf.where(
            kind == b"VP8X", extended, tf.where(kind == b"VP8L", lossless, lossy)
        )

    def jpeg():
        height, width, _ = tf.unstack(tf.io.extract_jpeg_shape(file, tf.int32))
        return tf.cast(height, tf.int64) * tf.cast(width, tf.int64)

    begins = content.begins
    return tf.case(
        [
            (begins(b"\x89PNG"), png),
            (begins(b"\xff\xd8\xff"), jpeg),
            (begins(b"GIF8"), gif),
            (begins(b"BM"), bmp),
            (begins(b"RIFF"), webp),
        ],
        default=lambda: tf.constant(0, tf.int64),
    )
