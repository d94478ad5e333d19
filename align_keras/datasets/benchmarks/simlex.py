"""SimLex-999: pairs of words and how similar people find them."""

import csv
import dataclasses
import os
import pathlib

from align_keras.datasets.benchmarks.captioned_images import read_text
from align_keras.utils.errors import InputError

PAIRS = 999
_SPEECH = ("A", "N", "V")
_COLUMNS = ("word1", "word2", "POS", "SimLex999", "concQ", "SimAssoc333")


@dataclasses.dataclass(frozen=True)
class SimLexPair:
    """Two words and their similarity, 0 to 10; hard are the 333 most associated."""

    word1: str
    word2: str
    part_of_speech: str
    similarity: float
    concreteness_quartile: int
    is_hard: bool


def read_simlex(path: str | os.PathLike, check_counts: bool = True) -> list[SimLexPair]:
    """Reads `SimLex-999.txt`, 999 pairs if `check_counts`.

    References:
        Hill, Reichart and Korhonen 2015; Jia et al. 2021, table 12.
    """
    path = pathlib.Path(path)
    text = read_text(path, "unpack fh295.github.io/SimLex-999.zip there")
    reader = csv.reader(text.split("\n"), delimiter="\t", quoting=csv.QUOTE_NONE)
    columns = [name.strip() for name in next(reader, [])]
    absent = [name for name in _COLUMNS if name not in columns]
    if absent:
        raise InputError(
            f"{path} lacks the columns {', '.join(absent)}; take SimLex-999.txt as it "
            "is, separated by tabs."
        )
    pairs = [
        _pair(path, number, columns, cells)
        for number, cells in enumerate(reader, start=2)
        if any(cell.strip() for cell in cells)
    ]
    if check_counts and len(pairs) != PAIRS:
        raise InputError(
            f"{path} must have {PAIRS} pairs, received {len(pairs)}; download it "
            "again, or pass check_counts=False for a subset."
        )
    return pairs


def _pair(
    path: pathlib.Path, number: int, columns: list[str], cells: list[str]
) -> SimLexPair:
    row = dict(zip(columns, (cell.strip() for cell in cells), strict=False))
    try:
        pair = SimLexPair(
            word1=row["word1"],
            word2=row["word2"],
            part_of_speech=row["POS"],
            similarity=float(row["SimLex999"]),
            concreteness_quartile=int(row["concQ"]),
            is_hard={"0": False, "1": True}[row["SimAssoc333"]],
        )
    except (KeyError, ValueError):
        pair = None
    if (
        pair is None
        or not (pair.word1 and pair.word2)
        or pair.part_of_speech not in _SPEECH
        or not 0 <= pair.similarity <= 10
        or pair.concreteness_quartile not in (1, 2, 3, 4)
    ):
        raise InputError(
            f"{path} line {number} must have two words, POS of {', '.join(_SPEECH)}, "
            "SimLex999 in [0, 10], concQ in 1 to 4 and SimAssoc333 of 0 or 1, received "
            f"{' | '.join(cells)!r}; download the file again."
        )
    return pair
