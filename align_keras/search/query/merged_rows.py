"""Near-duplicates among the rows of a search, which are merged into the best row."""

import dataclasses
from collections.abc import Iterable

import numpy as np

from align_keras.search.index.image_store import RankedRows

# Minimum cosine similarity of near-duplicates. With align_small_en and 80 JPEGs, the
# threshold detects 97% of the copies at 0.7 times the size, 91% at half the size, 76%
# with 2% cropped on each side, and 65% at JPEG quality 50. Among 962 stamp images it
# detects 24 pairs, which are mirrored or nearly the same.
NEAR_DUPLICATE_COSINE = 0.95
# Number of rows that are compared with each other at a time, and maximum number of
# similarities that are in memory at a time.
_ROWS_PER_PART = 64
SCORES_PER_PART = 1_000_000


@dataclasses.dataclass(slots=True)
class RankedRow:
    """Row in the result of a search, with the rows of its near-duplicates."""

    score: float
    row: int
    copies: list[int] = dataclasses.field(default_factory=list)


def merge_near_duplicates(
    ranked: Iterable[RankedRows], k: int, keep_duplicates: bool
) -> list[RankedRow]:
    """Merges near-duplicates into the best image among them.

    Args:
        ranked: blocks of rows in descending order of the score.
        k: maximum number of results.
        keep_duplicates: True to return near-duplicates as separate results.

    Returns:
        The best rows. The copies are the near-duplicates that were merged into the row.
    """
    merged = _MergedRows(k)
    for block in ranked:
        if keep_duplicates:
            merged.append_all(block)
        else:
            merged.merge(block)
        if len(merged.results) >= k:
            break
    return merged.results


class _MergedRows:
    """Results of `merge_near_duplicates`, and their vectors."""

    def __init__(self, k: int) -> None:
        self.results: list[RankedRow] = []
        self._k = k
        # The size of the array is doubled when it is full.
        self._vectors = np.zeros((64, 0), np.float32)

    def append_all(self, block: RankedRows) -> None:
        """Adds the rows of a block to the results without merging them."""
        count = self._k - len(self.results)
        self.results += map(
            RankedRow, block.scores[:count].tolist(), block.rows[:count].tolist()
        )

    def merge(self, block: RankedRows) -> None:
        """Adds each row of a block to the results or to the copies of a result."""
        start = 0
        while start < len(block.rows):
            stop = start + _ROWS_PER_PART
            num_results = len(self.results)
            if num_results >= self._k:
                # No row becomes a result, so the rows are not compared with each other.
                stop = start + max(_ROWS_PER_PART, SCORES_PER_PART // num_results)
            self._merge_part(RankedRows(*(values[start:stop] for values in block)))
            start = stop

    def _merge_part(self, part: RankedRows) -> None:
        num_old = len(self.results)
        old_vectors = self._vectors[:num_old]
        if not num_old:
            old_vectors = part.vectors[:0]
        is_near_old: np.ndarray = part.vectors @ old_vectors.T >= NEAR_DUPLICATE_COSINE
        has_near = np.asarray(is_near_old.any(axis=1))
        is_near_part = None
        if num_old < self._k:
            is_near_part = part.vectors @ part.vectors.T >= NEAR_DUPLICATE_COSINE
            has_near = has_near | np.tril(is_near_part, -1).any(axis=1)
        rows, scores = part.rows.tolist(), part.scores.tolist()
        # Positions in the part that become results.
        added: list[int] = []
        for position, may_be_copy in enumerate(has_near.tolist()):
            if may_be_copy:
                is_near = is_near_old[position]
                if is_near_part is not None:
                    is_near = np.append(is_near, is_near_part[position, added])
                if is_near.any():
                    best = int(np.argmax(is_near))
                    self.results[best].copies.append(rows[position])
                    continue
            if len(self.results) < self._k:
                self.results.append(RankedRow(scores[position], rows[position]))
                added.append(position)
        self._append_vectors(num_old, part.vectors[added])

    def _append_vectors(self, start: int, vectors: np.ndarray) -> None:
        stop = start + len(vectors)
        if not start:
            self._vectors = np.zeros((len(self._vectors), vectors.shape[1]), np.float32)
        while stop > len(self._vectors):
            unused = np.zeros_like(self._vectors)
            self._vectors = np.concatenate([self._vectors, unused])
        self._vectors[start:stop] = vectors
