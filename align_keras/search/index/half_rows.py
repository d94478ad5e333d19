"""Embeddings in float16 in the vectors file of an index folder.

float16 takes half the space. The approximate index of faiss compresses large indexes.
"""

import math
from collections.abc import Sequence

import numpy as np

# Rows that are converted to float32 at once. The converted rows fit into the second
# level of the processor's cache.
_BLOCK = 256
# A number in float16 whose bits are moved to the positions of float32 is smaller by
# 2**112, because the exponents have different offsets. The query and the score have a
# part of this factor each, so that neither overflows.
_QUERY_SCALE = np.float32(2.0**64)
_SCORE_SCALE = np.float32(2.0**48)
_HALF_SHIFT = 13
# Smaller numbers become subnormal, and some libraries make the processor ignore those.
_SMALLEST_HALF = 2.0**-14
# Sign, exponent and fraction of such a number. The other bits are copies of the sign.
_HALF_MASK = np.uint32(0x8FFFFFFF).view(np.int32)

Rows = int | slice | Sequence[int] | np.ndarray


class HalfRows:
    """Rows of float16, which are converted when they are read.

    `rows[start:stop]`, `rows[numbers]` and `rows[number]` are float32 arrays.

    Args:
        stored: float16 (n, d), memory map of the vectors file.
    """

    def __init__(self, stored: np.ndarray) -> None:
        self._stored = stored

    def __len__(self) -> int:
        return len(self._stored)

    @property
    def shape(self) -> tuple[int, ...]:
        return self._stored.shape

    @property
    def nbytes(self) -> int:
        """Size of the converted rows in bytes."""
        return 2 * self._stored.nbytes

    @property
    def deviation(self) -> float:
        """Largest norm of the part of an embedding that `scan` ignores."""
        return _SMALLEST_HALF * math.sqrt(self._stored.shape[1])

    def first(self, count: int) -> "HalfRows":
        """Returns the first rows."""
        return HalfRows(self._stored[:count])

    def __getitem__(self, rows: Rows) -> np.ndarray:
        return self._stored[rows].astype(np.float32)

    def scan(self, query: np.ndarray, rows: np.ndarray | None) -> np.ndarray:
        """Returns approximate float32 scores (n,), or (n, q) for several queries.

        The error is at most that of `ranking.scan_error`, plus `deviation` times the
        norm of the query.

        Args:
            query: float32 (d,), or (d, q) for several queries.
            rows: int64 (m,), rows to score, or None for all rows.
        """
        # NumPy converts float16 without the instructions of the processor. Moving the
        # bits takes less than half the time.
        bits = self._stored.view(np.int16)
        moved = np.empty((_BLOCK, bits.shape[1]), np.int32)
        scaled_query = query * _QUERY_SCALE
        count = len(bits) if rows is None else len(rows)
        scores = np.empty((count, *query.shape[1:]), np.float32)
        for start in range(0, count, _BLOCK):
            stop = min(start + _BLOCK, count)
            block = bits[start:stop] if rows is None else bits[rows[start:stop]]
            target = moved[: len(block)]
            np.copyto(target, block)
            np.left_shift(target, _HALF_SHIFT, out=target)
            np.bitwise_and(target, _HALF_MASK, out=target)
            # The caller checks the scores for damaged rows.
            with np.errstate(over="ignore", invalid="ignore"):
                np.matmul(target.view(np.float32), scaled_query, out=scores[start:stop])
        scores *= _SCORE_SCALE
        return scores
