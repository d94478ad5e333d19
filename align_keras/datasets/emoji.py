"""Emoji as two vendors draw them, with their names."""

import hashlib
import json
import os
import pathlib
import re
import shutil
from collections.abc import Iterable, Iterator
from typing import Any

import tensorflow_datasets as tfds

from align_keras.corpus.caption_cleaning import clean_caption
from align_keras.corpus.drop_counter import DropCounter
from align_keras.datasets.pair_builder import (
    ImageLayout,
    PairBuilder,
    RawPair,
    linked_names,
)
from align_keras.utils.errors import InputError

EMOJI_DIR_VARIABLE = "ALIGN_KERAS_EMOJI_DIR"
VENDORS = ("google", "twitter")

# Pixels. The packages have no larger images in full color: sheets-128 and sheets-256
# have palettes.
EMOJI_SIZE = 64
# Category of the five plain swatches of skin tones.
SWATCH_CATEGORY = "Component"
# In Unicode's names of symbols "black" and "white" mean filled and outlined, and
# "heavy" a thick stroke: HEAVY BLACK HEART is drawn red. Where such a word tells
# what one sees (BLACK CAT), a short name has it too.
_TYPOGRAPHIC = frozenset({"black", "white", "heavy"})
# SQUARED CJK UNIFIED IDEOGRAPH-6708 and its short name.
_CODE_POINT = re.compile(r"-[0-9a-f]{4,5}$")
_CODE_POINT_NAME = re.compile(r"u[0-9a-f]{4,5}")
_COUNTRY_CODE = re.compile(r"(flag )?[a-z]{2}")


class Emoji(PairBuilder):
    """Images of emoji by Google and by Twitter, 64 pixels, on white, with their names,
    without the variations in skin tone: `emoji-datasource-google` and
    `emoji-datasource-twitter` of npm, in `root`, in `ALIGN_KERAS_EMOJI_DIR` or where
    node looks. 5% of the emoji make the `test` split; what both vendors draw of one,
    and emoji that a vendor draws alike, stand on the same side. An example's `id`
    begins with the vendor.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}
    LAYOUT = ImageLayout(size=EMOJI_SIZE * 5 // 4, margin=True, encoding="png")
    DESCRIPTION = "Emoji of two vendors with their names as captions."

    def _raw_pairs(self, counter: DropCounter) -> Iterator[RawPair]:
        packages = _find_packages(self._root or os.environ.get(EMOJI_DIR_VARIABLE))
        for vendor, package in packages.items():
            for emoji in _read_emoji(package):
                raw = _raw_pair(vendor, package, emoji)
                if not emoji.get(f"has_img_{vendor}", True):
                    counter.filter("not drawn by this vendor", raw.where)
                elif raw.category == SWATCH_CATEGORY:
                    counter.filter("a skin tone's swatch", raw.where)
                elif not raw.captions:
                    counter.filter("no words in its names", raw.where)
                else:
                    yield raw
                tones = len(emoji.get("skin_variations") or ())
                if tones:
                    counter.filter("variation in skin tone", raw.where, count=tones)

    def _split_keys(self, entries: list[Any]) -> list[str]:
        # Keys of pixels alone would not do, since the two vendors share no pixels.
        codes = [entry.raw.id.partition("/")[2] for entry in entries]
        keys = [entry.image_key for entry in entries]
        linked = linked_names(zip(codes, keys, strict=True))
        names = (linked[code].encode() for code in codes)
        return [hashlib.blake2b(name, digest_size=16).hexdigest() for name in names]


def _raw_pair(vendor: str, package: pathlib.Path, emoji: dict[str, Any]) -> RawPair:
    code = emoji["unified"].lower()
    path = package / "img" / vendor / str(EMOJI_SIZE) / emoji["image"]
    category = emoji.get("category") or ""
    captions = emoji_captions(
        emoji.get("name") or "", emoji.get("short_names") or (), category
    )
    where = path.relative_to(package.parent).as_posix()
    return RawPair(f"{vendor}/{code}", path, tuple(captions), category, None, where)


def _find_packages(root: str | os.PathLike | None) -> dict[str, pathlib.Path]:
    folders = [pathlib.Path(root)] if root else _node_modules()
    names = {vendor: f"emoji-datasource-{vendor}" for vendor in VENDORS}
    packages = {
        vendor: folder / name
        for vendor, name in names.items()
        for folder in reversed(folders)  # The first of them wins.
        if (folder / name / "emoji.json").is_file()
    }
    missing = [name for vendor, name in names.items() if vendor not in packages]
    if missing:
        where = root or f"no node_modules folder of {pathlib.Path.cwd()} or above it"
        lacks = "lacks" if root else "holds"
        raise InputError(
            f"corpus 'emoji' needs the images of {' and '.join(names.values())}, "
            f"but {where} {lacks} {' and '.join(missing)}; run npm install "
            f"{' '.join(names.values())}, or set {EMOJI_DIR_VARIABLE} to the "
            "node_modules folder that holds them"
        )
    return packages


def _node_modules() -> list[pathlib.Path]:
    current = pathlib.Path.cwd()
    folders = [folder / "node_modules" for folder in (current, *current.parents)]
    node_path = os.environ.get("NODE_PATH", "").split(os.pathsep)
    folders += [pathlib.Path(folder) for folder in node_path if folder]
    # Global packages are below npm's prefix. Debian's npm has another prefix.
    node = shutil.which("node")
    prefixes = [pathlib.Path(node).resolve().parents[1]] if node else []
    prefixes.append(pathlib.Path("/usr/local"))
    return folders + [prefix / "lib" / "node_modules" for prefix in prefixes]


def _read_emoji(package: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the dicts of the package's emoji, in Unicode's order."""
    path = package / "emoji.json"
    try:
        emoji = json.loads(path.read_text("utf-8"))
        return sorted(emoji, key=lambda one: (one.get("sort_order", 0), one["unified"]))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"emoji.json must be the JSON list of emoji of {package.name}, but {path} "
            f"can't be read: {error}; run npm install {package.name} again"
        ) from error


def emoji_captions(
    name: str, short_names: Iterable[str] = (), category: str = ""
) -> list[str]:
    """Makes an emoji's captions in lower case, its name first, each said once."""
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
    # A number at the end tells namesakes apart: dog, dog2.
    return re.sub(r"\s*\d+$", "", words)


def _words(caption: str) -> list[str]:
    return re.findall(r"\w+", caption)
