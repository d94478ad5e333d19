"""The one rule of which files are images, and of the pixels that they are.

- Formats: JPEG, PNG, WebP, GIF, and BMP of 1, 4, 8, 24 or 32 bits that isn't
  compressed. Whatever else there is (AVIF, HEIC, TIFF, SVG …) is refused.
- Pixels: 8 bits a channel, RGB. Palettes and grey become colors, 16 bits their upper
  eight, CMYK and its inverse RGB by products; color profiles are ignored.
- Transparency lies on white; where the first frame of an animation leaves its canvas
  free, that is white too.
- Of an animation the first frame is read.
- The EXIF orientation is applied: of a JPEG's APP1 segment, a PNG's eXIf chunk before
  its pixels, a WebP's EXIF chunk.

Here they are operations of a graph, for training, evaluation and every SavedModel.
`align_keras.corpus.picture` follows the same rule by Pillow, the exported web page by
the browser; `tests/images/test_decoding_rule.py` holds them together.

References:
    ITU-T T.81 (JPEG), ISO/IEC 15948 (PNG), GIF89a, RFC 9649 (WebP), BITMAPINFOHEADER,
    CIPA DC-008 (Exif).
"""

import tensorflow as tf

# What a walk over a file's parts looks at before it gives up: 32 megabytes of a GIF's
# full blocks, some seconds.
MAX_PARTS = 2**17
JPEG_SIGNATURE = b"\xff\xd8\xff"
# Where a JPEG's or a PNG's orientation must begin; far, since other metadata may come
# before, but not the whole file, which would take longer to search.
EXIF_WITHIN = 2**16
# Behind the end, so that what is cut off reads as zeros.
_SLACK = 64


class FileBytes:
    """Numbers out of a file, in a graph.

    Args:
        file: scalar string tensor.
    """

    def __init__(self, file):
        self.file = tf.convert_to_tensor(file)
        self.length = tf.cast(tf.strings.length(self.file), tf.int64)
        self._padded = tf.strings.join([self.file, b"\0" * _SLACK])

    # Each of these is few operations, since they make up most of the graph, and what
    # a graph costs before its first run grows with it.

    def number(self, position, count, big_endian=False):
        """An unsigned number of `count` bytes, int64; 0 behind the end."""
        position = tf.minimum(tf.cast(position, tf.int64), self.length)
        eight = tf.strings.substr(self._padded, position, 8)
        value = tf.io.decode_raw(eight, tf.int64, little_endian=not big_endian)
        value = tf.reshape(value, ())
        if big_endian:
            value = tf.bitwise.right_shift(value, tf.constant(64 - 8 * count, tf.int64))
        return tf.bitwise.bitwise_and(value, tf.constant(256**count - 1, tf.int64))

    def part(self, position, size):
        """A piece of the file, scalar string; cut off where the file ends."""
        position = tf.minimum(tf.cast(position, tf.int64), self.length)
        return tf.strings.substr(self.file, position, tf.cast(size, tf.int64))

    def begins(self, signature, position=0):
        """Whether the file has these bytes there."""
        return self.part(position, len(signature)) == signature

    def find(self, start, size, found):
        """Walks over parts and returns the position of the first that is `found`.

        Args:
            start: where the first part begins.
            size: function from a part's position to its size.
            found: function from a part's position to a bool.

        Returns:
            int64 tensor (), the file's length where there is none.
        """
        position = tf.while_loop(
            lambda position: (position < self.length) & ~found(position),
            lambda position: (
                position + tf.maximum(tf.cast(size(position), tf.int64), 1),
            ),
            (tf.cast(start, tf.int64),),
            parallel_iterations=1,
            maximum_iterations=MAX_PARTS,
        )[0]
        is_there = (position < self.length) & found(position)
        return tf.where(is_there, position, self.length)


def _choose(condition, number, other):
    """`tf.where` of numbers, int64."""
    return tf.where(condition, *(tf.cast(own, tf.int64) for own in (number, other)))


def _apart(function):
    """Makes a call of it one operation; inlined, branches not taken take time too."""
    attributes = {"_noinline": True}
    return tf.function(function, autograph=False, experimental_attributes=attributes)


