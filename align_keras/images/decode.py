"""The one rule of which files are images, and of their pixels, as operations of a
graph: JPEG, PNG, WebP, GIF, plain BMP; RGB of 8 bits, on white, upright by EXIF, first
frame, at most 192 MiB. `align_keras.corpus.image` follows it by Pillow, the web page by
the browser; `tests/images/test_decoding_rule.py` holds them together.
"""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from align_keras.utils.files import MAX_PIXELS

# PNG, WebP, GIF and BMP of more pixels are decoded one after another: they may be small
# files, and take a gigabyte each.
LARGE = MAX_PIXELS // 4
# Limit of the parts of a file that are read to find a frame: 32 megabytes of a GIF's
# full blocks, some seconds.
MAX_PARTS = 2**17
JPEG_SIGNATURE = b"\xff\xd8\xff"
# Bytes in which the orientation of a JPEG or a PNG must begin. Other metadata may come
# before it, and a search of the whole file would take longer.
EXIF_WITHIN = 2**16
_STRING = tf.TensorSpec((), tf.string)
_NUMBER = tf.TensorSpec((), tf.int64)
_IMAGE = tf.TensorSpec((None, None, 3), tf.uint8)
_RGBA = tf.TensorSpec((None, None, 4), tf.uint8)
_OF_ANY_CHANNELS = tf.TensorSpec((None, None, None), tf.uint8)


# A graph's first run, in every pipeline and every export, takes time by its size, so
# that what formats share is a function, traced once and there once. Nor is such a
# function inlined: branches of other formats would take time as well. What raises
# stands outside of them: a call that fails loses some 800 bytes for good (TensorFlow
# 2.20 and 2.21). What they refuse they answer by an empty file or an image without
# pixels, which raises behind them.
_BYTES = [bytes([value]) for value in range(256)]


def _apart(*signature: tf.TensorSpec) -> Callable[[Callable], Any]:
    """Decorates: makes a call of the function one operation of the graph."""
    return tf.function(
        input_signature=signature,
        autograph=False,
        experimental_attributes={"_noinline": True},
    )


class FileBytes:
    """Numbers out of a file, a scalar string tensor, in a graph."""

    def __init__(self, file: tf.Tensor) -> None:
        self.file = tf.convert_to_tensor(file)
        self.length = tf.cast(tf.strings.length(self.file), tf.int64)

    def number(
        self,
        position: tf.Tensor | int,
        count: int,
        big_endian: tf.Tensor | bool = False,
    ) -> tf.Tensor:
        """Reads an unsigned number of up to four bytes, int64; 0 behind the end."""
        read = _big_endian_number if big_endian else _number
        return read(self.file, tf.cast(position, tf.int64), count)

    def part(self, position: tf.Tensor | int, size: tf.Tensor | int) -> tf.Tensor:
        """Returns a piece of the file, scalar string; cut off where the file ends."""
        position = tf.minimum(tf.cast(position, tf.int64), self.length)
        return tf.strings.substr(self.file, position, tf.cast(size, tf.int64))

    def begins(self, signature: bytes, position: tf.Tensor | int = 0) -> tf.Tensor:
        """Tells whether the file has these bytes there."""
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


def _choose(
    condition: tf.Tensor, number: tf.Tensor | int, other: tf.Tensor | int
) -> tf.Tensor:
    """Applies `tf.where` to numbers, int64."""
    return tf.where(condition, *(tf.cast(value, tf.int64) for value in (number, other)))


