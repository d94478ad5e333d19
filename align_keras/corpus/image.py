"""Decoding of images to 8-bit RGB on white, with a reason for each failure."""

import contextlib
import errno
import functools
import io
import math
import os
import struct
import threading
import types
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageChops

from align_keras.corpus.drop_counter import NO_RENDERER, ImageError
from align_keras.corpus.svg_drawing import SvgDrawing, has_renderer, read_svg
from align_keras.utils.errors import needs
from align_keras.utils.files import MAX_PIXELS, read_regular

# Names in Pillow of the formats that `align_keras.images.decode` decodes.
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
WHITE = (255, 255, 255)

# Pixels. Largest width and height of a JPEG that libjpeg writes.
_MAX_JPEG_SIDE = 65_500
# Bytes. Position in a BMP after the last field that is checked.
_MIN_BITMAP_BYTES = 34
# Bytes. EXIF metadata is searched for in this part at the start of a file.
_MAX_EXIF_POSITION = 2**16
# Pillow's names of metadata that can hold an orientation.
_ORIENTATION_METADATA = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")
# EXIF orientation → operation that makes the image upright.
_UPRIGHT_OPERATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# `Image.open` warns or raises if an image exceeds Pillow's global pixel limit. A thread
# holds this lock while it disables the limit. `normalize_image` compares the size in
# the header with `max_pixels` instead.
_OPEN_LOCK = threading.Lock()


def normalize_image(
    source: str | os.PathLike | bytes,
    *,
    max_pixels: int = MAX_PIXELS,
    shorter_side: int | None = None,
) -> tuple[Image.Image, str | None]:
    """Decodes an image to 8-bit RGB.

    The result is the upright first frame on a white background, as in
    `align_keras.images.decode`. SVG drawings are rendered at their own size, which
    needs the extra `svg`.

    Args:
        source: path of an image file, or its bytes.
        max_pixels: int, largest allowed number of pixels. It is compared with the size
            in the header, before the pixels are decoded.
        shorter_side: int or None. With a number, a JPEG is decoded at the smallest of
            1/1, 1/2, 1/4 and 1/8 of its size at which its shorter side has at least
            this many pixels.

    Returns:
        Tuple of the image and a str with the conversions that were necessary, such as
        `"cmyk, rotated"`, or None without conversions.

    Raises:
        ImageError: if the image cannot be decoded or is too large.
    """
    content = _read(source)
    drawing = _read_svg(content)
    try:
        image = open_image(content) if drawing is None else drawing.render()
        if math.prod(image.size) > max_pixels:
            size = "{} × {} pixels".format(*image.size)
            raise ImageError("oversized", f"{size} are more than {max_pixels:,}")
        steps = ["animated"] if _is_animated(image) else []
        if drawing is not None:
            steps.append("svg")
        # Pillow reads color PNGs of 16 bits in 8-bit modes. The raw mode of the tiles
        # still has the bit depth, but `load` removes the tiles.
        tiles = getattr(image, "tile", ())
        sixteen_bit = any(";16" in str(tile[3]) for tile in tiles)
        if shorter_side is not None and image.format == "JPEG":
            scale = shorter_side / min(image.size)
            if scale <= 1 / 2:
                # `draft` chooses a scale at which no side is smaller than requested.
                width, height = image.size
                reduced = (math.ceil(width * scale), math.ceil(height * scale))
                image.draft(None, reduced)
        operation = _UPRIGHT_OPERATIONS.get(_read_orientation(image, content))
        image.load()
        image = _correct_colors(image, content)
        upright = image if operation is None else image.transpose(operation)
        if upright is not image:
            steps.append("rotated")
        rgb, kind = to_rgb(upright)
        if image.format == "GIF":
            rgb = _fill_gif_background(rgb, image.dispose_extent)
    except ImageError:
        raise
    except Exception as error:  # A damaged file can raise any error in a decoder.
        reason = "truncated" if "truncated" in str(error) else "unreadable"
        raise ImageError(reason, _one_line(error)) from error
    # The image is upright now. If it still had an orientation, the caller could rotate
    # it again.
    for name in _ORIENTATION_METADATA:
        rgb.info.pop(name, None)
    if sixteen_bit and kind != "16-bit":
        steps.append("16-bit")
    if kind:
        steps.append(kind)
    return rgb, ", ".join(steps) or None


