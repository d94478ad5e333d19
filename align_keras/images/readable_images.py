"""A batch of picture files in a graph, of which any may be no picture."""

import tensorflow as tf

from align_keras.images.preprocess import preprocess_image_bytes


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
        return row, preprocess_image_bytes(file, image_size)

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
