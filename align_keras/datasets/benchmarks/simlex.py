"""Reader of SimLex-999, word pairs with ratings of their similarity."""

import dataclasses
import os
import pathlib

from align_keras.datasets.benchmarks.benchmark_files import read_benchmark_table
from align_keras.utils.errors import InputError

PAIRS = 999
_COLUMNS = ("word1", "word2", "POS", "SimLex999")


@dataclasses.dataclass(frozen=True)
class SimLexPair:
    """Two words with the rating of their similarity.

    Attributes:
        part_of_speech: `"A"` (adjective), `"N"` (noun) or `"V"` (verb).
        similarity: float in [0, 10].
        concreteness_quartile: int from 1 to 4.
        is_hard: whether the pair is one of the 333 most associated pairs.
    """

    word1: str
    word2: str
    part_of_speech: str
    similarity: float
    concreteness_quartile: int
    is_hard: bool


def read_simlex(path: str | os.PathLike) -> list[SimLexPair]:
    """Reads the word pairs of SimLex-999.

    Args:
        path: `SimLex-999.txt`.

    Returns:
        list of `SimLexPair`.

    Raises:
        InputError: If the file is missing, damaged or incomplete.

    References:
        Hill, Reichart and Korhonen 2015.
        Jia et al. 2021, table 12.
    """
    path = pathlib.Path(path)
    _, rows = read_benchmark_table(path, ".tsv", _COLUMNS)
    pairs = [_pair(row) for row, _ in rows]
    if len(pairs) != PAIRS:
        raise InputError(
            f"{path} must have {PAIRS} pairs. Received: {len(pairs)} pairs."
        )
    return pairs


def _pair(cells: dict[str, str]) -> SimLexPair:
    row = {name: cell.strip() for name, cell in cells.items()}
    return SimLexPair(
        word1=row["word1"],
        word2=row["word2"],
        part_of_speech=row["POS"],
        similarity=float(row["SimLex999"]),
        concreteness_quartile=int(row["concQ"]),
        is_hard={"0": False, "1": True}[row["SimAssoc333"]],
    )
