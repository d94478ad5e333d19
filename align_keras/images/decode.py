"""Decoding of image files in a graph, which is the reference for all other decoders.

The formats are JPEG, PNG and WebP. Where Python runs, `align_keras.images.read`
converts other formats. An image is decoded to 8-bit RGB by the following rules:

- The first frame of an animation is used.
- Transparent pixels are blended with white.
- The image is rotated and mirrored by its EXIF orientation.
- It has at most `MAX_PIXELS` pixels.

`align_keras.utils.pillow_images` follows the same rules with Pillow, and the web page
with the browser. `tests/images/test_decoding_rule.py` compares the decoders.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from align_keras.utils.files import MAX_PIXELS

# Pixels. Larger PNG and WebP images are decoded one at a time, since small files can
# have many pixels and take a gigabyte each.
LARGE = MAX_PIXELS // 4
# Number of chunks of a WebP file that are read before decoding fails.
MAX_PARTS = 2**17
JPEG_SIGNATURE = b"\xff\xd8\xff"
# Bytes. The orientation of a JPEG or a PNG must start in this part of the file, because
# a search of the whole file takes longer.
EXIF_WITHIN = 2**16
_STRING = tf.TensorSpec((), tf.string)
_NUMBER = tf.TensorSpec((), tf.int64)
_IMAGE = tf.TensorSpec((None, None, 3), tf.uint8)
_RGBA = tf.TensorSpec((None, None, 4), tf.uint8)
_ANY_CHANNELS = tf.TensorSpec((None, None, None), tf.uint8)


# The first run of a graph in each pipeline and each export takes time in proportion to
# the size of the graph. Code that several formats share is therefore in functions that
# are traced once. The functions are not inlined, because the branches of other formats
# would also take time.
#
# Operations that raise are outside of these functions, because a failed call leaks
# about 800 bytes (TensorFlow 2.20 and 2.21). For an invalid file, the functions return
# an empty file or an image without pixels, which raises an error later.
_BYTES = [bytes([value]) for value in range(256)]


def _separate_function(*signature: tf.TensorSpec) -> Callable[[Callable], Callable]:
    """Returns a decorator for functions that are traced once and not inlined."""
    return tf.function(
        input_signature=signature,
        autograph=False,
        experimental_attributes={"_noinline": True},
    )


class FileBytes:
    """Reader of numbers and parts of a file in a graph.

    Args:
        file: scalar string tensor, content of the file.
    """

    def __init__(self, file: tf.Tensor) -> None:
        self.file = tf.convert_to_tensor(file)
        self.length = tf.cast(tf.strings.length(self.file), tf.int64)

    def number(
        self,
        position: tf.Tensor | int,
        count: int,
        big_endian: tf.Tensor | bool = False,
    ) -> tf.Tensor:
        """Reads an unsigned number of up to four bytes as int64.

        Bytes after the end of the file are 0.
        """
        read = _big_endian_number if big_endian else _number
        return read(self.file, tf.cast(position, tf.int64), count)

    def part(self, position: tf.Tensor | int, size: tf.Tensor | int) -> tf.Tensor:
        """Returns a part of the file as a scalar string tensor.

        The part is shorter than `size` at the end of the file.
        """
        position = tf.minimum(tf.cast(position, tf.int64), self.length)
        return tf.strings.substr(self.file, position, tf.cast(size, tf.int64))

    def begins(self, signature: bytes, position: tf.Tensor | int = 0) -> tf.Tensor:
        """Returns a bool tensor, True if the file has these bytes at the position."""
        return self.part(position, len(signature)) == signature


def _decode_number(
    file: tf.Tensor, position: tf.Tensor, count: tf.Tensor, little_endian: bool = True
) -> tf.Tensor:
    padded = tf.strings.join([FileBytes(file).part(position, count), b"\0" * 8])
    padded = tf.strings.substr(padded, 0, 8)
    return tf.reshape(tf.io.decode_raw(padded, tf.int64, little_endian), ())


_number = _separate_function(_STRING, _NUMBER, _NUMBER)(_decode_number)


@_separate_function(_STRING, _NUMBER, _NUMBER)
def _big_endian_number(
    file: tf.Tensor, position: tf.Tensor, count: tf.Tensor
) -> tf.Tensor:
    value = _decode_number(file, position, count, little_endian=False)
    return tf.bitwise.right_shift(value, 64 - 8 * count)


def _where_int64(condition: tf.Tensor, number: Any, other: Any) -> tf.Tensor:
    """Casts numbers to int64 and applies `tf.where`."""
    return tf.where(condition, tf.cast(number, tf.int64), tf.cast(other, tf.int64))


@tf.autograph.experimental.do_not_convert
def decode_image(image_bytes: tf.Tensor) -> tf.Tensor:
    """Decodes a JPEG, PNG or WebP file to RGB.

    Args:
        image_bytes: scalar string tensor, content of the file.

    Returns:
        uint8 tensor (height, width, 3).

    Raises:
        tf.errors.InvalidArgumentError: if the bytes aren't an image in one of these
            formats, or if it has more than `MAX_PIXELS` pixels.

    Example:

    >>> png = tf.io.encode_png(tf.constant([[[0, 0, 0, 0]]], tf.uint8))  # Transparent.
    >>> decode_image(png).numpy().tolist()
    [[[255, 255, 255]]]
    """
    # The function would be traced again for each value of another type than a tensor.
    return _decode(tf.convert_to_tensor(image_bytes))


@tf.function(autograph=False)
def _decode(image_bytes: tf.Tensor) -> tf.Tensor:
    is_jpeg = tf.strings.substr(image_bytes, 0, 3) == JPEG_SIGNATURE
    image = tf.cond(
        is_jpeg,
        lambda: _decode_jpeg(image_bytes),
        lambda: _decode_non_jpeg(image_bytes),
    )
    image = tf.ensure_shape(image, (None, None, 3))
    check = tf.debugging.Assert(tf.size(image) > 0, ["the image must be complete"])
    with tf.control_dependencies([check]):
        return tf.identity(image)


def _decode_non_jpeg(image_bytes: tf.Tensor) -> tf.Tensor:
    pixels = pixels_by_header(image_bytes)
    with tf.control_dependencies([size_check(pixels)]):
        is_large = pixels > LARGE
    # Only one large image is decoded at a time in a process. The lock is also released
    # with its tensor if the decoder raises. For smaller images, an unused tensor
    # replaces the lock.
    lock = tf.cond(
        is_large,
        lambda: tf.raw_ops.MutexLock(
            mutex=tf.raw_ops.MutexV2(shared_name="large_image")
        ),
        lambda: tf.raw_ops.EmptyTensorList(
            element_shape=-1, max_num_elements=0, element_dtype=tf.bool
        ),
    )
    with tf.control_dependencies([lock]):
        image_bytes = tf.identity(image_bytes)
    decoders = [_decode_png, _decode_webp]
    image = tf.switch_case(
        _file_type(image_bytes) - 1,
        [lambda decode=decode: decode(image_bytes) for decode in decoders],
        default=lambda: _raise_unless("a JPEG, PNG or WebP file"),
    )
    with tf.control_dependencies([image]):
        unlocked = tf.cond(is_large, lambda: _unlock(lock), lambda: True)
    with tf.control_dependencies([unlocked]):
        return tf.identity(image)


def _unlock(lock: tf.Tensor) -> tf.Tensor:
    with tf.control_dependencies([tf.raw_ops.ConsumeMutexLock(mutex_lock=lock)]):
        return tf.constant(True)


def _file_type(image_bytes: tf.Tensor) -> tf.Tensor:
    """Returns the index of the signature at the start of a file as int32."""
    # The index is the number of signatures if the file has no known signature.
    signatures = [JPEG_SIGNATURE, b"\x89PNG", b"RIFF"]
    sizes = [len(signature) for signature in signatures]
    begins = tf.strings.substr(image_bytes, [0] * len(sizes), sizes) == signatures
    # The minimum of an empty tensor is the largest int64.
    return tf.cast(tf.minimum(tf.reduce_min(tf.where(begins)), len(sizes)), tf.int32)


def pixels_by_header(file: FileBytes) -> tf.Tensor:
    """Returns the number of pixels in the header of a file as int64, or 0."""
    content = FileBytes(file)
    at = content.number

    def jpeg() -> tf.Tensor:
        height, width, _ = tf.unstack(tf.io.extract_jpeg_shape(file, tf.int64))
        return height * width

    def png() -> tf.Tensor:
        return at(16, 4, True) * at(20, 4, True)

    def webp() -> tf.Tensor:
        kind = content.part(12, 4)
        extended = (at(24, 3) + 1) * (at(27, 3) + 1)
        bits = at(21, 4)
        lossless = (bits % 2**14 + 1) * (bits // 2**14 % 2**14 + 1)
        lossy = at(26, 2) % 2**14 * (at(28, 2) % 2**14)
        return tf.where(
            kind == b"VP8X", extended, tf.where(kind == b"VP8L", lossless, lossy)
        )

    return tf.switch_case(
        _file_type(file),
        [jpeg, png, webp],
        default=lambda: tf.constant(0, tf.int64),
    )


def size_check(pixels: tf.Tensor) -> tf.Operation:
    """Returns an operation that raises if an image has more than `MAX_PIXELS` pixels.

    Args:
        pixels: int64 tensor (), number of pixels.
    """
    message = f"the image must have at most {MAX_PIXELS:,} pixels. Received:"
    return tf.debugging.Assert(pixels <= MAX_PIXELS, [message, pixels])


def _raise_unless(rule: str) -> tf.Tensor:
    """Raises an error in the graph. Its result is only needed for tracing."""
    check = tf.debugging.Assert(tf.constant(False), [f"the image must be {rule}"])
    with tf.control_dependencies([check]):
        return tf.zeros((1, 1, 3), tf.uint8)


@_separate_function(_RGBA, tf.TensorSpec((), tf.uint8))
def _blend_on_white(rgba: tf.Tensor, opaque: tf.Tensor) -> tf.Tensor:
    """Blends uint8 RGBA (height, width, 4) with white in the same way as Pillow."""
    rgb = rgba[..., :3]
    alpha = rgba[..., 3:]

    def blended() -> tf.Tensor:
        color = tf.cast(rgb, tf.uint16)
        opacity = tf.cast(alpha, tf.uint16)
        white = 255 * (255 - opacity) + 127
        return tf.cast((color * opacity + white) // 255, tf.uint8)

    # Blending is skipped for images without transparent pixels, which most images are.
    return tf.cond(tf.reduce_all(alpha == opaque), lambda: rgb, blended)


@_separate_function(_IMAGE, _STRING)
def _apply_orientation(image: tf.Tensor, exif: tf.Tensor) -> tf.Tensor:
    """Rotates and mirrors an image (h, w, 3) by the orientation in EXIF data."""
    orientation = _read_orientation(exif)
    has_orientation = (orientation >= 2) & (orientation <= 8)
    return tf.cond(
        has_orientation, lambda: _rotate_and_mirror(image, orientation), lambda: image
    )


def _rotate_and_mirror(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    image = tf.cond(
        orientation >= 5, lambda: tf.transpose(image, (1, 0, 2)), lambda: image
    )
    for axis, values in ((1, (2, 3, 6, 7)), (0, (3, 4, 7, 8))):
        is_mirrored = tf.reduce_any(orientation == tf.constant(values, tf.int64))
        mirrored = tf.reverse(image, [axis])
        image = tf.where(is_mirrored, mirrored, image)
    return image


@_separate_function(_STRING)
def _read_orientation(exif: tf.Tensor) -> tf.Tensor:
    """Returns the orientation in the first directory of a TIFF header as int64."""
    # The result is less than 1 if the directory has no orientation.
    file = FileBytes(exif)
    is_big = file.begins(b"MM")

    def number(position: tf.Tensor, count: int) -> tf.Tensor:
        big_endian = file.number(position, count, True)
        little_endian = file.number(position, count)
        return tf.where(is_big, big_endian, little_endian)

    directory = number(4, 4)
    entries = file.part(directory + 2, 12 * number(directory, 2))
    entries = tf.strings.substr(entries, 0, tf.strings.length(entries) // 12 * 12)
    entries = tf.where(
        is_big,
        tf.io.decode_raw(entries, tf.uint16, little_endian=False),
        tf.io.decode_raw(entries, tf.uint16),
    )
    entries = tf.cast(tf.reshape(entries, (-1, 6)), tf.int64)
    # Tag, type (number of two bytes) and count of the entry with the orientation.
    tag = tf.where(is_big, [0x0112, 3, 0, 1], [0x0112, 3, 1, 0])
    is_orientation = tf.reduce_all(entries[:, :4] == tf.cast(tag, tf.int64), axis=1)
    return tf.reduce_max(tf.where(is_orientation, entries[:, 4], 0))


def _split_at_mark(text: tf.Tensor, mark: bytes) -> tf.Tensor:
    """Returns the texts before and after the first mark, or the text without it."""
    return tf.raw_ops.StringSplitV2(input=text[tf.newaxis], sep=mark, maxsplit=1).values


# === JPEG ===


def jpeg_orientation(image_bytes: tf.Tensor) -> tf.Tensor:
    """Returns the EXIF orientation of a JPEG as an int64 tensor (), 1 by default."""
    exif = _split_at_exif(image_bytes)
    one = tf.constant(1, tf.int64)
    return tf.cond(tf.size(exif) > 1, lambda: _read_orientation(exif[1]), lambda: one)


def _split_at_exif(image_bytes: tf.Tensor) -> tf.Tensor:
    return _split_at_mark(tf.strings.substr(image_bytes, 0, EXIF_WITHIN), b"Exif\0\0")


def _apply_exif(image: tf.Tensor, exif: tf.Tensor) -> tf.Tensor:
    """Applies the orientation in EXIF data from `_split_at_mark`, if there are any."""
    return tf.cond(
        tf.size(exif) > 1, lambda: _apply_orientation(image, exif[1]), lambda: image
    )


def _decode_jpeg(image_bytes: tf.Tensor) -> tf.Tensor:
    height, width, _ = tf.unstack(tf.io.extract_jpeg_shape(image_bytes, tf.int64))
    with tf.control_dependencies([size_check(height * width)]):
        image_bytes = tf.identity(image_bytes)
    # libjpeg-turbo uses this method by default. The default of TensorFlow differs by up
    # to eight gray levels.
    image = tf.io.decode_jpeg(image_bytes, channels=3, dct_method="INTEGER_ACCURATE")
    return _apply_exif(image, _split_at_exif(image_bytes))


# === PNG ===


def _decode_png(image_bytes: tf.Tensor) -> tf.Tensor:
    return _finish_png(image_bytes, tf.io.decode_png(image_bytes, channels=4))


@_separate_function(_STRING, _RGBA)
def _finish_png(image_bytes: tf.Tensor, rgba: tf.Tensor) -> tf.Tensor:
    bits = FileBytes(image_bytes).number(24, 1)
    # For images without transparency, the alpha of TensorFlow is the largest number
    # with the bits of a gray level.
    opaque = tf.bitwise.left_shift(tf.constant(1, tf.int64), tf.minimum(bits, 8)) - 1
    image = _blend_on_white(rgba, tf.cast(opaque, tf.uint8))
    head = tf.strings.substr(image_bytes, 0, EXIF_WITHIN)
    before_pixels = _split_at_mark(head, b"IDAT")[0]
    return _apply_exif(image, _split_at_mark(before_pixels, b"eXIf"))


# === WebP ===


def _decode_webp(image_bytes: tf.Tensor) -> tf.Tensor:
    content = _without_animation(image_bytes)
    # The decoder can't add or remove channels, so it keeps the channels of the file.
    image = tf.image.decode_webp(content, channels=0)[0]
    return _finish_webp(image_bytes, tf.ensure_shape(image, (None, None, None)))


def _has_flag(file: FileBytes, flag: int) -> tf.Tensor:
    flags = _where_int64(file.begins(b"VP8X", 12), file.number(20, 1), 0)
    return tf.bitwise.bitwise_and(flags, flag) > 0


@_separate_function(_STRING)
def _without_animation(image_bytes: tf.Tensor) -> tf.Tensor:
    is_animated = _has_flag(FileBytes(image_bytes), 2)
    return tf.cond(
        is_animated, lambda: _extract_webp_frame(image_bytes), lambda: image_bytes
    )


@_separate_function(_STRING, _ANY_CHANNELS)
def _finish_webp(image_bytes: tf.Tensor, image: tf.Tensor) -> tf.Tensor:
    file = FileBytes(image_bytes)
    image = tf.cond(
        tf.shape(image)[2] == 4,
        lambda: _blend_on_white(image, tf.constant(255, tf.uint8)),
        lambda: image,
    )
    image = tf.cond(
        _has_flag(file, 2),
        lambda: _place_webp_frame(image_bytes, image),
        lambda: image,
    )

    def apply_orientation() -> tf.Tensor:
        exif = _find_chunk(image_bytes, 12, [b"EXIF"])
        exif = file.part(exif + 8, file.number(exif + 4, 4))
        # Some programs write the signature of JPEG before the EXIF data.
        exif = tf.strings.regex_replace(exif, "^Exif\\x00\\x00", "")
        return _apply_orientation(image, exif)

    return tf.cond(_has_flag(file, 8), apply_orientation, lambda: image)


@_separate_function(_STRING, _NUMBER, tf.TensorSpec((None,), tf.string))
def _find_chunk(file: tf.Tensor, start: tf.Tensor, kinds: tf.Tensor) -> tf.Tensor:
    """Returns the position of the first chunk with one of the types."""
    # It is the length of the file if there is no such chunk.
    content = FileBytes(file)

    def continues(position: tf.Tensor) -> tf.Tensor:
        is_match = tf.reduce_any(content.part(position, 4) == kinds)
        return (position < content.length) & ~is_match

    def step(position: tf.Tensor) -> tuple[tf.Tensor]:
        size = _decode_number(file, position + 4, tf.constant(4, tf.int64))
        return (position + 8 + (size + 1) // 2 * 2,)

    position = tf.while_loop(
        continues, step, (start,), parallel_iterations=1, maximum_iterations=MAX_PARTS
    )[0]
    return tf.where(continues(position), content.length, position)


@_separate_function(_STRING)
def _extract_webp_frame(image_bytes: tf.Tensor) -> tf.Tensor:
    """Returns a file that contains only the first frame of an animation."""
    # The animation decoder of TensorFlow isn't used, because it can write outside of
    # its memory and crash the process.
    file = FileBytes(image_bytes)
    frame = _find_chunk(image_bytes, 12, [b"ANMF"])
    end = frame + 8 + file.number(frame + 4, 4)
    pixels = _find_chunk(image_bytes, frame + 24, [b"VP8 ", b"VP8L"])
    start = _find_chunk(image_bytes, frame + 24, [b"ALPH", b"VP8 ", b"VP8L"])
    has_alpha = (start < pixels) | file.begins(b"VP8L", pixels)
    # The decoder compares this size with the size in the pixel data. Therefore neither
    # of them can be huge.
    flags = tf.where(has_alpha, b"\x10\0\0\0", b"\0\0\0\0")
    sizes = file.part(frame + 14, 6)
    data = tf.strings.join(
        [b"WEBPVP8X\x0a\0\0\0", flags, sizes, file.part(start, end - start)]
    )
    size = tf.strings.length(data)
    digits = tf.bitwise.right_shift(size, [0, 8, 16, 24])
    size_bytes = tf.gather(_BYTES, tf.bitwise.bitwise_and(digits, 255))
    still = tf.strings.join([b"RIFF", tf.strings.reduce_join(size_bytes), data])
    return tf.where((frame < file.length) & (pixels < end), still, b"")


@_separate_function(_STRING, _IMAGE)
def _place_webp_frame(image_bytes: tf.Tensor, image: tf.Tensor) -> tf.Tensor:
    file = FileBytes(image_bytes)
    frame = _find_chunk(image_bytes, 12, [b"ANMF"])
    x = 2 * file.number(frame + 8, 3)
    y = 2 * file.number(frame + 11, 3)
    width = 1 + file.number(24, 3)
    height = 1 + file.number(27, 3)
    return _place_on_canvas(image, y, x, height, width)


@_separate_function(_IMAGE, _NUMBER, _NUMBER, _NUMBER, _NUMBER)
def _place_on_canvas(
    image: tf.Tensor,
    y: tf.Tensor,
    x: tf.Tensor,
    height: tf.Tensor,
    width: tf.Tensor,
) -> tf.Tensor:
    """Places a frame, uint8 (h, w, 3), on a white canvas."""
    # The canvas is enlarged if the frame doesn't fit. The result has no pixels if the
    # canvas is too large.
    shape = tf.shape(image, tf.int64)
    bottom_padding = tf.maximum(height - y - shape[0], 0)
    right_padding = tf.maximum(width - x - shape[1], 0)
    paddings = tf.stack([[y, bottom_padding], [x, right_padding], [0, 0]])
    # A damaged frame can have any position.
    pixels = (y + bottom_padding + shape[0]) * (x + right_padding + shape[1])
    fits = pixels <= MAX_PIXELS
    image = image[: _where_int64(fits, shape[0], 0)]
    return tf.pad(image, _where_int64(fits, paddings, 0), constant_values=255)
