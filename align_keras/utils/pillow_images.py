"""Decoding of image files by Pillow, for all packages that read images in Python.

The graph of `align_keras.images.decode` decodes some of the formats. Pillow decodes all
of them, by the same rules.
"""

import contextlib
import errno
import io
import math
import os
import struct
import threading
import warnings
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from align_keras.utils.errors import ImageError
from align_keras.utils.files import MAX_PIXELS, read_regular
from align_keras.utils.rgb_colors import (
    correct_colors,
    fill_gif_background,
    scale_samples,
    to_rgb,
)
from align_keras.utils.svg_drawing import (
    NO_RENDERER,
    SvgDrawing,
    has_renderer,
    read_svg,
)

# The errors of damaged TIFF files are reported, so that no warning is needed.
warnings.filterwarnings("ignore", module=r"PIL\.TiffImagePlugin")

# Suffixes of all formats that are read.
IMAGE_SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".png",
    ".webp",
    ".gif",
    ".bmp",
    ".jpe",
    ".jfif",
    ".heic",
    ".heif",
    ".avif",
    ".tif",
    ".tiff",
    ".jp2",
    ".j2k",
    ".j2c",
    ".jpc",
    ".jpx",
    ".jpf",
    ".pbm",
    ".pgm",
    ".ppm",
    ".pnm",
)

# First bytes of the formats that the graph decodes: JPEG, PNG and WebP.
GRAPH_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF")
_COMMON_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
# Brands of ISO base media files with a still image. The brand mif1 has either format.
_HEIF_FORMATS = ("AVIF", "HEIF")
_AVIF_BRANDS = (b"avif", b"avis")
_HEIF_BRANDS = (b"heic", b"heix", b"heif", b"hevc", b"mif1", b"msf1", *_AVIF_BRANDS)
# Reason for leaving out a HEIC image if the extra `heic` is not installed.
NO_HEIC = "HEIC, which needs pillow-heif"
_SCAN_FORMATS = ("TIFF", "JPEG2000", "PPM")
_SCAN_SIGNATURES = (
    b"II*\0",
    b"MM\0*",
    b"II+\0",
    b"MM\0+",
    b"\xff\x4f\xff\x51",
    b"\0\0\0\x0cjP  \r\n\x87\n",
    b"P1",
    b"P2",
    b"P3",
    b"P4",
    b"P5",
    b"P6",
)
# TIFF tags.
_TILE_SIZES = (322, 323)
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
# holds this lock while it disables the limit. `decode_rgb` compares the size in
# the header with `max_pixels` instead.
_OPEN_LOCK = threading.Lock()


def decode_rgb(
    source: str | os.PathLike | bytes,
    *,
    max_pixels: int = MAX_PIXELS,
    shorter_side: int | None = None,
) -> tuple[Image.Image, str | None]:
    """Decodes an image file to 8-bit RGB, upright and on white.

    The result is the first frame of an animation. SVG drawings are rendered at their
    own size, which needs the extra `svg`.

    Args:
        source: path of an image file, or its bytes.
        max_pixels: largest allowed number of pixels in the header.
        shorter_side: a JPEG is decoded at the smallest of 1/1, 1/2, 1/4 and 1/8 of its
            size at which its shorter side has at least this many pixels.

    Returns:
        The image and the conversions that were necessary, such as `"cmyk, rotated"`, or
        None without conversions.

    Raises:
        ImageError: if the image cannot be decoded or is too large.
    """
    content = _read(source)
    drawing = _read_drawing(content)
    image = open_image(content) if drawing is None else drawing.render()
    rgb, steps = _decode_pixels(image, content, max_pixels, shorter_side)
    if drawing is not None:
        steps.insert(0, "svg")
    return rgb, ", ".join(steps) or None


def image_size(source: str | os.PathLike | bytes) -> tuple[int, int]:
    """Reads the width and height of an image from its header.

    Args:
        source: path of an image file, or its bytes.

    Returns:
        (width, height) in pixels, before the EXIF orientation is applied.

    Raises:
        ImageError: if the image cannot be read.
    """
    content = _read(source)
    drawing = _read_drawing(content)
    return open_image(content).size if drawing is None else drawing.size


def open_image(content: bytes) -> Any:
    """Opens an image with Pillow without decoding its pixels.

    The number of pixels is not limited.

    Raises:
        ImageError: if the format is unknown or needs an extra, or the header cannot be
            read.
    """
    formats = _formats(content)
    with _OPEN_LOCK:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = Image.open(io.BytesIO(content), formats=formats)
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
    if image.format == "TIFF":
        _check_tile(image)
    return image


def graph_image(content: bytes) -> bytes:
    """Converts an image to PNG unless the graph decodes its format.

    The bytes of an image that Pillow cannot decode are returned unchanged. The graph
    raises an error for them.
    """
    if content.startswith(GRAPH_SIGNATURES):
        return content
    try:
        image, _ = _decode_pixels(open_image(content), content)
    except ImageError:
        return content
    file = io.BytesIO()
    image.save(file, "png", compress_level=0)
    return file.getvalue()


