"""Glyphs of icon fonts with their names, rendered by Pillow."""

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
from align_keras.corpus.image import ImageError
from align_keras.datasets.pair_builder import ImageLayout, PairBuilder, RawPair
from align_keras.utils.errors import InputError

# Files in qtawesome's font folder, by family; a version is part of their names.
TRAIN_FAMILIES = {
    "materialdesignicons6": "materialdesignicons6-webfont",
    "phosphor": "phosphor",
    "remixicon": "remixicon",
    "codicon": "codicon",
    "elusiveicons": "elusiveicons-webfont",
}
TEST_FAMILIES = {"fontawesome6-solid": "fontawesome6-solid-webfont"}

CANVAS = 80
# The evaluation path keeps the middle 289/346 of a side; a glyph just fits it.
MARGIN = 7
_TRIAL_SIZE = 100
_FONT_LOCK = threading.Lock()

# Words of a name that tell the drawing style of its family, not the thing drawn.
STYLE_WORDS = {
    "materialdesignicons6": frozenset({"outline"}),
    "phosphor": frozenset({"thin", "light", "bold", "fill"}),
    "remixicon": frozenset({"line", "fill"}),
    "codicon": frozenset({"outline"}),
    "elusiveicons": frozenset(),
    "fontawesome6-solid": frozenset(),
}


def icon_caption(family: str, name: str) -> str:
    """Turns a glyph's name into its caption: words, without the drawing style."""
    words = name_words(name)
    # One style word stands at the end ("activity-thin"); elsewhere, as in
    # "light-bulb" or "line-fill", it names the thing.
    is_styled = len(words) > 1 and words[-1] in STYLE_WORDS[family]
    return " ".join(words[:-1] if is_styled else words)


def name_words(name: str) -> list[str]:
    """Returns the words of a glyph's name."""
    return [word for word in name.replace("_", "-").lower().split("-") if word]


class Icons(PairBuilder):
    """Icon fonts of qtawesome: train on five families, test on a sixth, never seen one.
    A glyph is drawn dark on white, fitted into a square of 80 pixels.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}
    LAYOUT = ImageLayout(size=CANVAS, encoding="png")
    FILTERED_REASONS = frozenset({"blank glyph"})
    DESCRIPTION = "Glyphs of six icon fonts with their names as captions."

    def _raw_pairs(self, counter: DropCounter) -> Iterator[RawPair]:
        del counter  # Icons are dropped when they are drawn.
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
    """Draws one character dark on white, fitted and centered; None without ink."""
    room = CANVAS - 2 * MARGIN
    ink = _ink(str(font_path), character, _TRIAL_SIZE)
    if ink is None:
        return None
    # Drawn a second time by the font's own rasteriser at the size that fits:
    # crisper than one large drawing reduced.
    size = max(1, int(_TRIAL_SIZE * room / max(ink.size)))
    ink = _ink(str(font_path), character, size)
    if ink is None:
        return None
    if max(ink.size) > room:  # Hinting may add a pixel.
        ink.thumbnail((room, room), Image.Resampling.LANCZOS)
    glyph = Image.new("L", (CANVAS, CANVAS), 255)
    corner = ((CANVAS - ink.width) // 2, (CANVAS - ink.height) // 2)
    glyph.paste(0, (*corner, corner[0] + ink.width, corner[1] + ink.height), ink)
    return glyph


def _ink(font_path: str, character: str, size: int) -> Image.Image | None:
    with _FONT_LOCK:  # A FreeType face serves one thread at a time.
        font = _font(font_path, size)
        left, top, right, bottom = font.getbbox(character)
        ink = Image.new("L", (int(right - left + 2), int(bottom - top + 2)))
        ImageDraw.Draw(ink).text((1 - left, 1 - top), character, 255, font)
    box = ink.getbbox()
    return ink.crop(box) if box else None


@functools.lru_cache(maxsize=1024)
def _font(font_path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(font_path, size, layout_engine=ImageFont.Layout.BASIC)


def _font_folder() -> pathlib.Path:
    spec = importlib.util.find_spec("qtawesome")
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            "corpus 'icons' needs the fonts of the qtawesome distribution, which "
            'isn\'t installed; run pip install "align-keras[quickstart]"'
        )
    return pathlib.Path(spec.submodule_search_locations[0]) / "fonts"


def read_font_and_charmap(
    folder: pathlib.Path, stem: str
) -> tuple[pathlib.Path, dict[str, str]]:
    """Returns the newest font of a family, and its code points by names of glyphs."""
    fonts = sorted(folder.glob(f"{stem}-[0-9]*.ttf"))
    charmaps = sorted(folder.glob(f"{stem}-charmap-*.json"))
    if not fonts or not charmaps:
        raise InputError(
            f"corpus 'icons' found no font {stem}-VERSION.ttf with its charmap "
            "among qtawesome's fonts; run pip install --upgrade "
            '"align-keras[quickstart]"'
        )
    return fonts[-1], json.loads(charmaps[-1].read_text("utf-8"))
