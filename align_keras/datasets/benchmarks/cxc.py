"""Crisscrossed Captions: people's ratings of COCO's pictures and captions."""

import csv
import dataclasses
import gzip
import pathlib
import re
import zlib
from typing import NamedTuple

from align_keras.utils.errors import InputError

# The columns that a file begins with, by task.
_COLUMNS = {
    "sts": ("caption1", "caption2", "agg_score"),
    "sis": ("image1", "image2", "agg_score"),
    "sits": ("caption", "image", "agg_score"),
}
_CAPTION_ID = re.compile(r"COCO_\w+:sentid:(\d+)")
_IMAGE_ID = re.compile(r"COCO_\w+_\d{12}\.jpg")


class RatedPair(NamedTuple):
    """Two items that people compared.

    Attributes:
        first: str; of `sits` a caption id, as COCO's `sentid`.
        second: str; of `sits` a picture id, a file name.
        score: float in [0, 5].
    """

    first: str
    second: str
    score: float


@dataclasses.dataclass(frozen=True)
class CxcRatings:
    """The three tasks of a split.

    Attributes:
        split: str.
        sts: list of `RatedPair` of captions.
        sis: list of `RatedPair` of pictures.
        sits: list of `RatedPair` of a caption and a picture.
    """

    split: str
    sts: list
    sis: list
    sits: list

    def image_ids(self):
        """Returns the rated pictures, a set of str."""
        both = {name for pair in self.sis for name in (pair.first, pair.second)}
        return both | {pair.second for pair in self.sits}

    def caption_ids(self):
        """Returns the rated captions, a set of str."""
        both = {name for pair in self.sts for name in (pair.first, pair.second)}
        return both | {pair.first for pair in self.sits}


def read_cxc(folder, split="test"):
    """Reads the ratings of a split.

    Args:
        folder: str or path of the repository as cloned, or of its `data`: the
            folder of `sts_test.csv`, `sis_test.csv` and `sits_test.csv`, or of
            their `.gz`.
        split: str, `"test"` or `"val"`.

    Returns:
        `CxcRatings`.

    Raises:
        InputError: another split, missing or damaged files, other columns, a
            malformed line.

    References:
        Parekh et al. 2021, Crisscrossed Captions.

    Example:

    ```python
    ratings = read_cxc("Crisscrossed-Captions", "val")
    ratings.sits[0]
    # RatedPair(first='648388', second='COCO_val2014_000000431431.jpg', score=1.8)
    ```
    """
    if split not in ("test", "val"):
        raise InputError(f"split must be test or val, received {split!r}.")
    folder = pathlib.Path(folder)
    data = folder / "data" if (folder / "data").is_dir() else folder
    return CxcRatings(
        split, *(_read(data / f"{task}_{split}.csv", task) for task in _COLUMNS)
    )


def _read(path, task):
    lines = csv.reader(_text(path).splitlines())
    header = tuple(next(lines, ()))
    columns = _COLUMNS[task]
    if header[: len(columns)] != columns:
        raise InputError(
            f"{path} must begin with the columns {', '.join(columns)}, received "
            f"{', '.join(header) or 'nothing'}; download it again."
        )
    patterns = [
        _CAPTION_ID if name.startswith("caption") else _IMAGE_ID for name in columns[:2]
    ]
    pairs = [
        _pair(path, number, patterns, len(header), cells)
        for number, cells in enumerate(lines, start=2)
    ]
    if not pairs:
        raise InputError(f"{path} must hold ratings, received none; download it again.")
    return pairs


def _text(path):
    packed = path.with_name(f"{path.name}.gz")
    try:
        if path.exists():
            return path.read_text(encoding="utf-8-sig")
        return gzip.decompress(packed.read_bytes()).decode("utf-8-sig")
    except OSError as error:
        problem = error.strerror or str(error)
    except (EOFError, zlib.error, UnicodeDecodeError) as error:
        problem = str(error)
    raise InputError(
        f"no readable {path} or {packed.name} ({problem}); clone "
        "github.com/google-research-datasets/Crisscrossed-Captions there."
    )


def _pair(path, number, patterns, width, cells):
    matches = [
        pattern.fullmatch(cell) for pattern, cell in zip(patterns, cells, strict=False)
    ]
    try:
        score = float(cells[2])
    except (IndexError, ValueError):
        score = -1.0
    if len(cells) != width or None in matches or not 0 <= score <= 5:
        raise InputError(
            f"{path} line {number} must have two ids of COCO and a rating in [0, 5] "
            f"in {width} columns, received {','.join(cells)!r}; download it again."
        )
    # A caption's id is the number alone, as Karpathy's file has it.
    return RatedPair(*(match.group(match.re.groups) for match in matches), score)