@tf.autograph.experimental.do_not_convert
def decode_image(image_bytes):
    """Decodes a JPEG, PNG, WebP, GIF or BMP file to RGB, by the rule above.

    Args:
        image_bytes: scalar string tensor, the file's bytes.

    Returns:
        uint8 tensor (height, width, 3).

    Raises:
        tf.errors.InvalidArgumentError: if the bytes aren't such an image.

    Example:

    >>> png = tf.io.encode_png(tf.constant([[[0, 0, 0, 0]]], tf.uint8))  # Transparent.
    >>> decode_image(png).numpy().tolist()
    [[[255, 255, 255]]]
    """
    image = tf.cond(
        tf.strings.substr(image_bytes, 0, 3) == JPEG_SIGNATURE,
        lambda: _jpeg(image_bytes),
        lambda: _no_jpeg(image_bytes),
    )
    return tf.ensure_shape(image, (None, None, 3))


@_apart
def _no_jpeg(image_bytes):
    def begins(signature):
        return tf.strings.substr(image_bytes, 0, len(signature)) == signature

    return tf.case(
        [
            (begins(b"\x89PNG"), lambda: _png(image_bytes)),
            (begins(b"RIFF"), lambda: _webp(image_bytes)),
            (begins(b"GIF8"), lambda: _gif(image_bytes)),
            (begins(b"BM"), lambda: _bmp(image_bytes)),
        ],
        default=lambda: _refused("a JPEG, PNG, WebP, GIF or BMP file"),
    )


def _refused(rule):
    """Raises in the graph; gives an image of the right kind to trace."""
    check = tf.debugging.Assert(tf.constant(False), [f"the image must be {rule}"])
    with tf.control_dependencies([check]):
        return tf.zeros((1, 1, 3), tf.uint8)


