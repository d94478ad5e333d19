"""Exact scores of a query with all vectors, from the highest on.

A float32 product scores everything. Its last digits depend on the place of a row, so
rows near a cut are scored again in float64, in a fixed order of summation: rows that
are equal have equal scores, and the order is that of brute force.
"""

from collections.abc import Callable, Iterator

import numpy as np

# Rows scored at once: 100 MB of an embedding of 384 numbers.
_ROW_BLOCK = 65_536
# Rows scored in float64 at once, which stay in the processor's cache.
_EXACT_BLOCK = 1024


def scan(
    vectors: np.ndarray, embedding: np.ndarray, rows: np.ndarray | None
) -> np.ndarray:
    """Returns the float32 scores (n,) of all vectors, or of some rows."""
    count = len(vectors) if rows is None else len(rows)
    scores = np.empty(count, np.float32)
    for start in range(0, count, _ROW_BLOCK):
        stop = start + _ROW_BLOCK
        block = vectors[start:stop] if rows is None else vectors[rows[start:stop]]
        # Damaged rows are found by their scores.
        with np.errstate(over="ignore", invalid="ignore"):
            np.matmul(block, embedding, out=scores[start:stop])
    return scores


def scan_error(dimension: int, limit: float) -> float:
    """Returns how far a score of `scan` may be from the exact one.

    Args:
        dimension: width of the embeddings.
        limit: product of the query's norm and the largest norm of a row.

    References:
        Higham, "Accuracy and Stability of Numerical Algorithms", section 3.1.
    """
    unit = (dimension + 2) * 2.0**-24
    return unit / (1.0 - unit) * limit


def exact_scores(
    vectors: np.ndarray, embedding: np.ndarray, rows: np.ndarray
) -> np.ndarray:
    """Returns float64 scores (n,) of rows, the same wherever a row is."""
    query = embedding.astype(np.float64)
    scores = np.empty(len(rows))
    for start in range(0, len(rows), _EXACT_BLOCK):
        block = vectors[rows[start : start + _EXACT_BLOCK]]
        # A matrix product would sum the last rows of a block in another order.
        scores[start : start + _EXACT_BLOCK] = (block * query).sum(axis=1)
    return scores


def by_rank(
    scores: np.ndarray,
    size: int,
    exact: Callable[[np.ndarray], np.ndarray],
    error: float,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields positions and exact scores from the highest on, in ever larger blocks.

    Args:
        scores: float32 scores (n,) of `scan`.
        size: least number of positions in the first block.
        exact: returns the exact scores of positions.
        error: how far `scores` may be from the exact ones.

    Yields:
        int64 positions and float64 scores. Equal scores come in the order of positions.

    Raises:
        ValueError: if a score is NaN or infinite, which has no rank.
    """
    if not np.isfinite(scores).all():
        raise ValueError("`scores` must be finite. Received NaN or infinity.")
    done = 0
    while done < len(scores):
        stop = min(done + size, len(scores))
        cut = float(np.partition(scores, len(scores) - stop)[len(scores) - stop])
        near = np.flatnonzero(scores >= cut - 2.0 * error)
        near_scores = exact(near)
        order = np.lexsort((near, -near_scores))
        # No other position scores as high as these, of which there are `stop` or more.
        order = order[near_scores[order] >= cut - error]
        yield near[order[done:]], near_scores[order[done:]]
        done, size = len(order), 4 * size
