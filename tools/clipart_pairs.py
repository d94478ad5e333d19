"""Writes the clip art's own texts, uncleaned, as a table for `align-keras corpus`.

`python tools/clipart_pairs.py --out saved_models/corpora/clipart.jsonl` writes a row
for each title, each description and each line of keywords of the Open Clip Art Library
(Debian packages openclipart-png and openclipart-svg), beside the PNG of the same name.
`align-keras corpus build --source table:saved_models/corpora/clipart.jsonl` takes it.

Unlike the corpus `clipart`, whose captions are mended by hand-made rules
(`align_keras.datasets.clipart_captions`), these are as noisy as alt-texts: what the
corpus's filters are worth shows on them.
"""

import argparse
import json
import os
import pathlib
import sys

from align_keras.datasets.clipart import CLIPART_DIR, CLIPART_DIR_VARIABLE
from align_keras.datasets.clipart_captions import read_svg_metadata
from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_write

# The corpus knows where a text stood by these names; keywords and descriptions are
# texts about the picture like any other.
_RULES = {"title": "title", "description": "caption", "keywords": "caption"}


def write_table(root, out):
    """Writes the table of the folder with `png/` and `svg/`.

    Returns:
        dict of int: `pictures`, `without_text` (of these) and, by kind, how many
        texts.
    """
    root, out = pathlib.Path(root).absolute(), pathlib.Path(out)
    if out.suffix != ".jsonl":
        raise InputError(f"--out must end in .jsonl, received {out.name}; rename it.")
    pictures = sorted((root / "png").glob("**/*.png"))
    if not pictures or not (root / "svg").is_dir():
        raise InputError(
            f"--root must hold the Open Clip Art Library's png/ and svg/, {root} lacks "
            "them; run apt-get install openclipart-png openclipart-svg, or name the "
            "folder."
        )
    counts = {"pictures": len(pictures), "without_text": 0} | dict.fromkeys(_RULES, 0)
    with atomic_write(out) as file:
        for picture in pictures:
            name = picture.relative_to(root / "png").with_suffix(".svg")
            texts = raw_texts(root / "svg" / name)
            counts["without_text"] += not texts
            for kind, text in texts.items():
                counts[kind] += 1
                row = {"image": str(picture), "caption": text, "rule": _RULES[kind]}
                row["page_url"] = f"openclipart/{name.as_posix()}"
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return counts


def raw_texts(drawing):
    """Reads what an SVG file, which may be missing or broken, says of itself.

    Returns:
        dict of str: `title`, `description` and `keywords`, those that it has; the
        keywords are one line, as a page would put them into an alt-text.
    """
    try:
        metadata = read_svg_metadata(drawing)
    except OSError:
        return {}
    texts = {
        "title": metadata.title,
        "description": metadata.description,
        "keywords": ", ".join(metadata.keywords),
    }
    return {kind: text for kind, text in texts.items() if text}


def main(arguments=None):
    """Writes the table and says what it holds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, metavar="TABLE.jsonl")
    parser.add_argument(
        "--root",
        default=os.environ.get(CLIPART_DIR_VARIABLE) or CLIPART_DIR,
        metavar="FOLDER",
        help="with png/ and svg/ (default: %(default)s)",
    )
    arguments = parser.parse_args(arguments)
    try:
        counts = write_table(arguments.root, arguments.out)
    except (InputError, OSError) as error:
        sys.exit(f"{parser.prog}: error: {error}")
    print(
        f"wrote {counts['title']:,} titles, {counts['description']:,} descriptions and "
        f"{counts['keywords']:,} lines of keywords of {counts['pictures']:,} pictures "
        f"({counts['without_text']:,} of them without any) to {arguments.out}"
    )


if __name__ == "__main__":
    main()
