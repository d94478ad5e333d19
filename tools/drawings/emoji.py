"""Emoji of several vendors with their names.

The images are in the npm packages emoji-datasource-VENDOR. The names and keywords in
many languages come from Unicode's Common Locale Data Repository (CLDR), in the npm
packages cldr-annotations-full and cldr-annotations-derived-full.
"""

import pathlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

from align_keras.corpus.caption_cleaning import clean_caption
from align_keras.corpus.drop_counter import DropCounter
from align_keras.utils.pillow_images import decode_rgb
from tools.drawings.drawing import Drawing, list_folders, read_package_file

VENDORS = ("google", "twitter")
# Pixels. The packages have no larger images in full color: sheets-128 and sheets-256
# have palettes.
SIZE = 64
# Category of the five plain swatches of skin tones.
_SWATCH_CATEGORY = "Component"
# Package of CLDR → name of its folder and of the object in its JSON files. CLDR derives
# the names of some emoji, such as flags and families, from their parts.
_ANNOTATIONS = {
    "cldr-annotations-full": "annotations",
    "cldr-annotations-derived-full": "annotationsDerived",
}
# In Unicode names, "black" and "white" mean filled and outlined, and "heavy" means a
# thick stroke. HEAVY BLACK HEART, for example, is red. If such a word describes the
# image (BLACK CAT), it is also in a short name.
_TYPOGRAPHIC = frozenset({"black", "white", "heavy"})
# Patterns of code points in names (SQUARED CJK UNIFIED IDEOGRAPH-6708) and in short
# names (u6708).
_CODE_POINT = re.compile(r"-[0-9a-f]{4,5}$")
_CODE_POINT_NAME = re.compile(r"u[0-9a-f]{4,5}")
_COUNTRY_CODE = re.compile(r"(flag )?[a-z]{2}")


def drawings(node_modules: pathlib.Path, counter: DropCounter) -> Iterator[Drawing]:
    """Yields the emoji of Google and Twitter with captions made of their names.

    The images of both vendors for one emoji are in the same group.
    """
    for vendor in VENDORS:
        for emoji, path in _images(node_modules, vendor, counter):
            code = emoji["unified"].lower()
            identifier = f"{vendor}/{code}"
            category = emoji.get("category") or ""
            captions = tuple(_captions(emoji))
            if captions:
                yield Drawing(identifier, path, captions, category, _load, code)
            else:
                counter.filter("no words in its names", identifier)


def vendor_rows(node_modules: pathlib.Path, vendor: str) -> Iterator[dict[str, Any]]:
    """Yields the image and the captions of each emoji of a vendor."""
    for emoji, path in _images(node_modules, vendor, DropCounter()):
        captions = _captions(emoji)
        if captions:
            yield {"image": str(path.absolute()), "caption": captions}


def name_tables(node_modules: pathlib.Path) -> Iterator[tuple[str, list[dict]]]:
    """Yields each language with its rows.

    A row has the image of an emoji by Google or Twitter, its name and one line of
    keywords. A language that inherits from another, such as Swiss German, has only the
    texts in which it differs. Languages without texts are left out.
    """
    images = []
    for vendor in VENDORS:
        entries = list(_images(node_modules, vendor, DropCounter()))
        images += sorted(entries, key=lambda entry: entry[0]["unified"])
    package, kind = next(iter(_ANNOTATIONS.items()))
    for language in list_folders(node_modules, package, kind):
        annotations = _read_annotations(node_modules, language)
        rows = []
        for emoji, path in images:
            codes = emoji["unified"].split("-")
            character = "".join(chr(int(code, 16)) for code in codes)
            texts = _texts(annotations.get(_without_selector(character), {}))
            if texts:
                image = str(path.absolute())
                rows.append({"image": image, "caption": texts, "language": language})
        if rows:
            yield language, rows


