"""Conversion of decoded images to 8-bit RGB on white."""

from typing import Any

import numpy as np
from PIL import Image, ImageChops

from align_keras.utils.errors import ImageError

WHITE = (255, 255, 255)
# TIFF tags.
_BITS_PER_SAMPLE = 258
_PHOTOMETRIC = 262
_WHITE_IS_ZERO = 0


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
        rgba = image if mode == "RGBA" else image.convert("RGBA")
        lowest_alpha, _ = rgba.getchannel("A").getextrema()
        is_transparent = lowest_alpha < 255
        if is_transparent:
            white = Image.new("RGB", rgba.size, WHITE)
            white.paste(rgba, mask=rgba)
        else:
            white = rgba.convert("RGB")
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


def correct_colors(image: Any, content: bytes) -> Any:
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


def scale_samples(image: Any) -> Image.Image:
    """Scales the gray levels of a TIFF file to 16 bits, where 0 is black."""
    if image.format != "TIFF":
        return image
    if image.mode in ("F", "I"):
        detail = "samples of 32 bits, which have no level for white"
        raise ImageError("unreadable", detail)
    if not image.mode.startswith("I;16"):
        return image
    bits = image.tag_v2[_BITS_PER_SAMPLE][0]
    values = np.asarray(image).astype(np.uint16) << (16 - bits)
    if image.tag_v2[_PHOTOMETRIC] == _WHITE_IS_ZERO:
        values = np.uint16(2**16 - 1) - values
    return Image.fromarray(values)


def fill_gif_background(
    rgb: Image.Image, box: tuple[int, int, int, int]
) -> Image.Image:
    """Makes a GIF white outside of its first frame.

    Pillow fills that area with the first color of the palette.

    Args:
        rgb: the whole GIF.
        box: (left, top, right, bottom), area of the first frame.
    """
    if box == (0, 0, *rgb.size):
        return rgb
    white = Image.new("RGB", rgb.size, WHITE)
    white.paste(rgb.crop(box), box)
    return white
