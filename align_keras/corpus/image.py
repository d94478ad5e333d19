"""Any readable image as 8-bit RGB on white, or a named reason why not."""

import contextlib
import errno
import functools
import io
import math
import os
import struct
import threading
import types
from typing import Any

import numpy as np
from PIL import Image, ImageChops

from align_keras.corpus.drop_counter import NO_RENDERER, ImageError
from align_keras.corpus.svg_drawing import SvgDrawing, has_renderer, read_svg
from align_keras.utils.errors import needs
from align_keras.utils.files import MAX_PIXELS, read_regular

# Those of `align_keras.images.decode`, whose rule this is too.
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
WHITE = (255, 255, 255)

_JPEG_SIDE = 65_500
_EXIF_WITHIN = 2**16
_METADATA = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# `Image.open` warns or raises by a module-wide limit of its own; ours, checked
# from the same header, replaces it while a file is being opened.
_OPEN_LOCK = threading.Lock()


def normalize_image(
    source: str | os.PathLike | bytes,
    *,
    max_pixels: int = MAX_PIXELS,
    shorter_side: int | None = None,
) -> tuple[Image.Image, str | None]:
    """Decodes an image, a path or bytes, to 8-bit RGB, upright, first frame, on white,
    by the rule of `align_keras.images.decode`, SVG in its size by the extra `svg`.

    Images of more than `max_pixels` are refused from their header. JPEGs are decoded at
    a half, a quarter or an eighth of their size, the smallest not below `shorter_side`.
    Returns the image and what was done to it, such as `"cmyk, rotated"`, or None.
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
        # PIL reads color PNGs of 16 bits as 8-bit modes; the raw mode of the file's
        # tiles, gone after loading, tells.
        tiles = getattr(image, "tile", ())
        sixteen_bit = any(";16" in str(tile[3]) for tile in tiles)
        if shorter_side is not None and image.format == "JPEG":
            scale = shorter_side / min(image.size)
            if scale <= 1 / 2:  # Neither side becomes smaller than `shorter_side`.
                width, height = image.size
                reduced = (math.ceil(width * scale), math.ceil(height * scale))
                image.draft(None, reduced)
        turn = _TURNS.get(_orientation(image, content))
        image.load()
        image = _with_embedded_colors(image, content)
        upright = image if turn is None else image.transpose(turn)
        if upright is not image:
            steps.append("rotated")
        rgb, kind = to_rgb(upright)
        if image.format == "GIF":
            rgb = _on_white_canvas(rgb, image.dispose_extent)
    except ImageError:
        raise
    except Exception as error:  # Decoders raise whatever a broken file leads to.
        reason = "truncated" if "truncated" in str(error) else "unreadable"
        raise ImageError(reason, _one_line(error)) from error
    for name in _METADATA:  # Whoever looks at it next would turn it again.
        rgb.info.pop(name, None)
    if sixteen_bit and kind != "16-bit":
        steps.append("16-bit")
    if kind:
        steps.append(kind)
    return rgb, ", ".join(steps) or None


def image_size(source: str | os.PathLike | bytes) -> tuple[int, int]:
    """Returns (width, height) as stored, from an image's header."""
    content = _read(source)
    drawing = _read_svg(content)
    return open_image(content).size if drawing is None else drawing.size


@functools.cache
def opencv() -> types.ModuleType:
    """Returns the module cv2, set to one thread: workers take all cores."""
    with needs("corpus", "images of a corpus are reduced by OpenCV"):
        import cv2
    cv2.setNumThreads(1)
    return cv2


def check_jpeg_size(width: int, height: int) -> None:
    """Raises `ImageError` beyond libjpeg's limit of pixels a side."""
    if max(width, height) > _JPEG_SIDE:
        size = f"stored, {width} × {height} pixels"
        raise ImageError("oversized", f"{size} are more than {_JPEG_SIDE:,} a side")


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
    """Returns the `SvgDrawing`, or None of anything else."""
    drawing = read_svg(content)
    if drawing is not None and not has_renderer():
        raise ImageError(
            NO_RENDERER, 'run `pip install "align-keras[svg]"` to have it rendered'
        )
    return drawing