def _images(
    node_modules: pathlib.Path, vendor: str, counter: DropCounter
) -> Iterator[tuple[dict[str, Any], pathlib.Path]]:
    """Yields the entries that a vendor draws, in Unicode's order, and their images."""
    package = f"emoji-datasource-{vendor}"
    entries = read_package_file(node_modules, package, "emoji.json")
    entries.sort(key=lambda entry: (entry.get("sort_order", 0), entry["unified"]))
    for emoji in entries:
        path = node_modules / package / "img" / vendor / str(SIZE) / emoji["image"]
        if not emoji.get(f"has_img_{vendor}", True):
            counter.filter("not drawn by this vendor", str(path))
        elif emoji.get("category") == _SWATCH_CATEGORY:
            counter.filter("a skin tone's swatch", str(path))
        else:
            yield emoji, path


def _load(path: pathlib.Path) -> Any:
    return decode_rgb(path)[0]


def _read_annotations(node_modules: pathlib.Path, language: str) -> dict[str, dict]:
    """Returns the annotations of a language in both packages, by emoji."""
    annotations = {}
    for package, kind in _ANNOTATIONS.items():
        if language in list_folders(node_modules, package, kind):
            name = f"{kind}/{language}/annotations.json"
            content = read_package_file(node_modules, package, name)[kind]
            for emoji, annotation in content.get("annotations", {}).items():
                annotations[_without_selector(emoji)] = annotation
    return annotations


def _without_selector(emoji: str) -> str:
    """Removes the variation selector that requests an image instead of a letter.

    The keys of CLDR don't contain it.
    """
    return emoji.replace("\ufe0f", "")


def _texts(annotation: dict[str, list[str]]) -> list[str]:
    """Returns the name of an emoji and a line with its keywords, in one language.

    >>> _texts({"tts": ["turtle"], "default": ["tortoise", "turtle", "animal"]})
    ['turtle', 'tortoise, animal']
    """
    names = [name for name in annotation.get("tts", []) if name.strip()]
    keywords = [word for word in annotation.get("default", []) if word not in names]
    return [*names, ", ".join(keywords)] if keywords else names


def _captions(emoji: dict[str, Any]) -> list[str]:
    return emoji_captions(
        emoji.get("name") or "",
        emoji.get("short_names") or (),
        emoji.get("category") or "",
    )


def emoji_captions(
    name: str, short_names: Iterable[str] = (), category: str = ""
) -> list[str]:
    """Returns the captions of an emoji in lower case, without repetitions.

    Captions with the same words in another order count as repetitions.

    Args:
        name: str, Unicode name. It becomes the first caption.
        short_names: iterable of str, such as `"flag-fr"`.
        category: str, category of the emoji.
    """
    short = [_short_caption(short_name) for short_name in short_names]
    candidates = [_name_caption(name, short)]
    for caption in short:
        if not (category == "Flags" and _COUNTRY_CODE.fullmatch(caption)):
            candidates.append(caption)
    distinct: dict[tuple[str, ...], str] = {}
    for caption in candidates:
        if sum(letter.isalpha() for letter in caption) > 1:
            distinct.setdefault(tuple(sorted(_words(caption))), caption)
    return list(distinct.values())


def _name_caption(name: str, short: list[str]) -> str:
    confirmed = {word for caption in short for word in _words(caption)}
    words = _CODE_POINT.sub("", clean_caption(name).lower()).split()
    dropped = _TYPOGRAPHIC - confirmed
    return " ".join([word for word in words if word not in dropped] or words)


def _short_caption(short_name: str) -> str:
    if _CODE_POINT_NAME.fullmatch(short_name):
        return ""
    words = clean_caption(re.sub(r"[_-]+", " ", short_name.lower()))
    # A number at the end distinguishes emoji of the same name, such as dog and dog2.
    return re.sub(r"\s*\d+$", "", words)


def _words(caption: str) -> list[str]:
    return re.findall(r"\w+", caption)