def rgb_pixels(image: Any) -> np.ndarray:
    """Returns an array, or the uint8 pixels (height, width, 3) of a `PIL.Image.Image`.

    The pixels are upright and on white.
    """
    if not isinstance(image, Image.Image):
        return np.asarray(image)
    return np.asarray(to_rgb(ImageOps.exif_transpose(image))[0])


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


def _read_drawing(content: bytes) -> SvgDrawing | None:
    """Returns the `SvgDrawing`, or None if the file is not an SVG drawing."""
    drawing = read_svg(content)
    if drawing is not None and not has_renderer():
        raise ImageError(
            NO_RENDERER, 'run `pip install "align-keras[svg]"` to render it'
        )
    return drawing


def _formats(content: bytes) -> tuple[str, ...]:
    """Returns the names in Pillow of the formats that a file may have."""
    if content[4:8] == b"ftyp" and content[8:12] in _HEIF_BRANDS:
        _register_heif(content[8:12])
        return _HEIF_FORMATS
    return _SCAN_FORMATS if content.startswith(_SCAN_SIGNATURES) else _COMMON_FORMATS


def _register_heif(brand: bytes) -> None:
    """Makes Pillow read HEIC. Pillow itself reads AVIF."""
    try:
        # This import takes memory for libheif, which few images need.
        import pillow_heif
    except ModuleNotFoundError:
        if brand in _AVIF_BRANDS:
            return
        detail = 'run `pip install "align-keras[heic]"` to read it'
        raise ImageError(NO_HEIC, detail) from None
    pillow_heif.register_heif_opener()


def _check_tile(image: Any) -> None:
    # The memory for a tile does not depend on the size of the image.
    try:
        tile = math.prod(int(image.tag_v2.get(tag, 0)) for tag in _TILE_SIZES)
    except Exception as error:  # Damaged tags have values of any type.
        raise ImageError("unreadable", f"damaged tags ({error})") from None
    if tile > MAX_PIXELS:
        detail = f"a tile of {tile:,} pixels is larger than {MAX_PIXELS:,}"
        raise ImageError("oversized", detail)


def _check_bitmap(content: bytes) -> None:
    # A bitmap with the header of OS/2 can have fewer bytes than these fields.
    header = content[14:_MIN_BITMAP_BYTES].ljust(_MIN_BITMAP_BYTES - 14, b"\0")
    header_size, planes, bits, compression = struct.unpack("<I8xHHI", header)
    if header_size < 40 or planes != 1 or compression or bits not in (1, 4, 8, 24, 32):
        raise ImageError("unreadable", "a compressed or unusual BMP")


def _has_zero_size(content: bytes) -> bool:
    """Returns True for the header of a PNG or GIF with a width or height of 0."""
    # Pillow does not recognize the format of such an image.
    if content.startswith(b"\x89PNG") and len(content) >= 24:
        return 0 in struct.unpack_from(">II", content, 16)
    if content.startswith(b"GIF8") and len(content) >= 10:
        return 0 in struct.unpack_from("<HH", content, 6)
    return False


def _decode_pixels(
    image: Any,
    content: bytes,
    max_pixels: int = MAX_PIXELS,
    shorter_side: int | None = None,
) -> tuple[Image.Image, list[str]]:
    """Decodes an opened image, and returns it with the necessary conversions."""
    try:
        if math.prod(image.size) > max_pixels:
            size = "{:,} × {:,} pixels".format(*image.size)
            raise ImageError("oversized", f"{size} are more than {max_pixels:,}")
        steps = ["animated"] if _is_animated(image) else []
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
        # Pillow rotates TIFF files and pillow-heif rotates HEIC files here.
        image.load()
        image = scale_samples(correct_colors(image, content))
        upright = image if operation is None else image.transpose(operation)
        if upright is not image:
            steps.append("rotated")
        rgb, kind = to_rgb(upright)
        if image.format == "GIF":
            rgb = fill_gif_background(rgb, image.dispose_extent)
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
    return rgb, steps


def _is_animated(image: Any) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:
        # A later frame is damaged. The first frame may still be readable.
        return True


def _read_orientation(image: Any, content: bytes) -> int:
    """Returns the orientation in the EXIF metadata, or 1 without an orientation."""
    # Pillow's own function would also use the orientation in XMP and other metadata.
    marker = {"JPEG": b"Exif\0\0", "PNG": b"eXIf"}.get(image.format, b"")
    if marker not in content[:_MAX_EXIF_POSITION]:
        return 1
    exif = (image.info.get("exif") or b"").removeprefix(b"Exif\0\0")
    byte_order = ">" if exif.startswith(b"MM") else "<"
    with contextlib.suppress(struct.error):  # The metadata is truncated.
        (start,) = struct.unpack_from(f"{byte_order}I", exif, 4)
        (count,) = struct.unpack_from(f"{byte_order}H", exif, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            # Tag "orientation", type SHORT, one value.
            if struct.unpack_from(f"{byte_order}HHI", exif, entry) == (0x0112, 3, 1):
                return struct.unpack_from(f"{byte_order}H2x", exif, entry + 8)[0]
    return 1


def _one_line(error: BaseException) -> str:
    """Returns the message of an error, or its type if the message is empty."""
    return " ".join(str(error).split()) or type(error).__name__
