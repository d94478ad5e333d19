"""Templates of the HTML pages, their filters, and thumbnails as data URIs."""

import base64
import functools
import io
import math
import os
import pathlib
import unicodedata
from typing import Any

import jinja2
import numpy as np
from PIL import Image, ImageOps

from align_keras.utils.files import atomic_write
from align_keras.utils.pillow_images import decode_rgb
from align_keras.utils.rgb_colors import to_rgb

# Gray cross that replaces a damaged image. One damaged image must not prevent a report.
_BROKEN_IMAGE = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' "
    "viewBox='0 0 10 10'%3E%3Cpath d='M2 2l6 6m0-6l-6 6' stroke='%23999'/%3E%3C/svg%3E"
)
# Font size of charts in report.css, in pixels.
_FONT_SIZE = 12.5
# Letters that are narrower or wider than the average, for `text_width`.
_NARROW_LETTERS = set("fijlrtI.,:;!'|()[]/- ")
_WIDE_LETTERS = set("mwMW%@&<>+=~_")


def page_template(name: str) -> jinja2.Template:
    """Returns a template of this folder. The template escapes all values as HTML."""
    return _environment().get_template(name)


def write_page(path: str | os.PathLike, name: str, **values: Any) -> None:
    """Renders a template and writes the page.

    Args:
        path: file to write.
        name: file name of the template.
        **values: variables of the template.
    """
    html = page_template(name).render(values)
    with atomic_write(path) as file:
        file.write(html)


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=_format_number,
        percent=percent,
        px="{:.1f}".format,
        shortened=shortened,
        thumbnail=thumbnail_uri,
        times=_format_factor,
    )
    return environment


def _format_number(value: Any) -> Any:
    """Returns a number with thousands separators, and any other value unchanged."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    if not math.isfinite(value):
        return str(value)
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:.4g}"


def percent(value: float | None, digits: int = 1) -> str:
    """Returns a fraction in percent, or a dash for None and NaN."""
    if value is None or math.isnan(value):
        return "–"
    return f"{100 * value:.{digits}f} %"


def _format_factor(value: float | None) -> str:
    """Returns a factor such as "2.5×", or a dash for None."""
    if value is None:
        return "–"
    return f"{value:,.0f}×" if value >= 10 else f"{value:.1f}×"


def text_width(text: str) -> float:
    """Returns an upper estimate of the width of a text in a chart, in pixels."""
    ems = 0.0
    for letter in text:
        if letter in _NARROW_LETTERS:
            ems += 0.42
        elif unicodedata.east_asian_width(letter) in "WF":
            ems += 1.05
        elif letter in _WIDE_LETTERS:
            ems += 0.88
        elif letter.isupper():
            ems += 0.72
        else:
            ems += 0.64
    return _FONT_SIZE * ems


def shortened(text: str, width: float) -> str:
    """Returns a text that fits into `width` pixels, with an ellipsis if it was cut."""
    text = " ".join(text.split())
    if text_width(text) <= width:
        return text
    while text and text_width(text) > width - _FONT_SIZE:
        text = text[:-1]
    return text.rstrip() + "…"


def _rgb_image(image: Any, max_side: int) -> Image.Image:
    """Returns the image of an array, of the content of a file, or of a path."""
    if isinstance(image, bytes | str | os.PathLike):
        return decode_rgb(image, shorter_side=2 * max_side)[0]
    if not isinstance(image, Image.Image):
        array = np.asarray(image)
        if array.ndim == 3 and array.shape[-1] == 1:
            array = array[..., 0]
        image = Image.fromarray(array)
    return to_rgb(ImageOps.exif_transpose(image))[0]


def thumbnail_uri(
    image: np.ndarray | bytes | str | os.PathLike | Image.Image, max_side: int = 160
) -> str:
    """Returns a thumbnail as a data URI, in the smaller one of PNG and JPEG.

    Args:
        image: uint8 array (height, width) or (height, width, channels), content or path
            of an image file, or `PIL.Image.Image`.
        max_side: maximum width and height in pixels.

    Returns:
        The URI of the thumbnail, or of a gray cross if the image cannot be read.
    """
    try:
        thumbnail = _rgb_image(image, max_side)
        thumbnail.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    # A damaged file can raise any error in a decoder, such as SyntaxError for EXIF
    # metadata. One image must not prevent the whole page.
    except Exception:
        return _BROKEN_IMAGE
    encoded = {}
    for name, options in (("png", {"optimize": True}), ("jpeg", {"quality": 85})):
        buffer = io.BytesIO()
        thumbnail.save(buffer, name, **options)
        encoded[name] = buffer.getvalue()
    name = min(encoded, key=lambda file_format: len(encoded[file_format]))
    return f"data:image/{name};base64,{base64.b64encode(encoded[name]).decode()}"
