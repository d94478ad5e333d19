"""TFDS builder for the icon sets of Iconify, rendered by resvg."""

import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any
from xml.sax.saxutils import quoteattr

import tensorflow_datasets as tfds
from PIL import Image

from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.image import normalize_image
from align_keras.corpus.svg_drawing import has_renderer, read_svg
from align_keras.datasets.emoji import node_modules
from align_keras.datasets.pair_builder import ImageLayout, PairBuilder, RawPair
from align_keras.utils.errors import InputError, MissingExtraError
from align_keras.utils.pillow_images import ImageError

ICONIFY_DIR_VARIABLE = "ALIGN_KERAS_ICONIFY_DIR"
_SCOPE = "@iconify-json"
# Pixels. Longer side of a rendered icon.
_SIDE = 256
_SET_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


@dataclasses.dataclass(frozen=True)
class IconStyles:
    """Words at the end of the names of a set that describe the style of the drawing.

    Attributes:
        removed: words that are removed from the captions.
        left_out: words of variants. Icons whose names end with one of them are left
            out, because the set has the same object in another style.
        has_skin_tones: whether the names may end with a skin tone. This is True for all
            sets of the category "Emoji".
        version: version of the prepared set. It changes with its captions.
    """

    removed: frozenset[str] = frozenset()
    left_out: frozenset[str] = frozenset()
    has_skin_tones: bool = False
    version: str = "1.0.0"