def image_size(source: str | os.PathLike | bytes) -> tuple[int, int]:
    """Reads the width and height of an image from its header.

    Args:
        source: path of an image file, or its bytes.

    Returns:
        Tuple (width, height) in pixels, before the EXIF orientation is applied.

    Raises:
        ImageError: if the image cannot be read.
    """
    content = _read(source)
    drawing = _read_svg(content)
    return open_image(content).size if drawing is None else drawing.size


@functools.cache
def opencv() -> types.ModuleType:
    """Imports cv2 and limits it to one thread, since the workers use all cores."""
    with needs("corpus", "Resizing the images of a corpus needs OpenCV"):
        import cv2
    cv2.setNumThreads(1)
    return cv2


def check_jpeg_size(width: int, height: int) -> None:
    """Raises `ImageError` if a side is too long for libjpeg."""
    if max(width, height) > _MAX_JPEG_SIDE:
        size = f"{width} × {height} pixels of the stored image"
        raise ImageError("oversized", f"{size} are more than {_MAX_JPEG_SIDE:,} a side")


def _read(source: str | os.PathLike | bytes) -> bytes:
    if isinstance(source, (bytes, bytearray, memoryview)):
        content = bytes(source)
    else:
        try:
            content = read_regular(source)
        except FileNotFoundError:
            raise ImageError("missing", f"no file {source}") from None
        except OSError as error:
            reason = "oversized" if error.errno == errno.EFBIG else "unreadable"
            raise ImageError(reason, _one_line(error)) from error
    if not content:
        raise ImageError("empty", "0 bytes")
    return content


def _read_svg(content: bytes) -> SvgDrawing | None:
    """Returns the `SvgDrawing`, or None if the file is not an SVG drawing."""
    drawing = read_svg(content)
    if drawing is not None and not has_renderer():
        raise ImageError(
            NO_RENDERER, 'run `pip install "align-keras[svg]"` to render it'
        )
    return drawing


def open_image(content: bytes, formats: Sequence[str] = IMAGE_FORMATS) -> Any:
    """Opens an image with Pillow without decoding its pixels.

    The number of pixels is not limited.

    Args:
        content: bytes of a file in one of `formats`.
        formats: sequence of str, names of formats in Pillow.

    Returns:
        `PIL.Image.Image`.

    Raises:
        ImageError: if the format is unknown, or the header cannot be read.
    """
    with _OPEN_LOCK:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = Image.open(io.BytesIO(content), formats=tuple(formats))
        except Image.UnidentifiedImageError:
            if _has_zero_size(content):
                raise ImageError("zero size", "the width or height is 0") from None
            raise ImageError("unreadable", "no known image format") from None
        except Exception as error:
            raise ImageError("unreadable", _one_line(error)) from error
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    if image.format == "BMP":
        _check_bitmap(content)
    return image


def _check_bitmap(content: bytes) -> None:
    # A bitmap with the header of OS/2 can have fewer bytes than the fields below.
    if len(content) < _MIN_BITMAP_BYTES:
        raise ImageError("unreadable", "a compressed or unusual BMP")
    header_size, planes, bits, compression = struct.unpack_from("<I8xHHI", content, 14)
    if header_size < 40 or planes != 1 or compression or bits not in (1, 4, 8, 24, 32):
        raise ImageError("unreadable", "a compressed or unusual BMP")


def _has_zero_size(content: bytes) -> bool:
    """Returns True for the header of a PNG or GIF with a width or height of 0.

    Pillow does not recognize the format of such an image.
    """
    if content.startswith(b"\x89PNG") and len(content) >= 24:
        return 0 in struct.unpack_from(">II", content, 16)
    if content.startswith(b"GIF8") and len(content) >= 10:
        return 0 in struct.unpack_from("<HH", content, 6)
    return False