@tf.autograph.experimental.do_not_convert
def decode_image(image_bytes: tf.Tensor) -> tf.Tensor:
    """Decodes a JPEG, PNG, WebP, GIF or BMP file to RGB, by the rule above.

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
    decoders = [lambda: _jpeg(image_bytes), lambda: _no_jpeg(image_bytes)]
    image = tf.ensure_shape(tf.cond(is_jpeg, *decoders), (None, None, 3))
    check = tf.debugging.Assert(tf.size(image) > 0, ["the image must be whole"])
    with tf.control_dependencies([check]):
        return tf.identity(image)


def _no_jpeg(image_bytes: tf.Tensor) -> tf.Tensor:
    pixels = pixels_by_header(image_bytes)
    with tf.control_dependencies([size_check(pixels)]):
        is_large = pixels > LARGE
    # It waits until no other large image is being decoded in this process. A lock ends
    # with its tensor too, if the decoder raises; where none is needed, any will do.
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
    """Returns which signature a file begins with, of none their number, int32."""
    signatures = [JPEG_SIGNATURE, b"\x89PNG", b"RIFF", b"GIF8", b"BM"]
    sizes = [len(signature) for signature in signatures]
    begins = tf.strings.substr(image_bytes, [0] * len(sizes), sizes) == signatures
    # With none, the least is the greatest of all numbers.
    return tf.cast(tf.minimum(tf.reduce_min(tf.where(begins)), len(sizes)), tf.int32)


def pixels_by_header(file: FileBytes) -> tf.Tensor:
    """Returns how many pixels a file says that it has, int64; 0 for no known format."""
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
        left, top, width, height = (at(frame + offset, 2) for offset in (1, 3, 5, 7))
        return tf.maximum(at(6, 2), left + width) * tf.maximum(at(8, 2), top + height)

    def bmp() -> tf.Tensor:
        # A negative height, of rows from the top down, is two's complement.
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
    """Raises in the graph; gives an image of the right kind to trace."""
    check = tf.debugging.Assert(tf.constant(False), [f"the image must be {rule}"])
    with tf.control_dependencies([check]):
        return tf.zeros((1, 1, 3), tf.uint8)


@_apart(_RGBA, tf.TensorSpec((), tf.uint8))
def _on_white(rgba: tf.Tensor, opaque: tf.Tensor) -> tf.Tensor:
    """Blends uint8 (h, w, 4) to (h, w, 3), as Pillow; of one opacity as it is."""
    rgb, alpha = rgba[..., :3], rgba[..., 3:]

    def blended() -> tf.Tensor:
        color, opacity = tf.cast(rgb, tf.uint16), tf.cast(alpha, tf.uint16)
        white = 255 * (255 - opacity) + 127
        return tf.cast((color * opacity + white) // 255, tf.uint8)

    # Most have no transparent pixel.
    return tf.cond(tf.reduce_all(alpha == opaque), lambda: rgb, blended)


@_apart(_IMAGE, _STRING)
def _upright(image: tf.Tensor, exif: tf.Tensor) -> tf.Tensor:
    """Turns (h, w, 3) by the orientation of EXIF data, if it is 2 to 8."""
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
    """Returns what a TIFF header and its first directory say, int64, or less than 1."""
    file = FileBytes(exif)
    is_big = file.begins(b"MM")

    def number(position: tf.Tensor | int, count: int) -> tf.Tensor:
        either = file.number(position, count, True), file.number(position, count)
        return tf.where(is_big, *either)

    directory = number(4, 4)
    entries = file.part(directory + 2, 12 * number(directory, 2))
    entries = tf.strings.substr(entries, 0, tf.strings.length(entries) // 12 * 12)
    entries = tf.where(
        is_big,
        tf.io.decode_raw(entries, tf.uint16, little_endian=False),
        tf.io.decode_raw(entries, tf.uint16),
    )
    entries = tf.cast(tf.reshape(entries, (-1, 6)), tf.int64)
    # A single number of two bytes.
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
    """Turns an image by what follows a mark, if there is one."""
    return tf.cond(tf.size(exif) > 1, lambda: _upright(image, exif[1]), lambda: image)


def _jpeg(image_bytes: tf.Tensor) -> tf.Tensor:
    height, width, _ = tf.unstack(tf.io.extract_jpeg_shape(image_bytes, tf.int64))
    with tf.control_dependencies([size_check(height * width)]):
        image_bytes = tf.identity(image_bytes)
    # All libjpeg-turbo decoders use this method by default. TensorFlow's default
    # differs by up to eight gray levels.
    image = tf.io.decode_jpeg(image_bytes, channels=3, dct_method="INTEGER_ACCURATE")
    return _upright_by(image, _exif_of_jpeg(image_bytes))


# === PNG ===


def _png(image_bytes: tf.Tensor) -> tf.Tensor:
    return _png_as_shown(image_bytes, tf.io.decode_png(image_bytes, channels=4))


@_apart(_STRING, _RGBA)
def _png_as_shown(image_bytes: tf.Tensor, rgba: tf.Tensor) -> tf.Tensor:
    bits = FileBytes(image_bytes).number(24, 1)
    # If there is no transparency, TensorFlow fills in the greatest number of as many
    # bits as a gray level has.
    opaque = tf.bitwise.left_shift(tf.constant(1, tf.int64), tf.minimum(bits, 8)) - 1
    image = _on_white(rgba, tf.cast(opaque, tf.uint8))
    head = tf.strings.substr(image_bytes, 0, EXIF_WITHIN)
    before_pixels = _from_mark(head, b"IDAT")[0]
    return _upright_by(image, _from_mark(before_pixels, b"eXIf"))


# === WebP ===


def _webp(image_bytes: tf.Tensor) -> tf.Tensor:
    content = _still_webp(image_bytes)
    # With as many channels as it has, for it refuses to leave one out or to add one.
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
        # Some writers put JPEG's signature before it.
        exif = tf.strings.regex_replace(exif, "^Exif\\x00\\x00", "")
        return _upright(image, exif)

    return tf.cond(_has_flag(file, 8), turned, lambda: image)


@_apart(_STRING, _NUMBER, tf.TensorSpec((None,), tf.string))
def _find_chunk(
    file: tf.Tensor, start: tf.Tensor | int, kinds: Sequence[bytes]
) -> tf.Tensor:
    """Returns where the first chunk of one of these kinds is, or the file's length."""
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
    """Makes a file of the first frame. TensorFlow's decoder of animations isn't safe:
    it has ended a process by writing behind its memory.
    """
    file = FileBytes(image_bytes)
    frame = _find_chunk(image_bytes, 12, [b"ANMF"])
    end = frame + 8 + file.number(frame + 4, 4)
    pixels = _find_chunk(image_bytes, frame + 24, [b"VP8 ", b"VP8L"])
    start = _find_chunk(image_bytes, frame + 24, [b"ALPH", b"VP8 ", b"VP8L"])
    has_alpha = (start < pixels) | file.begins(b"VP8L", pixels)
    # Its sizes are checked against those of the pixels, so that neither is a bomb.
    flags = tf.where(has_alpha, b"\x10\0\0\0", b"\0\0\0\0")
    sizes = file.part(frame + 14, 6)
    data = [b"WEBPVP8X\x0a\0\0\0", flags, sizes, file.part(start, end - start)]
    data = tf.strings.join(data)
    size = tf.strings.length(data)
    bytes_of_size = tf.bitwise.right_shift(size, [0, 8, 16, 24])
    size = tf.gather(_BYTES, tf.bitwise.bitwise_and(bytes_of_size, 255))
    still = tf.strings.join([b"RIFF", tf.strings.reduce_join(size), data])
    return tf.where((frame < file.length) & (pixels < end), still, b"")


