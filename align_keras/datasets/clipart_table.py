"""Table of the Open Clip Art Library's uncleaned texts, for `align-keras corpus`.

The captions of the corpus `clipart` are cleaned by hand-made rules
(`align_keras.datasets.clipart_captions`). The texts of this table are as noisy as
alt-texts, so that it shows the effect of the corpus filters.
"""

import dataclasses
import json
import os
import pathlib

from align_keras.datasets.clipart import CLIPART_DIR, CLIPART_DIR_VARIABLE
from align_keras.datasets.clipart_captions import read_svg_metadata
from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_write

# Kind of text → extraction rule in the corpus. Keywords and descriptions count as
# captions.
_RULES = {"title": "title", "description": "caption", "keywords": "caption"}


@dataclasses.dataclass
class ClipartCounts:
    """Numbers of images and texts in a table of clip art."""

    images: int = 0
    images_without_text: int = 0
    titles: int = 0
    descriptions: int = 0
    keyword_lines: int = 0


def write_clipart_table(
    out: str | os.PathLike, root: str | os.PathLike | None = None
) -> ClipartCounts:
    """Writes a row for each title, description and line of keywords of the clip art.

    Args:
        out: Table to write, a `.jsonl` file. A corpus reads it as `table:OUT`.
        root: Folder with `png/` and `svg/` of the Debian packages openclipart-png and
            openclipart-svg. Defaults to the folder in `ALIGN_KERAS_CLIPART_DIR`, or to
            the folder of the Debian packages.

    Returns:
        Numbers of images and texts.

    Raises:
        InputError: If `out` has another suffix, or `root` lacks the drawings.
    """
    out = pathlib.Path(out)
    if out.suffix != ".jsonl":
        raise InputError(f"`out` must end in .jsonl. Received: {out.name}. Rename it.")
    root = root or os.environ.get(CLIPART_DIR_VARIABLE) or CLIPART_DIR
    root = pathlib.Path(root).absolute()
    images = sorted((root / "png").glob("**/*.png"))
    if not images or not (root / "svg").is_dir():
        raise InputError(
            "`root` must contain png/ and svg/ of the Open Clip Art Library. Received: "
            f"{root}. Run `apt-get install openclipart-png openclipart-svg`, or use "
            "another folder."
        )
    counts = ClipartCounts(images=len(images))
    with atomic_write(out) as file:
        for image in images:
            name = image.relative_to(root / "png").with_suffix(".svg")
            texts = _read_texts(root / "svg" / name)
            counts.images_without_text += not texts
            counts.titles += "title" in texts
            counts.descriptions += "description" in texts
            counts.keyword_lines += "keywords" in texts
            for kind, text in texts.items():
                row = {
                    "image": str(image),
                    "caption": text,
                    "rule": _RULES[kind],
                    "page_url": f"openclipart/{name.as_posix()}",
                }
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return counts


def _read_texts(drawing: pathlib.Path) -> dict[str, str]:
    """Returns the texts of an SVG file by kind, without empty texts.

    The file may be missing or damaged. The keywords are joined to one line, like an
    alt-text of keywords on a web page.
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