def _correct_colors(image: Any, content: bytes) -> Any:
    """Corrects colors that Pillow decodes differently from other decoders.

    Pillow inverts every CMYK JPEG, but only Adobe's programs store inverted values. In
    a gray PNG of less than 8 bits, Pillow compares pixels of 8 bits with a transparent
    gray level that still has the bit depth of the file.
    """
    if image.format == "JPEG" and image.mode == "CMYK" and "adobe" not in image.info:
        return ImageChops.invert(image)
    transparent_level = image.info.get("transparency")
    if (
        image.format == "PNG"
        and image.mode == "L"
        and isinstance(transparent_level, int)
    ):
        max_level = 2 ** min(content[24], 8) - 1
        # The PNG standard ignores the higher bits of the stored number.
        level = transparent_level & max_level
        image.info["transparency"] = level * (255 // max_level)
    return image


def _is_animated(image: Any) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:
        # A later frame is damaged. The first frame may still be readable.
        return True


def _read_orientation(image: Any, content: bytes) -> int:
    """Returns the orientation in the EXIF metadata, or 1 without an orientation.

    Pillow's own function would also use the orientation in XMP and other metadata.
    """
    marker = {"JPEG": b"Exif\0\0", "PNG": b"eXIf"}.get(image.format, b"")
    if marker not in content[:_MAX_EXIF_POSITION]:
        return 1
    exif = image.info.get("exif", b"").removeprefix(b"Exif\0\0")
    byte_order = ">" if exif.startswith(b"MM") else "<"
    with contextlib.suppress(struct.error):  # The metadata is truncated.
        (start,) = struct.unpack_from(f"{byte_order}I", exif, 4)
        (count,) = struct.unpack_from(f"{byte_order}H", exif, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            # Tag "orientation", type SHORT, one value.
            if struct.unpack_from(f"{byte_order}HHI", exif, entry) == (0x0112, 3, 1):
                return struct.unpack_from(f"{byte_order}H2x", exif, entry + 8)[0]
    return 1


def _fill_gif_background(
    rgb: Image.Image, box: tuple[int, int, int, int]
) -> Image.Image:
    """Makes a GIF white outside of its first frame.

    Pillow fills that area with the first color of the palette.

    Args:
        rgb: `PIL.Image.Image`, the whole GIF.
        box: tuple of int (left, top, right, bottom), the area of the first frame.

    Returns:
        `PIL.Image.Image`.
    """
    if box == (0, 0, *rgb.size):
        return rgb
    white = Image.new("RGB", rgb.size, WHITE)
    white.paste(rgb.crop(box), box)
    return white


def to_rgb(image: Any) -> tuple[Any, str | None]:
    """Converts an image to 8-bit RGB on a white background.

    Returns:
        Tuple of the image and the name of the conversion, or None if the image already
        was 8-bit RGB.
    """
    mode = image.mode
    if mode == "I" or mode.startswith("I;"):
        return _scale_to_eight_bits(image), "16-bit"
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        is_transparent = rgba.getextrema()[3][0] < 255
        white = Image.new("RGB", rgba.size, WHITE)
        white.paste(rgba, mask=rgba.getchannel("A"))
        if mode in ("P", "PA"):
            return white, "palette with transparency" if is_transparent else "palette"
        if is_transparent:
            return white, "transparency"
        return white, "grayscale" if mode in ("L", "LA", "La", "1") else None
    kinds = {"1": "grayscale", "L": "grayscale", "P": "palette", "CMYK": "cmyk"}
    kind = None if mode == "RGB" else kinds.get(mode, mode.lower())
    return image if mode == "RGB" else image.convert("RGB"), kind


def _scale_to_eight_bits(image: Any) -> Image.Image:
    values = np.asarray(image)
    scaled = (values >> 8).astype(np.uint8)
    transparent_level = image.info.get("transparency")
    if isinstance(transparent_level, int):
        scaled[values == transparent_level] = 255
    return Image.fromarray(scaled).convert("RGB")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
