"""Icon sets of Iconify, rendered by resvg.

The sets are in the npm packages @iconify-json/NAME. Each has a license of its own.
"""

import dataclasses
import pathlib
import re
from collections.abc import Iterator
from typing import Any
from xml.sax.saxutils import quoteattr

import resvg_py

from align_keras.corpus.drop_counter import DropCounter
from align_keras.utils.errors import ImageError
from align_keras.utils.pillow_images import decode_rgb
from align_keras.utils.svg_drawing import read_svg
from tools.drawings.drawing import Drawing, read_package_file

# Pixels. Longer side of a rendered icon.
SIZE = 256


@dataclasses.dataclass(frozen=True)
class IconStyles:
    """Words at the end of the names of a set that describe the style of the drawing.

    Attributes:
        removed: words that are removed from the captions.
        left_out: words of variants. Icons whose names end with one of them are left
            out, because the set has the same object in another style.
        has_skin_tones: whether the names may end with a skin tone. This is True for all
            sets of the category "Emoji".
    """

    removed: frozenset[str] = frozenset()
    left_out: frozenset[str] = frozenset()
    has_skin_tones: bool = False


STYLES_OF_SETS = {
    "boxicons": IconStyles(frozenset({"filled", "alt"})),
    "carbon": IconStyles(frozenset({"alt", "filled", "outline", "reference", "solid"})),
    "fluent-emoji": IconStyles(has_skin_tones=True),
    "icon-park-solid": IconStyles(frozenset({"one", "two", "three", "four", "five"})),
    "mdi": IconStyles(frozenset({"variant"}), frozenset({"outline"})),
    "meteocons": IconStyles(frozenset({"fill"})),
    "mingcute": IconStyles(frozenset({"fill"}), frozenset({"line"})),
    "ph": IconStyles(
        frozenset({"fill", "duotone"}), frozenset({"bold", "light", "thin"})
    ),
    "pinhead": IconStyles(left_out=frozenset({"outline"})),
    "streamline-color": IconStyles(frozenset({"flat"})),
    "streamline-flex-color": IconStyles(frozenset({"flat"})),
    "streamline-kameleon-color": IconStyles(frozenset({"duo"})),
    "streamline-plump-color": IconStyles(frozenset({"flat"})),
    "streamline-sharp-color": IconStyles(frozenset({"flat"})),
    "streamline-stickies-color": IconStyles(frozenset({"duo"})),
    "tabler": IconStyles(frozenset({"filled"})),
}
# Category of a set in `info.json` whose names may end with a skin tone.
_EMOJI = "Emoji"
_SKIN_TONE = re.compile(
    r"skin-tone|-tone\d|-(light|dark|medium|medium-light|medium-dark)$"
)


def icon_set_caption(icon_set: str, name: str) -> str:
    """Returns the caption of an icon: the words of its name without the style.

    A number at the end distinguishes icons of the same name, so it is removed as well.

    Args:
        icon_set: str, name of the icon set, such as `"flat-color-icons"`.
        name: str, name of the icon, such as `"alarm-clock-1"`.
    """
    words = [word for word in name.lower().split("-") if word]
    removed = STYLES_OF_SETS.get(icon_set, IconStyles()).removed
    while len(words) > 1 and (words[-1] in removed or words[-1].isdigit()):
        words.pop()
    return " ".join(words)


def drawings(
    node_modules: pathlib.Path, name: str, counter: DropCounter
) -> Iterator[Drawing]:
    """Yields the icons of a set with captions made of their names.

    Aliases of an icon are further captions. Hidden icons, variations in skin tone,
    icons without letters in their names and the variants of some sets, such as the
    outlines of `mdi`, are left out.
    """
    package = f"@iconify-json/{name}"
    icons = read_package_file(node_modules, package, "icons.json")
    info = read_package_file(node_modules, package, "info.json")
    category = info.get("category") or ""
    styles = STYLES_OF_SETS.get(name, IconStyles())
    has_skin_tones = styles.has_skin_tones or category == _EMOJI
    aliases = _aliases(icons)
    for icon_name, icon in sorted(icons["icons"].items()):
        where = f"{name}/{icon_name}"
        names = (icon_name, *aliases.get(icon_name, ()))
        captions = dict.fromkeys(icon_set_caption(name, word) for word in names)
        usable = tuple(text for text in captions if re.search("[a-z]{2}", text))
        if icon.get("hidden"):
            counter.filter("hidden icon", where)
        elif has_skin_tones and _SKIN_TONE.search(icon_name):
            counter.filter("variation in skin tone", where)
        elif icon_name.rpartition("-")[2] in styles.left_out:
            counter.filter("variant of another icon", where)
        elif not usable:
            counter.filter("no words in its names", where)
        else:
            yield Drawing(icon_name, _svg(icons, icon), usable, category, _load)


def _load(source: bytes) -> Any:
    drawing = read_svg(source)
    if drawing is None:
        raise ImageError("unreadable", "not an SVG drawing")
    try:
        # The icons are small and their nesting is limited, so they are rendered in this
        # process. A process for each icon would take ten times as long.
        content = resvg_py.svg_to_bytes(svg_string=drawing.content.decode())
    except ValueError as error:
        raise ImageError("unreadable", f"SVG: {error}") from None
    image, _ = decode_rgb(bytes(content))
    if image.convert("L").getextrema() == (255, 255):
        raise ImageError("blank icon", "all pixels are white")
    return image


def _aliases(icons: dict[str, Any]) -> dict[str, list[str]]:
    """Returns a dict from the name of an icon to the aliases that look the same."""
    aliases: dict[str, list[str]] = {}
    for alias, entry in (icons.get("aliases") or {}).items():
        # The other entries of an alias rotate or mirror the icon.
        if set(entry) == {"parent"}:
            aliases.setdefault(entry["parent"], []).append(alias)
    return aliases


def _svg(icons: dict[str, Any], icon: dict[str, Any]) -> bytes:
    """Returns the SVG document of an icon."""
    # Iconify's default for a missing width or height.
    sizes = {"left": 0, "top": 0, "width": 16, "height": 16}
    box = {
        key: float(icon.get(key, icons.get(key, value))) for key, value in sizes.items()
    }
    scale = SIZE / max(box["width"], box["height"])
    width, height = (round(scale * box[side]) for side in ("width", "height"))
    view_box = "{left:g} {top:g} {width:g} {height:g}".format(**box)
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" '
        'xmlns:xlink="http://www.w3.org/1999/xlink" color="black" '
        f'viewBox={quoteattr(view_box)} width="{width}" height="{height}">'
        f"{icon['body']}</svg>"
    ).encode()