@_apart(_STRING, _IMAGE)
def _on_canvas_of_webp(image_bytes: tf.Tensor, image: tf.Tensor) -> tf.Tensor:
    file = FileBytes(image_bytes)
    frame = _find_chunk(image_bytes, 12, [b"ANMF"])
    left, top, width, height = (
        file.number(position, 3) for position in (frame + 8, frame + 11, 24, 27)
    )
    return _on_canvas(image, 2 * top, 2 * left, 1 + height, 1 + width)


@_apart(_IMAGE, _NUMBER, _NUMBER, _NUMBER, _NUMBER)
def _on_canvas(
    image: tf.Tensor,
    top: tf.Tensor,
    left: tf.Tensor,
    height: tf.Tensor,
    width: tf.Tensor,
) -> tf.Tensor:
    """Puts a frame on a white canvas, which grows where the frame is beyond it."""
    shape = tf.shape(image, tf.int64)
    below = tf.maximum(height - top - shape[0], 0)
    beside = tf.maximum(width - left - shape[1], 0)
    paddings = tf.stack([[top, below], [left, beside], [0, 0]])
    # The frame may say that it lies anywhere.
    pixels = (top + below + shape[0]) * (left + beside + shape[1])
    fits = pixels <= MAX_PIXELS
    image = image[: _choose(fits, shape[0], 0)]
    return tf.pad(image, _choose(fits, paddings, 0), constant_values=255)


