"""Tables of emoji with their names in many languages, for `align-keras corpus`.

The names and keywords come from Unicode's Common Locale Data Repository (CLDR).
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from align_keras.datasets.emoji import (
    EMOJI_DIR_VARIABLE,
    EMOJI_SIZE,
    SWATCH_CATEGORY,
    VENDORS,
)
from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_write


@dataclasses.dataclass(frozen=True)
class _AnnotationPackage:
    """npm package of CLDR annotations.

    Attributes:
        package: str, name of the package.
        kind: str, name of its folder and of the object in its JSON files.
    """

    package: str
    kind: str


# CLDR derives the names of some emoji, such as flags and families, from their parts.
_ANNOTATIONS = _AnnotationPackage("cldr-annotations-full", "annotations")
_DERIVED = _AnnotationPackage("cldr-annotations-derived-full", "annotationsDerived")


@dataclasses.dataclass(frozen=True)
class EmojiCounts:
    """Numbers of images and texts in the table of one language."""

    images: int
    texts: int


def write_emoji_tables(
    out: str | os.PathLike,
    node_modules: str | os.PathLike | None = None,
    languages: Sequence[str] = (),
) -> dict[str, EmojiCounts]:
    """Writes a table of emoji for each language, `LANGUAGE.jsonl`.

    A row contains the image of an emoji by Google or Twitter, with its name and one
    line of keywords. A language that inherits from another, such as Swiss German, has
    only the texts in which it differs.

    Args:
        out: Folder to write. A corpus reads all tables as `table:OUT`.
        node_modules: Folder with the npm packages emoji-datasource-google,
            emoji-datasource-twitter, cldr-annotations-full and
            cldr-annotations-derived-full. Defaults to the folder in
            `ALIGN_KERAS_EMOJI_DIR`, or to `node_modules`.
        languages: Languages such as `"de"` or `"zh-Hant"`. Defaults to all languages.

    Returns:
        Dict from a language to its numbers of images and texts. Languages without texts
        have no table.

    Raises:
        InputError: If a language is unknown, or a package is missing or damaged.
    """
    node_modules = node_modules or os.environ.get(EMOJI_DIR_VARIABLE) or "node_modules"
    folder = pathlib.Path(node_modules).absolute()
    out = pathlib.Path(out)
    known_languages = _list_languages(folder)
    unknown = sorted(set(languages) - set(known_languages))
    if unknown:
        raise InputError(
            f"`languages` must be among {', '.join(known_languages)}. Received: "
            f"{', '.join(unknown)}. Leave `languages` out to write all languages."
        )
    images = list(_list_images(folder))
    counts = {}
    for language in languages or known_languages:
        annotations = _read_annotations(folder, language)
        rows = []
        for path, emoji in images:
            texts = _make_texts(annotations.get(_without_selector(emoji), {}))
            if texts:
                row = {"image": str(path), "caption": texts, "language": language}
                rows.append(row)
        if not rows:
            continue
        text_count = sum(len(row["caption"]) for row in rows)
        counts[language] = EmojiCounts(images=len(rows), texts=text_count)
        with atomic_write(out / f"{language}.jsonl") as file:
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return counts


def _make_texts(annotation: dict[str, list[str]]) -> list[str]:
    """Returns the name of an emoji and a line with its keywords, in one language.

    >>> _make_texts({"tts": ["turtle"], "default": ["tortoise", "turtle", "animal"]})
    ['turtle', 'tortoise, animal']
    """
    names = [name for name in annotation.get("tts", []) if name.strip()]
    keywords = [word for word in annotation.get("default", []) if word not in names]
    return [*names, ", ".join(keywords)] if keywords else names


def _list_images(node_modules: pathlib.Path) -> Iterator[tuple[pathlib.Path, str]]:
    """Yields the path and the emoji of each image, by vendor and code point."""
    for vendor in VENDORS:
        package = f"emoji-datasource-{vendor}"
        entries = _read_json(node_modules, package, "emoji.json")
        for entry in sorted(entries, key=lambda entry: entry["unified"]):
            has_image = entry.get(f"has_img_{vendor}", True)
            if has_image and entry.get("category") != SWATCH_CATEGORY:
                folder = node_modules / package / "img" / vendor / str(EMOJI_SIZE)
                codes = entry["unified"].split("-")
                emoji = "".join(chr(int(code, 16)) for code in codes)
                yield folder / entry["image"], emoji


def _list_languages(node_modules: pathlib.Path) -> list[str]:
    folder = node_modules / _ANNOTATIONS.package / _ANNOTATIONS.kind
    if not folder.is_dir():
        raise _missing_package(node_modules, folder, _ANNOTATIONS.package)
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


def _read_annotations(
    node_modules: pathlib.Path, language: str
) -> dict[str, dict[str, list[str]]]:
    """Returns the annotations of a language in both packages, by emoji."""
    annotations = {}
    for source in (_ANNOTATIONS, _DERIVED):
        folder = node_modules / source.package / source.kind
        if not folder.is_dir():
            raise _missing_package(node_modules, folder, source.package)
        if not (folder / language).is_dir():
            continue
        path = f"{source.kind}/{language}/annotations.json"
        content = _read_json(node_modules, source.package, path)[source.kind]
        for emoji, annotation in content.get("annotations", {}).items():
            annotations[_without_selector(emoji)] = annotation
    return annotations


def _without_selector(emoji: str) -> str:
    """Removes the variation selector that requests an image instead of a letter.

    The keys of CLDR don't contain it.
    """
    return emoji.replace("\ufe0f", "")


def _read_json(node_modules: pathlib.Path, package: str, name: str) -> Any:
    path = node_modules / package / name
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise _missing_package(node_modules, path, package) from None
    except ValueError as error:
        raise InputError(
            f"The file must be JSON. Received: {path} ({error}). Run npm install "
            f"{package} again."
        ) from None


def _missing_package(
    node_modules: pathlib.Path, path: pathlib.Path, package: str
) -> InputError:
    return InputError(
        f"`node_modules` must contain {package}. Received: {node_modules}, which has "
        f"no {path.relative_to(node_modules)}. Run npm install {package}, or use "
        "another folder."
    )
