"""Decoding of the images of a corpus to 8-bit RGB on white, SVG drawings included."""

import errno
import functools
import os
import types

from PIL import Image

from align_keras.corpus.drop_counter import NO_RENDERER
from align_keras.corpus.svg_drawing import SvgDrawing, has_renderer, read_svg
from align_keras.utils.errors import needs
from align_keras.utils.files import MAX_PIXELS, read_regular
from align_keras.utils.pillow_images import (
    ImageError,
    decode_rgb,
    one_line,
    open_image,
)

# Pixels. Largest width and height of a JPEG that libjpeg writes.
_MAX_JPEG_SIDE = 65_500


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
    image = open_image(content) if drawing is None else drawing.render()
    rgb, steps = decode_rgb(
        image, content, max_pixels=max_pixels, shorter_side=shorter_side
    )
    if drawing is not None:
        steps.insert(0, "svg")
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
            raise ImageError(reason, one_line(error)) from error
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