def _on_white(rgba):
    """uint8 (h, w, 4) → (h, w, 3), as Pillow rounds it."""
    rgb, alpha = rgba[..., :3], rgba[..., 3:]

    def blended():
        color, opacity = tf.cast(rgb, tf.uint16), tf.cast(alpha, tf.uint16)
        white = 255 * (255 - opacity) + 127
        return tf.cast((color * opacity + white) // 255, tf.uint8)

    # Most have no transparent pixel.
    return tf.cond(tf.reduce_min(alpha) == 255, lambda: rgb, blended)


def _on_white_if_it_has_alpha(image):
    """uint8 (h, w, 3 or 4) → (h, w, 3)."""
    return tf.cond(tf.shape(image)[2] == 4, lambda: _on_white(image), lambda: image)


def _upright(image, orientation):
    """Turns (h, w, 3) by an EXIF orientation; what isn't 2 to 8 changes nothing."""
    is_turned = (orientation >= 2) & (orientation <= 8)
    return tf.cond(is_turned, lambda: _turned(image, orientation), lambda: image)


@_apart
def _turned(image, orientation):
    image = tf.cond(
        orientation >= 5, lambda: tf.transpose(image, (1, 0, 2)), lambda: image
    )
    for axis, values in ((1, (2, 3, 6, 7)), (0, (3, 4, 7, 8))):
        is_mirrored = tf.reduce_any(orientation == tf.constant(values, tf.int64))
        mirrored = tf.reverse(image, [axis])
        image = tf.where(is_mirrored, mirrored, image)
    return image


def _orientation_of_exif(exif):
    """Returns the orientation of a TIFF header and its first directory, or 1."""
    file = FileBytes(exif)
    big = file.begins(b"MM")

    def number(position, count):
        return _choose(
            big, file.number(position, count, True), file.number(position, count)
        )

    def is_orientation(entry):
        # A single number of two bytes.
        return (
            (number(entry, 2) == 0x0112)
            & (number(entry + 2, 2) == 3)
            & (number(entry + 4, 4) == 1)
        )

    directory = number(4, 4)
    end = directory + 2 + 12 * number(directory, 2)
    entry = file.find(
        directory + 2,
        lambda _: 12,
        lambda entry: is_orientation(entry) | (entry >= end),
    )
    is_there = (entry < end) & (entry + 12 <= file.length)
    return _choose(is_there, number(entry + 8, 2), 1)


# === JPEG ===


def jpeg_orientation(image_bytes):
    """Returns the EXIF orientation of a JPEG, int64 tensor (), 1 where there is none.

    Args:
        image_bytes: scalar string tensor.
    """
    return _orientation_if(image_bytes, b"Exif\0\0", _orientation_of_jpeg)


def _orientation_if(image_bytes, mark, orientation):
    """Follows the file's parts, which takes time, only if the mark is in its head."""
    head = tf.strings.substr(image_bytes, 0, EXIF_WITHIN)
    parts = tf.raw_ops.StringSplitV2(input=head[tf.newaxis], sep=mark, maxsplit=1)
    return tf.cond(tf.size(parts.values) > 1, lambda: orientation(image_bytes), _one)


def _one():
    return tf.constant(1, tf.int64)


@_apart
def _orientation_of_jpeg(image_bytes):
    file = FileBytes(image_bytes)

    def size(position):
        is_fill = file.number(position, 2) == 0xFFFF
        return _choose(is_fill, 1, 2 + file.number(position + 2, 2, True))

    def found(position):
        marker = file.number(position, 2, True)
        is_exif = (marker == 0xFFE1) & file.begins(b"Exif\0\0", position + 4)
        # The pixels, or no marker.
        return is_exif | (marker == 0xFFDA) | (marker < 0xFF00)

    position = file.find(2, size, found)
    is_exif = file.number(position, 2, True) == 0xFFE1
    exif = file.part(position + 10, tf.maximum(size(position) - 10, 0))
    return tf.cond(is_exif, lambda: _orientation_of_exif(exif), _one)


def _jpeg(image_bytes):
    # As every libjpeg-turbo decodes by default; TensorFlow's default differs by up to
    # eight grey levels.
    image = tf.io.decode_jpeg(image_bytes, channels=3, dct_method="INTEGER_ACCURATE")
    return _upright(image, jpeg_orientation(image_bytes))


# === PNG ===


@_apart
def _png(image_bytes):
    header = tf.io.decode_raw(
        tf.strings.substr(tf.strings.join([image_bytes, b"\0" * 26]), 24, 2), tf.uint8
    )
    bits, kind = header[0], header[1]

    def palette():
        image = tf.io.decode_png(image_bytes, channels=0)
        return _on_white_if_it_has_alpha(image)

    def other():
        rgba = tf.io.decode_png(image_bytes, channels=4)
        return _on_white(tf.cond(bits < 8, lambda: scaled(rgba), lambda: rgba))

    def scaled(rgba):
        # Where there is no transparency, TensorFlow fills in the greatest number of
        # as many bits as a grey level has.
        filler = tf.cast(2 ** tf.cast(bits, tf.int32) - 1, tf.uint8)
        alpha = rgba[..., 3:]
        alpha = tf.where(alpha == filler, tf.constant(255, tf.uint8), alpha)
        return tf.concat([rgba[..., :3], alpha], -1)

    image = tf.cond(kind == 3, palette, other)
    return _upright(image, _orientation_if(image_bytes, b"eXIf", _orientation_of_png))


@_apart
def _orientation_of_png(image_bytes):
    file = FileBytes(image_bytes)
    position = file.find(
        8,
        lambda position: 12 + file.number(position, 4, True),
        lambda position: (
            file.begins(b"eXIf", position + 4) | file.begins(b"IDAT", position + 4)
        ),
    )
    exif = file.part(position + 8, file.number(position, 4, True))
    is_exif = file.begins(b"eXIf", position + 4)
    return tf.cond(is_exif, lambda: _orientation_of_exif(exif), _one)


# === WebP ===


@_apart
def _webp(image_bytes):
    file = FileBytes(image_bytes)
    flags = _choose(file.begins(b"VP8X", 12), file.number(20, 1), 0)
    is_animated = flags // 2 % 2 == 1
    image = tf.cond(
        is_animated,
        lambda: _first_frame_of_webp(file),
        lambda: _on_white_if_it_has_alpha(_still_webp(file.file)),
    )

    def orientation():
        position = _find_chunk(file, 12, b"EXIF")
        exif = file.part(position + 8, file.number(position + 4, 4))
        # Some writers put JPEG's signature before it.
        signature = tf.strings.substr(exif, 0, 6)
        start = tf.where(signature == b"Exif\0\0", 6, 0)
        return _orientation_of_exif(tf.strings.substr(exif, start, 2**30))

    has_exif = flags // 8 % 2 == 1
    return _upright(image, tf.cond(has_exif, orientation, _one))


def _still_webp(content):
    # With as many channels as it has, for it refuses to leave one out or to add one.
    return tf.image.decode_image(content, channels=0, expand_animations=False)


def _find_chunk(file, start, *kinds):
    return file.find(
        start,
        lambda position: 8 + (file.number(position + 4, 4) + 1) // 2 * 2,
        lambda position: tf.reduce_any([file.begins(kind, position) for kind in kinds]),
    )


def _first_frame_of_webp(file):
    """Makes a file of the first frame, for TensorFlow's own way isn't safe.

    Its decoder of animations has ended a process by writing behind its memory.
    """
    frame = _find_chunk(file, 12, b"ANMF")
    left, top = 2 * file.number(frame + 8, 3), 2 * file.number(frame + 11, 3)
    end = frame + 8 + file.number(frame + 4, 4)
    alpha = _find_chunk(file, frame + 24, b"ALPH", b"VP8 ", b"VP8L")
    pixels = _find_chunk(file, frame + 24, b"VP8 ", b"VP8L")
    check = tf.debugging.Assert(
        (frame < file.length) & (pixels < end), ["the animation has no frame"]
    )
    with tf.control_dependencies([check]):
        has_alpha = file.begins(b"ALPH", alpha)
    # Its sizes are checked against those of the pixels, so that neither is a bomb.
    flags = tf.where(
        has_alpha | file.begins(b"VP8L", pixels), b"\x10\0\0\0", b"\0\0\0\0"
    )
    header = tf.strings.join([b"VP8X\x0a\0\0\0", flags, file.part(frame + 14, 6)])
    start = tf.where(has_alpha, alpha, pixels)
    data = tf.strings.join([b"WEBP", header, file.part(start, end - start)])
    size = _little_endian(tf.cast(tf.strings.length(data), tf.int64), 4)
    image = _still_webp(tf.strings.join([b"RIFF", size, data]))
    image = _on_white_if_it_has_alpha(image)
    width, height = 1 + file.number(24, 3), 1 + file.number(27, 3)
    return _on_canvas(image, top, left, height, width)


def _little_endian(number, count):
    """int64 tensor () → scalar string of its bytes."""
    values = tf.stack([number // 256**place % 256 for place in range(count)])
    return tf.strings.reduce_join(tf.gather(_BYTES, values))


_BYTES = [bytes([value]) for value in range(256)]


def _on_canvas(image, top, left, height, width):
    """Puts a frame on a white canvas, which grows where the frame is beyond it."""
    shape = tf.shape(image, tf.int64)
    below = tf.maximum(height - top - shape[0], 0)
    beside = tf.maximum(width - left - shape[1], 0)
    paddings = [[top, below], [left, beside], [0, 0]]
    return tf.pad(image, paddings, constant_values=255)


# === GIF ===


def gif_frame(file):
    """Finds the first frame of a GIF.

    Args:
        file: `FileBytes`.

    Returns:
        Two int64 tensors (): the position of its descriptor, the file's length where
        there is none; and the position of its graphic control extension, or -1.
    """

    def step(position, in_data, control):
        """Over one extension's label or one block of its data."""
        first = file.number(position, 1)
        is_control = ~in_data & file.begins(b"!\xf9", position)
        size = _choose(in_data, 1 + first, 2)
        # What is no extension ends the walk.
        is_known = in_data | (first == 0x21)
        return (
            tf.where(is_known, position + size, file.length),
            ~in_data | (first > 0),
            tf.where(is_control, position, control),
        )

    def goes_on(position, in_data, _):
        is_frame = ~in_data & (file.number(position, 1) == 0x2C)
        return (position < file.length) & ~is_frame

    start = 13 + _colors(file, 10)
    position, in_data, control = tf.while_loop(
        goes_on,
        step,
        (start, tf.constant(False), tf.constant(-1, tf.int64)),
        parallel_iterations=1,
        maximum_iterations=MAX_PARTS,
    )
    is_there = (position < file.length) & ~goes_on(position, in_data, control)
    return tf.where(is_there, position, file.length), control


def _colors(file, position):
    """Bytes of the color table that a packed field announces."""
    packed = file.number(position, 1)
    return _choose(packed < 128, 0, 3 * 2 ** (packed % 8 + 1))


@_apart
def _gif(image_bytes):
    """Decodes a file of the first frame alone, its transparent color made white.

    TensorFlow's decoder shows a transparent pixel in its palette's color, and decodes
    all frames.
    """
    file = FileBytes(image_bytes)
    frame, control = gif_frame(file)
    is_local = file.number(frame + 9, 1) >= 128
    data = frame + 10 + _colors(file, frame + 9)
    end = file.find(
        data + 1,
        lambda position: 1 + file.number(position, 1),
        lambda position: file.number(position, 1) == 0,
    )
    check = tf.debugging.Assert(
        (frame < file.length) & (file.number(frame, 1) == 0x2C) & (end < file.length),
        ["the image must be a whole GIF"],
    )
    with tf.control_dependencies([check]):
        left, top, width, height = (
            file.number(frame + place, 2) for place in (1, 3, 5, 7)
        )
    table = _choose(is_local, frame + 10, 13)
    size = _choose(is_local, _colors(file, frame + 9), _colors(file, 10))
    is_clear = (control >= 0) & (file.number(control + 3, 1) % 2 == 1)
    clear = 3 * file.number(control + 6, 1)
    is_clear &= clear < size
    content = tf.strings.join(
        [
            b"GIF89a",
            file.part(frame + 5, 4),  # A screen as large as the frame, at its place.
            file.part(10, 3 + _colors(file, 10)),
            b",\0\0\0\0",
            file.part(frame + 5, end - frame - 5),
            b"\0;",
        ]
    )
    # The tables lie 6 + 4 + 3 bytes, and the frame's own as many after it, as before.
    start = _choose(is_local, 13 + _colors(file, 10) + 10, table) + clear
    whole = FileBytes(content)
    white = [whole.part(0, start), b"\xff\xff\xff", whole.part(start + 3, whole.length)]
    content = tf.where(is_clear, tf.strings.join(white), content)
    image = tf.image.decode_image(content, channels=3, expand_animations=False)
    image = tf.ensure_shape(image, (None, None, 3))
    return _on_canvas(image, top, left, file.number(8, 2), file.number(6, 2))


# === BMP ===


@_apart
def _bmp(image_bytes):
    file = FileBytes(image_bytes)
    bits, is_plain = file.number(28, 2), file.number(30, 4) == 0
    header = file.number(14, 4)
    is_known = (header >= 40) & is_plain & (file.number(26, 2) == 1)
    rule = "a BMP of 1, 4, 8, 24 or 32 bits, not compressed"
    return tf.case(
        [
            (~is_known, lambda: _refused(rule)),
            (tf.reduce_any(bits == [1, 4, 8]), lambda: _palette_bmp(file, bits)),
            (tf.reduce_any(bits == [24, 32]), lambda: _plain_bmp(file)),
        ],
        default=lambda: _refused(rule),
        exclusive=False,
    )


def _plain_bmp(file):
    image = tf.image.decode_image(file.file, channels=3, expand_animations=False)
    return tf.ensure_shape(image, (None, None, 3))


def _palette_bmp(file, bits):
    """Decodes what TensorFlow's decoder takes for grey levels, or refuses."""
    start, header, count = (file.number(place, 4) for place in (10, 14, 46))
    width, height = file.number(18, 4), file.number(22, 4)
    # A negative height, of rows from the top down, is two's complement.
    is_top_down = height >= 2**31
    height = tf.where(is_top_down, 2**32 - height, height)
    row = (width * bits + 31) // 32 * 4
    count = _choose(count == 0, 2**bits, tf.minimum(count, 256))
    table = file.part(14 + header, 4 * count)
    data = file.part(start, row * height)
    check = tf.debugging.Assert(
        (width > 0)
        & (height > 0)
        & (tf.cast(tf.strings.length(data), tf.int64) == row * height)
        & (tf.cast(tf.strings.length(table), tf.int64) == 4 * count),
        ["the image must be a whole BMP"],
    )
    with tf.control_dependencies([check]):
        values = tf.reshape(tf.io.decode_raw(data, tf.uint8), (height, row, 1))
    places = 8 // bits
    shifts = tf.cast(bits * tf.range(places - 1, -1, -1), tf.uint8)
    values = tf.bitwise.right_shift(values, shifts)
    values = tf.bitwise.bitwise_and(values, tf.cast(2**bits - 1, tf.uint8))
    indices = tf.reshape(values, (height, row * places))[:, :width]
    colors = tf.reshape(tf.io.decode_raw(table, tf.uint8), (-1, 4))[:, 2::-1]
    # Pixels of no color are black.
    colors = tf.pad(colors, [[0, 256 - tf.shape(colors)[0]], [0, 0]])
    image = tf.gather(colors, tf.cast(indices, tf.int32))
    return tf.cond(is_top_down, lambda: image, lambda: image[::-1])
