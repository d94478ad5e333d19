"""The templates of the HTML pages, with the filters and small images in them."""

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

from align_keras.corpus.image import to_rgb
from align_keras.utils.files import atomic_write

# A broken image must not cost the report of a whole run: it gets this one.
_BROKEN = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' "
    "viewBox='0 0 10 10'%3E%3Cpath d='M2 2l6 6m0-6l-6 6' stroke='%23999'/%3E%3C/svg%3E"
)
# The style sheet's letters, and about how wide they are: the text is cut to fit.
_FONT_SIZE = 12.5
_NARROW, _WIDE = set("fijlrtI.,:;!'|()[]/- "), set("mwMW%@&<>+=~_")


def page_template(name: str) -> jinja2.Template:
    """Opens a template of this folder; everything that it prints is escaped."""
    return _environment().get_template(name)


def write_page(path: str | os.PathLike, name: str, **values: Any) -> None:
    """Writes what a template makes of values."""
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
        number=_number,
        percent=percent,
        px="{:.1f}".format,
        shortened=shortened,
        thumbnail=thumbnail_uri,
        times=_times,
    )
    return environment


def _number(value: Any) -> Any:
    """A number as people write it; other values as they are."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    if not math.isfinite(value):
        return str(value)
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:.4g}"


def percent(value: float | None, digits: int = 1) -> str:
    """A share in percent; a dash where there is none."""
    if value is None or math.isnan(value):
        return "–"
    return f"{100 * value:.{digits}f} %"


def _times(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}×" if value >= 10 else f"{value:.1f}×"


def text_width(text: str) -> float:
    """About how many pixels a text takes in a chart, rather too many."""
    ems = 0.0
    for letter in text:
        if letter in _NARROW:
            ems += 0.42
        elif unicodedata.east_asian_width(letter) in "WF":
            ems += 1.05
        else:
            ems += 0.88 if letter in _WIDE else 0.72 if letter.isupper() else 0.64
    return _FONT_SIZE * ems


def shortened(text: str, width: float) -> str:
    """The text, or as much of it as fits `width` pixels, with an ellipsis."""
    text = " ".join(text.split())
    if text_width(text) <= width:
        return text
    while text and text_width(text) > width - _FONT_SIZE:
        text = text[:-1]
    return text.rstrip() + "…"


def _opened(image: Any) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, bytes):
        image = io.BytesIO(image)
    elif not isinstance(image, (str, os.PathLike)):
        array = np.asarray(image)
        if array.ndim == 3 and array.shape[-1] == 1:
            array = array[..., 0]
        if array.dtype != np.uint8 or array.ndim not in (2, 3) or not array.size:
            raise ValueError(f"dtype {array.dtype}, shape {array.shape}")
        return Image.fromarray(array)
    return Image.open(image)


def _as_rgb(image: Image.Image, max_side: int) -> Image.Image:
    """A small upright image, transparency laid on white."""
    # Lets a large JPEG be decoded at a fraction of its size.
    image.draft("RGB", (2 * max_side, 2 * max_side))
    image, _ = to_rgb(ImageOps.exif_transpose(image))
    image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    return image


def thumbnail_uri(
    image: np.ndarray | bytes | str | os.PathLike | Image.Image, max_side: int = 160
) -> str:
    """Encodes a uint8 array, a file's bytes or path, or a `PIL.Image.Image` small, for
    `data:`; what can't be read becomes a gray cross.
    """
    try:
        small = _as_rgb(_opened(image), max_side)
    except (OSError, ValueError, TypeError, Image.DecompressionBombError):
        return _BROKEN
    encoded = {}
    for name, options in (("png", {"optimize": True}), ("jpeg", {"quality": 85})):
        buffer = io.BytesIO()
        small.save(buffer, name, **options)
        encoded[name] = buffer.getvalue()
    name = min(encoded, key=lambda kind: len(encoded[kind]))
    return f"data:image/{name};base64,{base64.b64encode(encoded[name]).decode()}"
