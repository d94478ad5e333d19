"""TFDS builder for the emoji images of two vendors with their names."""

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
# In Unicode names, "black" and "white" mean filled and outlined, and "heavy" means a
# thick stroke. HEAVY BLACK HEART, for example, is red. If such a word describes the
# image (BLACK CAT), it is also in a short name.
_TYPOGRAPHIC = frozenset({"black", "white", "heavy"})
# Patterns of code points in names (SQUARED CJK UNIFIED IDEOGRAPH-6708) and in short
# names (u6708).
_CODE_POINT = re.compile(r"-[0-9a-f]{4,5}$")
_CODE_POINT_NAME = re.compile(r"u[0-9a-f]{4,5}")
_COUNTRY_CODE = re.compile(r"(flag )?[a-z]{2}")


class Emoji(PairBuilder):
    """Emoji images of Google and Twitter with their names as captions.

    The images have 64 pixels and a white background. Variations in skin tone are not
    included. The images come from the npm packages `emoji-datasource-google` and
    `emoji-datasource-twitter`. They are searched in `root`, in the folder
    `ALIGN_KERAS_EMOJI_DIR`, or in the folders in which Node.js looks for packages.

    5% of the emoji form the `test` split. The images of both vendors for one emoji are
    in the same split, as are emoji that a vendor draws with equal pixels. The id of an
    example begins with the vendor.

    Example:

    >>> print(Emoji().info.description)
    Emoji of two vendors with their names as captions.
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
        # The images of the two vendors have different pixel keys, so the split key
        # links emoji by their code points as well.
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
    folders = [pathlib.Path(root)] if root else node_modules()
    names = {vendor: f"emoji-datasource-{vendor}" for vendor in VENDORS}
    packages = {
        vendor: folder / name
        for vendor, name in names.items()
        # In a dict, a later item replaces an earlier one, so the list is reversed to
        # give the first folder precedence.
        for folder in reversed(folders)
        if (folder / name / "emoji.json").is_file()
    }
    missing = [name for vendor, name in names.items() if vendor not in packages]
    if missing:
        problem = (
            f"{root} doesn't contain {' and '.join(missing)}"
            if root
            else f"no node_modules folder in {pathlib.Path.cwd()} or above it contains "
            f"{' and '.join(missing)}"
        )
        raise InputError(
            f"Corpus 'emoji' needs the npm packages {' and '.join(names.values())}, "
            f"but {problem}. Run npm install {' '.join(names.values())}, or set "
            f"{EMOJI_DIR_VARIABLE} to the node_modules folder that contains them."
        )
    return packages


def node_modules() -> list[pathlib.Path]:
    """Returns the folders in which Node.js looks for packages."""
    current = pathlib.Path.cwd()
    folders = [folder / "node_modules" for folder in (current, *current.parents)]
    node_path = os.environ.get("NODE_PATH", "").split(os.pathsep)
    folders += [pathlib.Path(folder) for folder in node_path if folder]
    # Global packages are in the prefix of npm, which differs from the prefix of node on
    # Debian.
    node = shutil.which("node")
    prefixes = [pathlib.Path(node).resolve().parents[1]] if node else []
    prefixes.append(pathlib.Path("/usr/local"))
    return folders + [prefix / "lib" / "node_modules" for prefix in prefixes]


def _read_emoji(package: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the entries of `emoji.json` of a package, in Unicode's order."""
    path = package / "emoji.json"
    try:
        emoji = json.loads(path.read_text("utf-8"))
        return sorted(
            emoji, key=lambda entry: (entry.get("sort_order", 0), entry["unified"])
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"emoji.json must be the list of emoji of {package.name}. Received: "
            f"{path}, which can't be read ({error}). Run npm install {package.name} "
            "again."
        ) from error


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
