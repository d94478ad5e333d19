"""Decoding of image files in a graph, the reference for all other decoders.

Images are JPEG, PNG, WebP, GIF or plain BMP files. Their pixels are RGB of 8 bits, on
white, upright by EXIF, the first frame, at most 192 MiB. `align_keras.corpus.image`
follows the same rule with Pillow, and the web page with the browser.
`tests/images/test_decoding_rule.py` compares them.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from align_keras.utils.files import MAX_PIXELS

# Pixels. Larger PNG, WebP, GIF and BMP images are decoded one after the other, since
# small files can have many pixels and need a gigabyte each.
LARGE = MAX_PIXELS // 4
# Parts of a file that are read before decoding fails: 32 megabytes of full blocks of a
# GIF, which takes a few seconds.
MAX_PARTS = 2**17
JPEG_SIGNATURE = b"\xff\xd8\xff"
# Bytes in which the orientation of a JPEG or a PNG must begin. Other metadata may come
# first. A search of the whole file would take longer.
EXIF_WITHIN = 2**16
_STRING = tf.TensorSpec((), tf.string)
_NUMBER = tf.TensorSpec((), tf.int64)
_IMAGE = tf.TensorSpec((None, None, 3), tf.uint8)
_RGBA = tf.TensorSpec((None, None, 4), tf.uint8)
_OF_ANY_CHANNELS = tf.TensorSpec((None, None, None), tf.uint8)


# The first run of a graph, in each pipeline and each export, takes time in proportion
# to its size. Code that several formats share is therefore a function that is traced
# once. Such a function isn't inlined, since branches of other formats would take time
# too. Operations that raise are outside of these functions, since a failed call leaks
# about 800 bytes (TensorFlow 2.20 and 2.21). The functions return an empty file or an
# image without pixels for files that they refuse, which raises later.
_BYTES = [bytes([value]) for value in range(256)]


def _apart(*signature: tf.TensorSpec) -> Callable[[Callable], Callable]:
    """Returns a decorator that makes the call of a function one operation."""
    return tf.function(
        input_signature=signature,
        autograph=False,
        experimental_attributes={"_noinline": True},
    )


class FileBytes:
    """Numbers and parts of a file in a graph. The file is a scalar string tensor."""

    def __init__(self, file: tf.Tensor) -> None:
        self.file = tf.convert_to_tensor(file)
        self.length = tf.cast(tf.strings.length(self.file), tf.int64)

    def number(
        self,
        position: tf.Tensor | int,
        count: int,
        big_endian: tf.Tensor | bool = False,
    ) -> tf.Tensor:
        """Reads an unsigned number of up to four bytes, int64, 0 after the end."""
        read = _big_endian_number if big_endian else _number
        return read(self.file, tf.cast(position, tf.int64), count)

    def part(self, position: tf.Tensor | int, size: tf.Tensor | int) -> tf.Tensor:
        """Returns a part of the file, a scalar string, up to the end of the file."""
        position = tf.minimum(tf.cast(position, tf.int64), self.length)
        return tf.strings.substr(self.file, position, tf.cast(size, tf.int64))

    def begins(self, signature: bytes, position: tf.Tensor | int = 0) -> tf.Tensor:
        """Returns a bool tensor, True if the file has these bytes at the position."""
        return self.part(position, len(signature)) == signature


def _number_there(
    file: tf.Tensor, position: tf.Tensor, count: tf.Tensor, little_endian: bool = True
) -> tf.Tensor:
    eight = tf.strings.join([FileBytes(file).part(position, count), b"\0" * 8])
    eight = tf.strings.substr(eight, 0, 8)
    return tf.reshape(tf.io.decode_raw(eight, tf.int64, little_endian), ())


_number = _apart(_STRING, _NUMBER, _NUMBER)(_number_there)


@_apart(_STRING, _NUMBER, _NUMBER)
def _big_endian_number(
    file: tf.Tensor, position: tf.Tensor, count: tf.Tensor
) -> tf.Tensor:
    value = _number_there(file, position, count, little_endian=False)
    return tf.bitwise.right_shift(value, 64 - 8 * count)


def _choose(condition: tf.Tensor, number: Any, other: Any) -> tf.Tensor:
    """Applies `tf.where` to numbers, int64."""
    return tf.where(condition, tf.cast(number, tf.int64), tf.cast(other, tf.int64))


@tf.autograph.experimental.do_not_convert
def decode_image(image_bytes: tf.Tensor) -> tf.Tensor:
    """Decodes a JPEG, PNG, WebP, GIF or BMP file to RGB.

    Args:
        image_bytes: scalar string tensor, the file's bytes.

    Returns:
        uint8 tensor (height, width, 3).

    Raises:
        tf.errors.InvalidArgumentError: if the bytes aren't such an image, or it has
            more than `MAX_PIXELS` pixels.

    Example:

    >>> png = tf.io.encode_png(tf.constant([[[0, 0, 0, 0]]], tf.uint8))  # Transparent.
    >>> decode_image(png).numpy().tolist()
    [[[255, 255, 255]]]
    """
    return _decoded(image_bytes)


@tf.function(autograph=False)
def _decoded(image_bytes: tf.Tensor) -> tf.Tensor:
    is_jpeg = tf.strings.substr(image_bytes, 0, 3) == JPEG_SIGNATURE
    image = tf.cond(is_jpeg, lambda: _jpeg(image_bytes), lambda: _no_jpeg(image_bytes))
    image = tf.ensure_shape(image, (None, None, 3))
    check = tf.debugging.Assert(tf.size(image) > 0, ["the image must be whole"])
    with tf.control_dependencies([check]):
        return tf.identity(image)


def _no_jpeg(image_bytes: tf.Tensor) -> tf.Tensor:
    pixels = pixels_by_header(image_bytes)
    with tf.control_dependencies([size_check(pixels)]):
        is_large = pixels > LARGE
    # A large image waits until no other large image is being decoded in this process. A
    # lock also ends with its tensor, if the decoder raises. Smaller images get another
    # tensor instead of a lock.
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
    decoders = [_png, _webp, _gif, _bmp]
    image = tf.switch_case(
        _kind(image_bytes) - 1,
        [lambda decode=decode: decode(image_bytes) for decode in decoders],
        default=lambda: _refused("a JPEG, PNG, WebP, GIF or BMP file"),
    )
    with tf.control_dependencies([image]):
        unlocked = tf.cond(is_large, lambda: _unlocked(lock), lambda: True)
    with tf.control_dependencies([unlocked]):
        return tf.identity(image)


def _unlocked(lock: tf.Tensor) -> tf.Tensor:
    with tf.control_dependencies([tf.raw_ops.ConsumeMutexLock(mutex_lock=lock)]):
        return tf.constant(True)


def _kind(image_bytes: tf.Tensor) -> tf.Tensor:
    """Returns the number of the signature that a file begins with, int32.

    The result is the number of signatures if the file begins with none.
    """
    signatures = [JPEG_SIGNATURE, b"\x89PNG", b"RIFF", b"GIF8", b"BM"]
    sizes = [len(signature) for signature in signatures]
    begins = tf.strings.substr(image_bytes, [0] * len(sizes), sizes) == signatures
    # The minimum of an empty tensor is the largest int64.
    return tf.cast(tf.minimum(tf.reduce_min(tf.where(begins)), len(sizes)), tf.int32)


def pixels_by_header(file: FileBytes) -> tf.Tensor:
    """Returns the number of pixels by the header of a file, int64, or 0."""
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

    def gif() -> tf.Tensor:
        frame, _ = gif_frame(file)
        right = at(frame + 1, 2) + at(frame + 5, 2)
        bottom = at(frame + 3, 2) + at(frame + 7, 2)
        return tf.maximum(at(6, 2), right) * tf.maximum(at(8, 2), bottom)

    def bmp() -> tf.Tensor:
        # The height of images with rows from the top is negative, in two's complement.
        height = at(22, 4)
        return at(18, 4) * tf.minimum(height, 2**32 - height)

    return tf.switch_case(
        _kind(file),
        [jpeg, png, webp, gif, bmp],
        default=lambda: tf.constant(0, tf.int64),
    )


def size_check(pixels: tf.Tensor) -> tf.Operation:
    """Returns an operation that raises for more than `MAX_PIXELS` pixels, an int64."""
    message = f"the image must have at most {MAX_PIXELS:,} pixels, received"
    return tf.debugging.Assert(pixels <= MAX_PIXELS, [message, pixels])


def _refused(rule: str) -> tf.Tensor:
    """Raises in the graph, and returns an image of the right shape for tracing."""
    check = tf.debugging.Assert(tf.constant(False), [f"the image must be {rule}"])
    with tf.control_dependencies([check]):
        return tf.zeros((1, 1, 3), tf.uint8)


@_apart(_RGBA, tf.TensorSpec((), tf.uint8))
def _on_white(rgba: tf.Tensor, opaque: tf.Tensor) -> tf.Tensor:
    """Blends uint8 (h, w, 4) on white to (h, w, 3), as Pillow does.

    Images without transparent pixels, whose alpha is `opaque`, stay as they are.
    """
    rgb = rgba[..., :3]
    alpha = rgba[..., 3:]

    def blended() -> tf.Tensor:
        color = tf.cast(rgb, tf.uint16)
        opacity = tf.cast(alpha, tf.uint16)
        white = 255 * (255 - opacity) + 127
        return tf.cast((color * opacity + white) // 255, tf.uint8)

    # Most images have no transparent pixel.
    return tf.cond(tf.reduce_all(alpha == opaque), lambda: rgb, blended)


@_apart(_IMAGE, _STRING)
def _upright(image: tf.Tensor, exif: tf.Tensor) -> tf.Tensor:
    """Turns an image (h, w, 3) by the orientation of EXIF data, if it is 2 to 8."""
    orientation = _orientation(exif)
    is_turned = (orientation >= 2) & (orientation <= 8)
    return tf.cond(is_turned, lambda: _turned(image, orientation), lambda: image)


def _turned(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    image = tf.cond(
        orientation >= 5, lambda: tf.transpose(image, (1, 0, 2)), lambda: image
    )
    for axis, values in ((1, (2, 3, 6, 7)), (0, (3, 4, 7, 8))):
        is_mirrored = tf.reduce_any(orientation == tf.constant(values, tf.int64))
        mirrored = tf.reverse(image, [axis])
        image = tf.where(is_mirrored, mirrored, image)
    return image


@_apart(_STRING)
def _orientation(exif: tf.Tensor) -> tf.Tensor:
    """Returns the orientation in the first directory of a TIFF header, int64.

    The result is less than 1 if there is none.
    """
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
    # Tag, type (a number of two bytes) and count of an entry with the orientation.
    tag = tf.where(is_big, [0x0112, 3, 0, 1], [0x0112, 3, 1, 0])
    is_orientation = tf.reduce_all(entries[:, :4] == tf.cast(tag, tf.int64), axis=1)
    return tf.reduce_max(tf.where(is_orientation, entries[:, 4], 0))


def _from_mark(text: tf.Tensor, mark: bytes) -> tf.Tensor:
    """Returns the text before and the text after a mark, a vector of one or two."""
    return tf.raw_ops.StringSplitV2(input=text[tf.newaxis], sep=mark, maxsplit=1).values


# === JPEG ===


def jpeg_orientation(image_bytes: tf.Tensor) -> tf.Tensor:
    """Returns the EXIF orientation of a JPEG, int64 tensor (), or 1."""
    exif = _exif_of_jpeg(image_bytes)
    one = tf.constant(1, tf.int64)
    return tf.cond(tf.size(exif) > 1, lambda: _orientation(exif[1]), lambda: one)


def _exif_of_jpeg(image_bytes: tf.Tensor) -> tf.Tensor:
    return _from_mark(tf.strings.substr(image_bytes, 0, EXIF_WITHIN), b"Exif\0\0")


def _upright_by(image: tf.Tensor, exif: tf.Tensor) -> tf.Tensor:
    """Turns an image by the EXIF data after a mark, if there is one."""
    return tf.cond(tf.size(exif) > 1, lambda: _upright(image, exif[1]), lambda: image)


def _jpeg(image_bytes: tf.Tensor) -> tf.Tensor:
    height, width, _ = tf.unstack(tf.io.extract_jpeg_shape(image_bytes, tf.int64))
    with tf.control_dependencies([size_check(height * width)]):
        image_bytes = tf.identity(image_bytes)
    # This is the default of libjpeg-turbo. TensorFlow's default differs by up to eight
    # gray levels.
    image = tf.io.decode_jpeg(image_bytes, channels=3, dct_method="INTEGER_ACCURATE")
    return _upright_by(image, _exif_of_jpeg(image_bytes))


# === PNG ===


def _png(image_bytes: tf.Tensor) -> tf.Tensor:
    return _png_as_shown(image_bytes, tf.io.decode_png(image_bytes, channels=4))


@_apart(_STRING, _RGBA)
def _png_as_shown(image_bytes: tf.Tensor, rgba: tf.Tensor) -> tf.Tensor:
    bits = FileBytes(image_bytes).number(24, 1)
    # TensorFlow fills the alpha of images without transparency with the largest number
    # of the bits of a gray level.
    opaque = tf.bitwise.left_shift(tf.constant(1, tf.int64), tf.minimum(bits, 8)) - 1
    image = _on_white(rgba, tf.cast(opaque, tf.uint8))
    head = tf.strings.substr(image_bytes, 0, EXIF_WITHIN)
    before_pixels = _from_mark(head, b"IDAT")[0]
    return _upright_by(image, _from_mark(before_pixels, b"eXIf"))


# === WebP ===


def _webp(image_bytes: tf.Tensor) -> tf.Tensor:
    content = _still_webp(image_bytes)
    # The decoder keeps the number of channels, since it can't remove or add one.
    image = tf.image.decode_image(content, channels=0, expand_animations=False)
    return _webp_as_shown(image_bytes, tf.ensure_shape(image, (None, None, None)))


def _has_flag(file: FileBytes, flag: int) -> tf.Tensor:
    flags = _choose(file.begins(b"VP8X", 12), file.number(20, 1), 0)
    return tf.bitwise.bitwise_and(flags, flag) > 0


@_apart(_STRING)
def _still_webp(image_bytes: tf.Tensor) -> tf.Tensor:
    is_animated = _has_flag(FileBytes(image_bytes), 2)
    return tf.cond(
        is_animated, lambda: _first_frame_of_webp(image_bytes), lambda: image_bytes
    )


@_apart(_STRING, _OF_ANY_CHANNELS)
def _webp_as_shown(image_bytes: tf.Tensor, image: tf.Tensor) -> tf.Tensor:
    file = FileBytes(image_bytes)
    image = tf.cond(
        tf.shape(image)[2] == 4,
        lambda: _on_white(image, tf.constant(255, tf.uint8)),
        lambda: image,
    )
    image = tf.cond(
        _has_flag(file, 2),
        lambda: _on_canvas_of_webp(image_bytes, image),
        lambda: image,
    )

    def turned() -> tf.Tensor:
        exif = _find_chunk(image_bytes, 12, [b"EXIF"])
        exif = file.part(exif + 8, file.number(exif + 4, 4))
        # Some programs write the signature of JPEG before it.
        exif = tf.strings.regex_replace(exif, "^Exif\\x00\\x00", "")
        return _upright(image, exif)

    return tf.cond(_has_flag(file, 8), turned, lambda: image)


@_apart(_STRING, _NUMBER, tf.TensorSpec((None,), tf.string))
def _find_chunk(file: tf.Tensor, start: tf.Tensor, kinds: tf.Tensor) -> tf.Tensor:
    """Returns the position of the first chunk of these kinds, or the file's length."""
    content = FileBytes(file)

    def goes_on(position: tf.Tensor) -> tf.Tensor:
        is_there = tf.reduce_any(content.part(position, 4) == kinds)
        return (position < content.length) & ~is_there

    def step(position: tf.Tensor) -> tuple[tf.Tensor]:
        size = _number_there(file, position + 4, tf.constant(4, tf.int64))
        return (position + 8 + (size + 1) // 2 * 2,)

    position = tf.while_loop(
        goes_on, step, (start,), parallel_iterations=1, maximum_iterations=MAX_PARTS
    )[0]
    return tf.where(goes_on(position), content.length, position)


@_apart(_STRING)
def _first_frame_of_webp(image_bytes: tf.Tensor) -> tf.Tensor:
    """Returns a file with the first frame of an animation.

    TensorFlow's decoder of animations isn't safe. It ended a process by writing outside
    of its memory.
    """
    file = FileBytes(image_bytes)
    frame = _find_chunk(image_bytes, 12, [b"ANMF"])
    end = frame + 8 + file.number(frame + 4, 4)
    pixels = _find_chunk(image_bytes, frame + 24, [b"VP8 ", b"VP8L"])
    start = _find_chunk(image_bytes, frame + 24, [b"ALPH", b"VP8 ", b"VP8L"])
    has_alpha = (start < pixels) | file.begins(b"VP8L", pixels)
    # The decoder compares these sizes with those of the pixels, so that neither of them
    # can be huge.
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


@_apart(_STRING, _IMAGE)
def _on_canvas_of_webp(image_bytes: tf.Tensor, image: tf.Tensor) -> tf.Tensor:
    file = FileBytes(image_bytes)
    frame = _find_chunk(image_bytes, 12, [b"ANMF"])
    left = 2 * file.number(frame + 8, 3)
    top = 2 * file.number(frame + 11, 3)
    width = 1 + file.number(24, 3)
    height = 1 + file.number(27, 3)
    return _on_canvas(image, top, left, height, width)


@_apart(_IMAGE, _NUMBER, _NUMBER, _NUMBER, _NUMBER)
def _on_canvas(
    image: tf.Tensor,
    top: tf.Tensor,
    left: tf.Tensor,
    height: tf.Tensor,
    width: tf.Tensor,
) -> tf.Tensor:
    """Puts a frame on a white canvas, which grows to include the whole frame."""
    shape = tf.shape(image, tf.int64)
    below = tf.maximum(height - top - shape[0], 0)
    right = tf.maximum(width - left - shape[1], 0)
    paddings = tf.stack([[top, below], [left, right], [0, 0]])
    # A damaged frame can have any position.
    pixels = (top + below + shape[0]) * (left + right + shape[1])
    fits = pixels <= MAX_PIXELS
    image = image[: _choose(fits, shape[0], 0)]
    return tf.pad(image, _choose(fits, paddings, 0), constant_values=255)


# === GIF ===


@_apart(_STRING)
def gif_frame(file: FileBytes) -> tf.Tensor:
    """Returns the positions of a GIF's first frame and of its control extension.

    They are the length of the file, and -1, if the GIF has none.
    """
    content = FileBytes(file)

    def step(
        position: tf.Tensor, in_data: tf.Tensor, control: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Goes on after the label of an extension or one block of its data."""
        first = _byte(file, position)
        is_control = ~in_data & content.begins(b"!\xf9", position)
        size = _choose(in_data, 1 + first, 2)
        # Anything but an extension ends the search.
        is_known = in_data | (first == 0x21)
        return (
            tf.where(is_known, position + size, content.length),
            ~in_data | (first > 0),
            tf.where(is_control, position, control),
        )

    def goes_on(position: tf.Tensor, in_data: tf.Tensor, _: tf.Tensor) -> tf.Tensor:
        is_frame = ~in_data & content.begins(b",", position)
        return (position < content.length) & ~is_frame

    start = 13 + _colors(file, 10)
    position, in_data, control = tf.while_loop(
        goes_on,
        step,
        (start, tf.constant(False), tf.constant(-1, tf.int64)),
        parallel_iterations=1,
        maximum_iterations=MAX_PARTS,
    )
    is_there = (position < content.length) & ~goes_on(position, in_data, control)
    return tf.where(is_there, position, content.length), control


def _byte(file: tf.Tensor, position: tf.Tensor) -> tf.Tensor:
    return _number_there(file, position, tf.constant(1, tf.int64))


@_apart(_STRING, _NUMBER)
def _colors(file: tf.Tensor, position: tf.Tensor) -> tf.Tensor:
    """Returns the bytes of the color table of a packed field."""
    packed = _byte(file, position)
    return _choose(packed < 128, 0, 3 * 2 ** (packed % 8 + 1))


@_apart(_STRING, _NUMBER)
def _end_of_data(file: tf.Tensor, start: tf.Tensor) -> tf.Tensor:
    """Returns the position of the empty block after a GIF's data, or the length."""
    length = tf.cast(tf.strings.length(file), tf.int64)
    position, _ = tf.while_loop(
        lambda position, size: (position < length) & (size > 0),
        lambda position, size: (position + 1 + size, _byte(file, position + 1 + size)),
        (start, _byte(file, start)),
        parallel_iterations=1,
        maximum_iterations=MAX_PARTS,
    )
    return tf.where(_byte(file, position) == 0, position, length)


def _gif(image_bytes: tf.Tensor) -> tf.Tensor:
    content, top, left = _gif_of_one_frame(image_bytes)
    image = tf.image.decode_image(content, channels=3, expand_animations=False)
    file = FileBytes(image_bytes)
    return _on_canvas(image, top, left, file.number(8, 2), file.number(6, 2))


@_apart(_STRING)
def _gif_of_one_frame(image_bytes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns a file with the first frame, and the frame's top and left.

    The transparent color of the frame becomes white.
    """
    file = FileBytes(image_bytes)
    frame, control = gif_frame(image_bytes)
    global_size = _colors(image_bytes, 10)
    local_size = _colors(image_bytes, frame + 9)
    end = _end_of_data(image_bytes, frame + 11 + local_size)
    content = tf.strings.join(
        [
            b"GIF89a",
            # The screen has the size of the frame.
            file.part(frame + 5, 4),
            file.part(10, 3 + global_size),
            b",\0\0\0\0",
            file.part(frame + 5, end - frame - 5),
            b"\0;",
        ]
    )
    # The color table of the frame, if it has one, is 10 bytes after the global one.
    table = 13 + _choose(local_size > 0, global_size + 10, 0)
    clear = 3 * file.number(control + 6, 1)
    is_clear = (control >= 0) & (file.number(control + 3, 1) % 2 == 1)
    is_clear &= clear < tf.where(local_size > 0, local_size, global_size)
    frame_file = FileBytes(content)
    start = table + clear
    white = tf.strings.join(
        [
            frame_file.part(0, start),
            b"\xff\xff\xff",
            frame_file.part(start + 3, frame_file.length),
        ]
    )
    content = tf.where(is_clear, white, content)
    is_whole = file.begins(b",", frame) & (end < file.length)
    left = file.number(frame + 1, 2)
    top = file.number(frame + 3, 2)
    return tf.where(is_whole, content, b""), top, left


# === BMP ===


def _bmp(image_bytes: tf.Tensor) -> tf.Tensor:
    bits = FileBytes(image_bytes).number(28, 2)
    decoders = [
        lambda: _refused("a BMP of 1, 4, 8, 24 or 32 bits, not compressed"),
        lambda: _palette_bmp(image_bytes, bits),
        lambda: tf.image.decode_image(image_bytes, channels=3, expand_animations=False),
    ]
    return tf.switch_case(_kind_of_bmp(image_bytes, bits), decoders)


@_apart(_STRING, _NUMBER)
def _kind_of_bmp(image_bytes: tf.Tensor, bits: tf.Tensor) -> tf.Tensor:
    """Returns 0 for unsupported files, 1 for files with a palette, else 2, int32."""
    file = FileBytes(image_bytes)
    is_plain = (
        (file.number(14, 4) >= 40)
        & (file.number(26, 2) == 1)
        & (file.number(30, 4) == 0)
    )
    has_palette = tf.reduce_any(bits == [1, 4, 8])
    has_colors = tf.reduce_any(bits == [24, 32])
    kind = _choose(has_palette, 1, _choose(has_colors, 2, 0))
    return tf.cast(_choose(is_plain, kind, 0), tf.int32)


@_apart(_STRING, _NUMBER)
def _palette_bmp(image_bytes: tf.Tensor, bits: tf.Tensor) -> tf.Tensor:
    """Decodes a BMP with a palette, which TensorFlow would decode as gray levels.

    The image has no pixels if the file isn't complete.
    """
    file = FileBytes(image_bytes)
    start = file.number(10, 4)
    header = file.number(14, 4)
    count = file.number(46, 4)
    width = file.number(18, 4)
    height = file.number(22, 4)
    # The height of images with rows from the top is negative, in two's complement.
    is_top_down = height >= 2**31
    height = tf.where(is_top_down, 2**32 - height, height)
    row = (width * bits + 31) // 32 * 4
    count = _choose(count == 0, 2**bits, tf.minimum(count, 256))
    table = file.part(14 + header, 4 * count)
    data = file.part(start, row * height)
    is_whole = (
        (width > 0)
        & (height > 0)
        & (tf.cast(tf.strings.length(data), tf.int64) == row * height)
        & (tf.cast(tf.strings.length(table), tf.int64) == 4 * count)
    )
    data = tf.where(is_whole, data, b"")
    table = tf.where(is_whole, table, b"")
    height = _choose(is_whole, height, 0)
    values = tf.reshape(tf.io.decode_raw(data, tf.uint8), (height, row, 1))
    pixels_per_byte = 8 // bits
    shifts = tf.cast(bits * tf.range(pixels_per_byte - 1, -1, -1), tf.uint8)
    values = tf.bitwise.right_shift(values, shifts)
    values = tf.bitwise.bitwise_and(values, tf.cast(2**bits - 1, tf.uint8))
    indices = tf.reshape(values, (height, row * pixels_per_byte))[:, :width]
    colors = tf.reshape(tf.io.decode_raw(table, tf.uint8), (-1, 4))[:, 2::-1]
    # Pixels without a color in the table are black.
    colors = tf.pad(colors, [[0, 256 - tf.shape(colors)[0]], [0, 0]])
    image = tf.gather(colors, tf.cast(indices, tf.int32))
    return tf.cond(is_top_down, lambda: image, lambda: image[::-1])
