"""TFDS builder for the glyphs of icon fonts, rendered by Pillow."""

import functools
import importlib.util
import json
import os
import pathlib
import threading
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds
from PIL import Image, ImageDraw, ImageFont

from align_keras.corpus.drop_counter import DropCounter
from align_keras.datasets.image_layout import ImageLayout
from align_keras.datasets.pair_builder import PairBuilder, RawPair
from align_keras.utils.errors import ImageError, MissingExtraError

# Names of the files in the font folder of qtawesome, by family and without the version.
TRAIN_FAMILIES = {
    "materialdesignicons6": "materialdesignicons6-webfont",
    "phosphor": "phosphor",
    "remixicon": "remixicon",
    "codicon": "codicon",
    "elusiveicons": "elusiveicons-webfont",
}
TEST_FAMILIES = {"fontawesome6-solid": "fontawesome6-solid-webfont"}

# Pixels. Side of an image.
CANVAS = 80
# Pixels. Evaluation crops the middle 289/346 of a side. A glyph just fits into the
# crop.
MARGIN = 7
# Font size at which a glyph is measured.
_TRIAL_SIZE = 100
_FONT_LOCK = threading.Lock()

# Words in names that describe the drawing style of a family, not the object.
STYLE_WORDS = {
    "materialdesignicons6": frozenset({"outline"}),
    "phosphor": frozenset({"thin", "light", "bold", "fill"}),
    "remixicon": frozenset({"line", "fill"}),
    "codicon": frozenset({"outline"}),
    "elusiveicons": frozenset(),
    "fontawesome6-solid": frozenset(),
}


def icon_caption(family: str, name: str) -> str:
    """Returns the caption of a glyph: the words of its name without the style."""
    words = name_words(name)
    # A style word is at the end, as in "activity-thin". In another position, as in
    # "light-bulb" or "line-fill", it belongs to the object.
    is_styled = len(words) > 1 and words[-1] in STYLE_WORDS[family]
    return " ".join(words[:-1] if is_styled else words)


def name_words(name: str) -> list[str]:
    """Returns the words of a glyph's name."""
    return [word for word in name.replace("_", "-").lower().split("-") if word]


class Icons(PairBuilder):
    """Glyphs of the icon fonts of qtawesome with their names as captions.

    Five families form the `train` split. A sixth family is the `test` split. A glyph is
    drawn dark on white, fitted into a square of 80 pixels.

    Example:

    >>> print(Icons().info.description)
    Glyphs of six icon fonts with their names as captions.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}
    LAYOUT = ImageLayout(size=CANVAS, encoding="png")
    FILTERED_REASONS = frozenset({"blank glyph"})
    DESCRIPTION = "Glyphs of six icon fonts with their names as captions."

    def _raw_pairs(self, counter: DropCounter) -> Iterator[RawPair]:
        del counter  # `_load` drops blank glyphs.
        folder = _font_folder()
        for split, families in (("train", TRAIN_FAMILIES), ("test", TEST_FAMILIES)):
            for family, stem in families.items():
                font_path, charmap = read_font_and_charmap(folder, stem)
                for name, code_point in sorted(charmap.items()):
                    where = f"{family}/{name}"
                    glyph = (font_path, chr(int(code_point, 16)))
                    captions = (icon_caption(family, name),)
                    yield RawPair(where, glyph, captions, family, split, where)

    def _load(self, source: Any) -> tuple[Image.Image, str | None]:
        image = draw_glyph(*source)
        if image is None:
            raise ImageError("blank glyph", "no ink")
        return image, None


def draw_glyph(font_path: str | os.PathLike, character: str) -> Image.Image | None:
    """Draws a character dark on white, fitted and centered.

    Returns:
        Grayscale image with sides of `CANVAS` pixels, or None for a blank character.
    """
    largest_side = CANVAS - 2 * MARGIN
    ink = _ink(str(font_path), character, _TRIAL_SIZE)
    if ink is None:
        return None
    # Rendering again at the final size is sharper than resizing a large rendering.
    size = max(1, int(_TRIAL_SIZE * largest_side / max(ink.size)))
    ink = _ink(str(font_path), character, size)
    if ink is None:
        return None
    if max(ink.size) > largest_side:  # Hinting may add a pixel.
        ink.thumbnail((largest_side, largest_side), Image.Resampling.LANCZOS)
    glyph = Image.new("L", (CANVAS, CANVAS), 255)
    corner = ((CANVAS - ink.width) // 2, (CANVAS - ink.height) // 2)
    glyph.paste(0, (*corner, corner[0] + ink.width, corner[1] + ink.height), ink)
    return glyph


def _ink(font_path: str, character: str, size: int) -> Image.Image | None:
    """Renders a character white on black and crops it. Returns None if it is blank."""
    with _FONT_LOCK:  # A FreeType face is not thread-safe.
        font = _font(font_path, size)
        x_min, y_min, x_max, y_max = font.getbbox(character)
        ink = Image.new("L", (int(x_max - x_min + 2), int(y_max - y_min + 2)))
        ImageDraw.Draw(ink).text((1 - x_min, 1 - y_min), character, 255, font)
    box = ink.getbbox()
    return ink.crop(box) if box else None


@functools.lru_cache(maxsize=1024)
def _font(font_path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(font_path, size, layout_engine=ImageFont.Layout.BASIC)


def _font_folder() -> pathlib.Path:
    spec = importlib.util.find_spec("qtawesome")
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError(
            "Corpus 'icons' needs the fonts of the package qtawesome", "quickstart"
        )
    return pathlib.Path(spec.submodule_search_locations[0]) / "fonts"


def read_font_and_charmap(
    folder: pathlib.Path, stem: str
) -> tuple[pathlib.Path, dict[str, str]]:
    """Returns the newest font of a family and its charmap.

    Args:
        folder: font folder of qtawesome.
        stem: name of the font's file without its version.

    Returns:
        `(path, charmap)`: the font, and a dict from the name of a glyph to its code
        point in hexadecimal digits.
    """
    fonts = sorted(folder.glob(f"{stem}-[0-9]*.ttf"))
    charmaps = sorted(folder.glob(f"{stem}-charmap-*.json"))
    return fonts[-1], json.loads(charmaps[-1].read_text("utf-8"))
