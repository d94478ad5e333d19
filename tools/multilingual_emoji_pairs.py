"""Writes emoji with their names in 100 languages, as tables for `align-keras corpus`.

`python tools/multilingual_emoji_pairs.py --node_modules node_modules --out
saved_models/corpora/emoji_names` writes LANGUAGE.jsonl for each language of Unicode's
CLDR: a row for each picture of Google's and of Twitter's emoji, with its name and one
line of keywords. `align-keras corpus build --source table:saved_models/corpora/
emoji_names` takes all of them. The pictures and the names are npm packages: npm install
emoji-datasource-google emoji-datasource-twitter cldr-annotations-full
cldr-annotations-derived-full.

A language that inherits from another, such as Swiss German, has only what it says
otherwise.
"""

import argparse
import json
import os
import pathlib
import sys

from align_keras.datasets.emoji import EMOJI_DIR_VARIABLE, VENDORS
from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_write

# Names of flags, families and the like are derived from those of their parts.
_NAMES = (
    ("cldr-annotations-full", "annotations"),
    ("cldr-annotations-derived-full", "annotationsDerived"),
)
_SIZE = 64
# Plain swatches, the skin tones themselves.
_SWATCHES = "Component"


def write_tables(node_modules, out, languages=()):
    """Writes a table a language, such as `"de"` or `"zh-Hant"`, by default of all.

    Returns:
        dict of (int, int) by language: how many pictures have a text, and how many
        texts there are. Of languages without any no table is written.
    """
    node_modules, out = pathlib.Path(node_modules).absolute(), pathlib.Path(out)
    known = _languages(node_modules)
    unknown = sorted(set(languages) - set(known))
    if unknown:
        raise InputError(
            f"--languages must be among {', '.join(known)}, received "
            f"{', '.join(unknown)}; leave --languages out for all."
        )
    pictures = list(_pictures(node_modules))
    written = {}
    for language in languages or known:
        names = _names(node_modules, language)
        rows = [
            {"image": str(path), "caption": texts, "language": language}
            for path, emoji in pictures
            if (texts := texts_of(names.get(_without_selector(emoji), {})))
        ]
        if rows:
            written[language] = len(rows), sum(len(row["caption"]) for row in rows)
            with atomic_write(out / f"{language}.jsonl") as file:
                for row in rows:
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return written


def texts_of(annotation):
    """Makes captions of what CLDR says of an emoji in one language: the name and the
    other keywords in one line, those that are there.

    >>> texts_of({"tts": ["turtle"], "default": ["tortoise", "turtle", "animal"]})
    ['turtle', 'tortoise, animal']
    """
    names = [name for name in annotation.get("tts", []) if name.strip()]
    keywords = [own for own in annotation.get("default", []) if own not in names]
    return [*names, ", ".join(keywords)] if keywords else names


def _pictures(node_modules):
    """Yields (path, emoji), emoji by emoji, in Unicode's order."""
    for vendor in VENDORS:
        package = f"emoji-datasource-{vendor}"
        entries = _read_json(node_modules, package, "emoji.json")
        for entry in sorted(entries, key=lambda own: own["unified"]):
            drawn = entry.get(f"has_img_{vendor}", True)
            if drawn and entry.get("category") != _SWATCHES:
                folder = node_modules / package / "img" / vendor / str(_SIZE)
                codes = entry["unified"].split("-")
                yield folder / entry["image"], "".join(chr(int(c, 16)) for c in codes)


def _languages(node_modules):
    folder = node_modules / _NAMES[0][0] / _NAMES[0][1]
    if not folder.is_dir():
        raise _missing(folder, _NAMES[0][0])
    return sorted(own.name for own in folder.iterdir() if own.is_dir())


def _names(node_modules, language):
    """A language's annotations by emoji, those of both packages."""
    names = {}
    for package, kind in _NAMES:
        if not (node_modules / package / kind).is_dir():
            raise _missing(node_modules / package / kind, package)
        if (node_modules / package / kind / language).is_dir():
            path = f"{kind}/{language}/annotations.json"
            own = _read_json(node_modules, package, path)[kind].get("annotations", {})
            names |= {_without_selector(key): value for key, value in own.items()}
    return names


def _without_selector(emoji):
    """CLDR's keys lack the selector that asks for a picture instead of a letter."""
    return emoji.replace("\ufe0f", "")


def _read_json(node_modules, package, path):
    path = node_modules / package / path
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise _missing(path, package) from None
    except ValueError as error:
        raise InputError(
            f"{path} must be JSON, it can't be read ({error}); run npm install "
            f"{package} again."
        ) from None


def _missing(path, package):
    return InputError(
        f"--node_modules must hold {package}, but there is no {path}; run npm install "
        f"{package}, or name the folder."
    )


def main(arguments=None):
    """Writes the tables and says what they hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, metavar="FOLDER", help="of the tables")
    parser.add_argument(
        "--node_modules",
        default=os.environ.get(EMOJI_DIR_VARIABLE) or "node_modules",
        metavar="FOLDER",
        help="with the packages (default: %(default)s)",
    )
    parser.add_argument(
        "--languages", nargs="+", default=(), metavar="L", help="instead of all"
    )
    arguments = parser.parse_args(arguments)
    try:
        written = write_tables(
            arguments.node_modules, arguments.out, arguments.languages
        )
    except (InputError, OSError) as error:
        sys.exit(f"{parser.prog}: error: {error}")
    texts = sum(own for _, own in written.values())
    most = max((own for own, _ in written.values()), default=0)
    print(
        f"wrote {texts:,} texts of up to {most:,} pictures in {len(written)} languages "
        f"to {arguments.out}"
    )


if __name__ == "__main__":
    main()
