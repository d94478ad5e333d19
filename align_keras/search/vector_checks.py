"""Checks of embeddings that are read from disk: finite values, norms and checksums.

A disk or a copy can change single bits. Each row has a CRC-32, which finds any such
change. It is compared for the rows that a search returns, and for all rows by
`Index.check`. Norms are cheaper, so a search compares more of them: those of its
candidates and of a sample.
"""

import zlib

import numpy as np

# Norms of an index without a recorded deviation. Half precision may miss 1 by a few
# thousandths.
UNRECORDED_NORM_ERROR = 0.01
# Share of a norm. Rounding of sums in float32, in an order that BLAS chooses.
_ROUNDING = 1e-5
# Rows whose norms are computed at once, so that they stay in the processor's cache.
_BLOCK_ROWS = 4096


def row_checksums(vectors: np.ndarray) -> list[int]:
    """Returns the CRC-32 of each row, float32 (n, d) in little-endian order."""
    rows = np.ascontiguousarray(vectors, "<f4")
    return [zlib.crc32(row) for row in rows]


def norm_error(vectors: np.ndarray) -> float:
    """Returns the largest distance of a row's norm from 1, or 0.0 without rows."""
    if not len(vectors):
        return 0.0
    return float(np.abs(_norms(vectors) - 1.0).max())


def norm_tolerance(recorded: float | None) -> float:
    """Returns how far a norm may be from 1.

    Args:
        recorded: largest distance when the rows were written, or None if unknown.
    """
    if recorded is None:
        recorded = UNRECORDED_NORM_ERROR
    return 2.0 * recorded + _ROUNDING


def first_wrong_norm(vectors: np.ndarray, tolerance: float) -> int | None:
    """Returns the first row whose norm is not within `tolerance` of 1, or None."""
    for start in range(0, len(vectors), _BLOCK_ROWS):
        norms = _norms(vectors[start : start + _BLOCK_ROWS])
        # NaN compares as false.
        is_right = np.abs(norms - 1.0) <= tolerance
        if not is_right.all():
            return start + int(np.argmin(is_right))
    return None


def first_wrong_score(scores: np.ndarray, limit: float) -> int | None:
    """Returns the first position of a score that is NaN or too large, or None."""
    if not len(scores):
        return None
    # Extremes of NaN are NaN, which compares as false.
    if scores.max() <= limit and scores.min() >= -limit:
        return None
    return int(np.argmin(np.abs(scores) <= limit))


def _norms(vectors: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        return np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