# === GIF ===


@_apart(_STRING)
def gif_frame(file: FileBytes) -> tf.Tensor:
    """Finds a GIF's first frame, or its end, and its control extension, or -1."""
    content = FileBytes(file)

    def step(
        position: tf.Tensor, in_data: tf.Tensor, control: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Steps over one extension's label or one block of its data."""
        first = _byte(file, position)
        is_control = ~in_data & content.begins(b"!\xf9", position)
        size = _choose(in_data, 1 + first, 2)
        # Any other byte ends the search.
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
    """Bytes of the color table that a packed field announces."""
    packed = _byte(file, position)
    return _choose(packed < 128, 0, 3 * 2 ** (packed % 8 + 1))


@_apart(_STRING, _NUMBER)
def _end_of_data(file: tf.Tensor, start: tf.Tensor) -> tf.Tensor:
    """Returns where the empty block is that ends a GIF's data, or the file's length."""
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
    """Makes a file of the first frame, its transparent color white; tells its place."""
    file = FileBytes(image_bytes)
    frame, control = gif_frame(image_bytes)
    global_size, local_size = _colors(image_bytes, 10), _colors(image_bytes, frame + 9)
    end = _end_of_data(image_bytes, frame + 11 + local_size)
    content = tf.strings.join(
        [
            b"GIF89a",
            file.part(frame + 5, 4),  # A screen as large as the frame, at its place.
            file.part(10, 3 + global_size),
            b",\0\0\0\0",
            file.part(frame + 5, end - frame - 5),
            b"\0;",
        ]
    )
    # The frame's table, if it has one, is 10 bytes behind the other's end.
    table = 13 + _choose(local_size > 0, global_size + 10, 0)
    clear = 3 * file.number(control + 6, 1)
    is_clear = (control >= 0) & (file.number(control + 3, 1) % 2 == 1)
    is_clear &= clear < tf.where(local_size > 0, local_size, global_size)
    whole, start = FileBytes(content), table + clear
    white = [whole.part(0, start), b"\xff\xff\xff", whole.part(start + 3, whole.length)]
    content = tf.where(is_clear, tf.strings.join(white), content)
    is_whole = file.begins(b",", frame) & (end < file.length)
    left, top = file.number(frame + 1, 2), file.number(frame + 3, 2)
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
    """Returns 0 for what is refused, 1 for one with a palette, 2 for others, int32."""
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
    """Decodes what TensorFlow's decoder takes for gray levels, or refuses."""
    file = FileBytes(image_bytes)
    start, header, count = (file.number(field, 4) for field in (10, 14, 46))
    width, height = file.number(18, 4), file.number(22, 4)
    # A negative height, of rows from the top down, is two's complement.
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
    data, table = (tf.where(is_whole, part, b"") for part in (data, table))
    height = _choose(is_whole, height, 0)
    values = tf.reshape(tf.io.decode_raw(data, tf.uint8), (height, row, 1))
    values_per_byte = 8 // bits
    shifts = tf.cast(bits * tf.range(values_per_byte - 1, -1, -1), tf.uint8)
    values = tf.bitwise.right_shift(values, shifts)
    values = tf.bitwise.bitwise_and(values, tf.cast(2**bits - 1, tf.uint8))
    indices = tf.reshape(values, (height, row * values_per_byte))[:, :width]
    colors = tf.reshape(tf.io.decode_raw(table, tf.uint8), (-1, 4))[:, 2::-1]
    # Pixels of no color are black.
    colors = tf.pad(colors, [[0, 256 - tf.shape(colors)[0]], [0, 0]])
    image = tf.gather(colors, tf.cast(indices, tf.int32))
    return tf.cond(is_top_down, lambda: image, lambda: image[::-1])
