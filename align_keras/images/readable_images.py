"""A batch of picture files in a graph, of which any may be no picture."""

import tensorflow as tf

from align_keras.images.preprocess import preprocess_image_bytes

# As of the corpora, and nearly Pillow's own: a file of more may be a bomb, a few
# kilobytes that fill the memory.
MAX_PIXELS = 89_000_000
# Of a GIF, looked at for its frames: 32 megabytes of full ones, some seconds.
_MAX_BLOCKS = 2**17


def readable_images(image_bytes, image_size):
    """Decodes, resizes and crops files; one that is no picture fails nothing.

    Args:
        image_bytes: string tensor (n,), files.
        image_size: int, the side of the encoder's input in pixels.

    Returns:
        float32 tensor (n, image_size, image_size, 3) in [0, 255], each picture as
        `preprocess_image_bytes` makes it, or black; and bool tensor (n,), whether
        it is a JPEG, PNG, GIF, BMP or WebP file that can be decoded and has at most
        `MAX_PIXELS` pixels, and a GIF at most three times as many in all frames.

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
        int64 tensor (), 0 for what isn't one of the known formats; of a GIF, as
        many as take the room of the largest and of all frames.

    References:
        PNG, ISO/IEC 15948, section 11.2.2; GIF89a, sections 15 to 20;
        BITMAPINFOHEADER;
        WebP, RFC 9649; JPEG, by TensorFlow's own reader.
    """

    def at(position, count, little_endian=True):
        """An unsigned number of `count` bytes, 0 where the file ends before."""
        part = tf.strings.substr(tf.strings.join([file, b"\0" * 32]), position, count)
        values = tf.cast(tf.io.decode_raw(part, tf.uint8), tf.int64)
        powers = tf.range(count, dtype=tf.int64)
        powers = powers if little_endian else count - 1 - powers
        return tf.reduce_sum(values * 256**powers)

    def png():
        return at(16, 4, False) * at(20, 4, False)

    def gif():
        return tf.maximum(at(6, 2) * at(8, 2), _pixels_of_frames(file))

    def bmp():
        # A negative height, of rows from the top down, is two's complement.
        height = at(22, 4)
        return at(18, 4) * tf.minimum(height, 2**32 - height)

    def webp():
        kind = tf.strings.substr(file, 12, 4)
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

    def begins(signature):
        return tf.strings.substr(file, 0, len(signature)) == signature

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


def _pixels_of_frames(file):
    """Returns how much of a GIF is decoded, whatever its header says.

    TensorFlow's decoder fills a byte for each pixel of each frame, though only the
    first is wanted, and then a picture as wide as the widest and as high as the
    highest frame, three bytes a pixel.
    """
    length = tf.cast(tf.strings.length(file), tf.int64)
    zero = tf.constant(0, tf.int64)
    # Zeros behind the end, for a descriptor that is cut off.
    content = tf.io.decode_raw(tf.strings.join([file, b"\0" * 16]), tf.uint8)

    def byte(position):
        return tf.cast(content[position], tf.int64)

    def number(position):
        return byte(position) + 256 * byte(position + 1)

    def colours(position):
        packed = byte(position)
        return tf.where(packed < 128, zero, 6 * 2 ** (packed % 8))

    def step(position, in_data, width, height, total):
        """Over one frame's descriptor, one extension's label or one block of data."""
        first = byte(position)
        is_frame = ~in_data & (first == 0x2C)
        is_extension = ~in_data & (first == 0x21)
        own_width, own_height = (
            tf.where(is_frame, number(position + place), zero) for place in (5, 7)
        )
        size = tf.where(is_frame, 11 + colours(position + 9), length)
        size = tf.where(is_extension, zero + 2, size)
        size = tf.where(in_data, 1 + first, size)
        return (
            position + size,
            ~in_data | (first > 0),
            tf.maximum(width, own_width),
            tf.maximum(height, own_height),
            total + own_width * own_height,
        )

    position, _, width, height, total = tf.while_loop(
        lambda position, *_: position < length,
        step,
        (13 + colours(10), tf.constant(False), zero, zero, zero),
        parallel_iterations=1,
        maximum_iterations=_MAX_BLOCKS,
    )
    pixels = tf.maximum(width * height, total // 3)
    return tf.where(position < length, tf.int64.max, pixels)
