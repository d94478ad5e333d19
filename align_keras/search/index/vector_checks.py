"""Checks for damage in the embeddings that are read from disk.

A faulty disk or copy can change single bits. The index stores a CRC-32 of each row,
which detects any such change. A search checks the checksums of the rows that it
returns, and `Index.check` checks all rows. Norms are cheaper to compute, so a search
also checks the norms of all its candidates and of a sample of the rows.
"""

import zlib

import numpy as np

# Relative error of a norm in float32, which depends on the order in which BLAS sums.
_ROUNDING = 1e-5
# Number of rows per block. A block fits into the processor's cache.
_BLOCK_ROWS = 4096


def row_checksums(vectors: np.ndarray) -> list[int]:
    """Returns the CRC-32 of each row of float32 (n, d), in little-endian byte order."""
    rows = np.ascontiguousarray(vectors, "<f4")
    return [zlib.crc32(row) for row in rows]


def norm_error(vectors: np.ndarray) -> float:
    """Returns the largest deviation of a row's norm from 1, or 0.0 without rows."""
    if not len(vectors):
        return 0.0
    return float(np.abs(_norms(vectors) - 1.0).max())


def norm_tolerance(recorded: float) -> float:
    """Returns the largest allowed deviation of a norm from 1.

    Args:
        recorded: largest deviation when the rows were written.
    """
    return 2.0 * recorded + _ROUNDING


def first_invalid_norm(vectors: np.ndarray, tolerance: float) -> int | None:
    """Returns the first row whose norm is not within `tolerance` of 1, or None."""
    for start in range(0, len(vectors), _BLOCK_ROWS):
        norms = _norms(vectors[start : start + _BLOCK_ROWS])
        # Comparisons with NaN are False, so a row with NaN is not valid.
        is_valid = np.abs(norms - 1.0) <= tolerance
        if not is_valid.all():
            return start + int(np.argmin(is_valid))
    return None


def first_invalid_score(scores: np.ndarray, limit: float) -> int | None:
    """Returns the position of the first score that is NaN or too large, or None."""
    if not len(scores):
        return None
    # With a NaN among the scores, max() and min() are NaN and the comparison is False.
    if scores.max() <= limit and scores.min() >= -limit:
        return None
    return int(np.argmin(np.abs(scores) <= limit))


def _norms(vectors: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        return np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