def open_image(content: bytes) -> Any:
    """Opens an image of a known format, of any size, before its pixels are decoded."""
    with _OPEN_LOCK:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = Image.open(io.BytesIO(content), formats=IMAGE_FORMATS)
        except Image.UnidentifiedImageError:
            if _claims_no_pixels(content):
                raise ImageError("zero size", "no width or no height") from None
            raise ImageError("unreadable", "no known image format") from None
        except Exception as error:
            raise ImageError("unreadable", _one_line(error)) from error
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    if image.format == "BMP":
        _check_bitmap(content)
    return image


def _check_bitmap(content: bytes) -> None:
    # Header's size, planes, bits and compression.
    header, planes, bits, compression = struct.unpack_from("<I8xHHI", content, 14)
    if header < 40 or planes != 1 or compression or bits not in (1, 4, 8, 24, 32):
        raise ImageError("unreadable", "a BMP of another kind, or compressed")


def _claims_no_pixels(content: bytes) -> bool:
    # PIL recognizes no format in an image of zero size.
    if content.startswith(b"\x89PNG") and len(content) >= 24:
        return 0 in struct.unpack_from(">II", content, 16)
    if content.startswith(b"GIF8") and len(content) >= 10:
        return 0 in struct.unpack_from("<HH", content, 6)
    return False


def _with_embedded_colors(image: Any, content: bytes) -> Any:
    """Corrects what Pillow takes from a header otherwise than other decoders.

    Pillow inverts every CMYK JPEG, but only Adobe's programs store inverted ink. It
    compares the clear level of a gray PNG of less than 8 bits with levels of 8 bits.
    """
    if image.format == "JPEG" and image.mode == "CMYK" and "adobe" not in image.info:
        return ImageChops.invert(image)
    clear = image.info.get("transparency")
    if image.format == "PNG" and image.mode == "L" and isinstance(clear, int):
        largest = 2 ** min(content[24], 8) - 1
        # Further bits of the stored number mean nothing.
        image.info["transparency"] = (clear & largest) * (255 // largest)
    return image


def _is_animated(image: Any) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # A later frame is broken; the first may still be good.
        return True


def _orientation(image: Any, content: bytes) -> int:
    """The EXIF orientation, or 1; Pillow would take it from XMP and others too."""
    mark = {"JPEG": b"Exif\0\0", "PNG": b"eXIf"}.get(image.format, b"")
    if mark not in content[:_EXIF_WITHIN]:
        return 1
    exif = image.info.get("exif", b"").removeprefix(b"Exif\0\0")
    order = ">" if exif.startswith(b"MM") else "<"
    with contextlib.suppress(struct.error):  # It ends before.
        (start,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            if struct.unpack_from(f"{order}HHI", exif, entry) == (0x0112, 3, 1):
                return struct.unpack_from(f"{order}H2x", exif, entry + 8)[0]
    return 1


def _on_white_canvas(rgb: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    """Makes white what a GIF's first frame leaves free, in place of its first color."""
    if box == (0, 0, *rgb.size):
        return rgb
    white = Image.new("RGB", rgb.size, WHITE)
    white.paste(rgb.crop(box), box)
    return white


def to_rgb(image: Any) -> tuple[Any, str | None]:
    """Lays an image on white, in 8-bit RGB; returns it and what was done, or None."""
    mode = image.mode
    if mode == "I" or mode.startswith("I;"):
        return _scaled_to_eight_bits(image), "16-bit"
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        clear = rgba.getextrema()[3][0] < 255
        white = Image.new("RGB", rgba.size, WHITE)
        white.paste(rgba, mask=rgba.getchannel("A"))
        if mode in ("P", "PA"):
            return white, "palette with transparency" if clear else "palette"
        if clear:
            return white, "transparency"
        return white, "grayscale" if mode in ("L", "LA", "La", "1") else None
    kinds = {"1": "grayscale", "L": "grayscale", "P": "palette", "CMYK": "cmyk"}
    kind = None if mode == "RGB" else kinds.get(mode, mode.lower())
    return image if mode == "RGB" else image.convert("RGB"), kind


def _scaled_to_eight_bits(image: Any) -> Image.Image:
    values = np.asarray(image)
    scaled = (values >> 8).astype(np.uint8)
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        scaled[values == clear] = 255
    return Image.fromarray(scaled).convert("RGB")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