STYLES_OF_SETS = {
    "boxicons": IconStyles(frozenset({"filled", "alt"}), version="1.1.0"),
    "carbon": IconStyles(
        frozenset({"alt", "filled", "outline", "reference", "solid"}), version="1.1.0"
    ),
    "fluent-emoji": IconStyles(has_skin_tones=True, version="1.1.0"),
    "icon-park-solid": IconStyles(
        frozenset({"one", "two", "three", "four", "five"}), version="1.1.0"
    ),
    "mdi": IconStyles(frozenset({"variant"}), frozenset({"outline"}), version="1.1.0"),
    "meteocons": IconStyles(frozenset({"fill"})),
    "mingcute": IconStyles(frozenset({"fill"}), frozenset({"line"}), version="1.1.0"),
    "ph": IconStyles(
        frozenset({"fill", "duotone"}),
        frozenset({"bold", "light", "thin"}),
        version="1.1.0",
    ),
    "pinhead": IconStyles(left_out=frozenset({"outline"}), version="1.1.0"),
    "streamline-color": IconStyles(frozenset({"flat"})),
    "streamline-flex-color": IconStyles(frozenset({"flat"}), version="1.1.0"),
    "streamline-kameleon-color": IconStyles(frozenset({"duo"})),
    "streamline-plump-color": IconStyles(frozenset({"flat"})),
    "streamline-sharp-color": IconStyles(frozenset({"flat"}), version="1.1.0"),
    "streamline-stickies-color": IconStyles(frozenset({"duo"})),
    "tabler": IconStyles(frozenset({"filled"}), version="1.1.0"),
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


class Iconify(PairBuilder):
    """Icons of one of Iconify's sets with their names as captions.

    The name of the configuration is the name of an icon set, such as
    `"flat-color-icons"`. The set comes from its npm package, such as
    `@iconify-json/flat-color-icons`. The package is searched in `root`, in the folder
    `ALIGN_KERAS_ICONIFY_DIR`, or in the folders in which Node.js looks for packages.
    Each set has a license of its own, which `info.metadata["notes"]` contains. The
    extra `svg` renders the icons with 256 pixels on white.

    Aliases of an icon are further captions. Hidden icons, variations in skin tone, and
    icons without letters in their names are left out, and so are the variants of some
    sets, such as the outlines of `mdi` (`STYLES_OF_SETS`). 5% of the images form the
    `test` split.

    Example:

    ```python
    builder = Iconify(config="flat-color-icons", root="node_modules")
    builder.download_and_prepare()
    builder.info.metadata["notes"]["license"]  # 'MIT'
    ```
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {
        "1.0.0": "First release.",
        "1.1.0": "The styles of more sets are removed from the captions.",
    }
    LAYOUT = ImageLayout(size=_SIDE * 5 // 4, margin=True, encoding="png")
    FILTERED_REASONS = frozenset({"blank icon"})
    DESCRIPTION = "Icons of a set of Iconify with their names as captions."

    _license = ""
    _author = ""

    def __init__(
        self, *, config: str | tfds.core.BuilderConfig | None = None, **kwargs: Any
    ) -> None:
        if not isinstance(config, tfds.core.BuilderConfig):
            icon_set = config or ""
            check_icon_set_name(icon_set)
            # There are more than 200 icon sets, so they are not listed in
            # `BUILDER_CONFIGS`.
            config = tfds.core.BuilderConfig(
                name=icon_set,
                version=STYLES_OF_SETS.get(icon_set, IconStyles()).version,
                description=f"Icon set: {icon_set}.",
            )
        super().__init__(config=config, **kwargs)

    def _raw_pairs(self, counter: DropCounter) -> Iterator[RawPair]:
        if not has_renderer():
            raise MissingExtraError("The corpora of Iconify need resvg-py", "svg")
        name = self.builder_config.name
        package = _find_package(
            name, self._root or os.environ.get(ICONIFY_DIR_VARIABLE)
        )
        icons, info = _read_icon_set(package)
        self._license = (info.get("license") or {}).get("spdx") or "unknown"
        self._author = (info.get("author") or {}).get("name") or "unknown"
        category = info.get("category") or ""
        styles = STYLES_OF_SETS.get(name, IconStyles())
        has_skin_tones = styles.has_skin_tones or category == _EMOJI
        aliases = _aliases(icons)
        for icon_name, icon in sorted(icons["icons"].items()):
            where = f"{name}/{icon_name}"
            if icon.get("hidden"):
                counter.filter("hidden icon", where)
                continue
            if has_skin_tones and _SKIN_TONE.search(icon_name):
                counter.filter("variation in skin tone", where)
                continue
            if icon_name.rpartition("-")[2] in styles.left_out:
                counter.filter("variant of another icon", where)
                continue
            names = (icon_name, *aliases.get(icon_name, ()))
            captions = dict.fromkeys(icon_set_caption(name, word) for word in names)
            kept = tuple(text for text in captions if re.search("[a-z]{2}", text))
            if not kept:
                counter.filter("no words in its names", where)
                continue
            yield RawPair(icon_name, _svg(icons, icon), kept, category, None, where)

    def _load(self, source: Any) -> tuple[Image.Image, str | None]:
        # Loaded here, because opening a prepared corpus doesn't need it.
        import resvg_py

        drawing = read_svg(source)
        if drawing is None:
            raise ImageError("unreadable", "not an SVG drawing")
        try:
            # The icons are small and their nesting is limited, so they are rendered in
            # this process. A process for each icon would take ten times as long.
            content = resvg_py.svg_to_bytes(svg_string=drawing.content.decode())
        except ValueError as error:
            raise ImageError("unreadable", f"SVG: {error}") from None
        image, conversion = normalize_image(bytes(content))
        if image.convert("L").getextrema() == (255, 255):
            raise ImageError("blank icon", "all pixels are white")
        return image, conversion

    def _notes(self) -> dict[str, Any]:
        return {"license": self._license, "author": self._author}


def check_icon_set_name(name: str) -> None:
    """Raises `InputError` if the name can't be that of an icon set."""
    if not _SET_NAME.fullmatch(name):
        raise InputError(
            "The name of an icon set must consist of lower-case letters, digits and "
            f"single hyphens. Received: {name!r}. Use for example "
            "iconify/flat-color-icons."
        )


def _find_package(name: str, root: str | os.PathLike | None) -> pathlib.Path:
    """Returns the folder of the npm package of an icon set."""
    folders = [pathlib.Path(root)] if root else node_modules()
    for folder in folders:
        package = folder / _SCOPE / name
        if (package / "icons.json").is_file():
            return package
    problem = (
        f"{root} doesn't contain it"
        if root
        else f"no node_modules folder in {pathlib.Path.cwd()} or above it contains it"
    )
    raise InputError(
        f"Corpus 'iconify/{name}' needs the npm package {_SCOPE}/{name}, but "
        f"{problem}. Run npm install {_SCOPE}/{name}, or set {ICONIFY_DIR_VARIABLE} to "
        "the node_modules folder that contains it."
    )


def _read_icon_set(package: pathlib.Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns `icons.json` and `info.json` of a package."""
    try:
        icons = json.loads((package / "icons.json").read_text("utf-8"))
        info = json.loads((package / "info.json").read_text("utf-8"))
        for icon in icons["icons"].values():
            icon["body"].encode()
        return icons, dict(info)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            "icons.json and info.json must be those of an icon set. Received: "
            f"{package}, whose files can't be read ({error}). Run npm install "
            f"{_SCOPE}/{package.name} again."
        ) from error


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
    scale = _SIDE / max(box["width"], box["height"])
    width, height = (round(scale * box[side]) for side in ("width", "height"))
    view_box = "{left:g} {top:g} {width:g} {height:g}".format(**box)
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" '
        'xmlns:xlink="http://www.w3.org/1999/xlink" color="black" '
        f'viewBox={quoteattr(view_box)} width="{width}" height="{height}">'
        f"{icon['body']}</svg>"
    ).encode()
