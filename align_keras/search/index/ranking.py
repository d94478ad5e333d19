"""Ranking of the rows of a vectors file by their scores.

A large index has an approximate index, which returns candidates. The exact vectors of
the candidates are ranked. In other indexes, all vectors are scanned.

A matrix product in float32 scores all rows first. Its last digits depend on the
position of a row in the matrix. The rows near the requested number of hits are
therefore scored again in float64 with a fixed order of summation. As a result, equal
rows have equal scores, and the ranking is the same as in a brute-force search in
float64.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from align_keras.search.index import approximate
from align_keras.search.index.half_rows import HalfRows
from align_keras.search.index.vectors_file import VectorsFile

# Number of rows per float32 product, 100 MB for embeddings of width 384.
_ROW_BLOCK = 65_536
# Number of rows per float64 product. A block fits into the processor's cache.
_EXACT_BLOCK = 1024


def ranked_blocks(
    file: VectorsFile,
    vectors: Any,
    tolerance: float,
    embedding: np.ndarray,
    rows: np.ndarray | None,
    k: int,
    scanned: np.ndarray | None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields rows and their exact scores in descending order.

    The first block comes from the approximate index, if it is used. If the caller needs
    more rows, because many of them are near-duplicates or have no image, the further
    blocks come from an exact scan.

    Args:
        file: vectors file.
        vectors: float32 (n, d), its rows.
        tolerance: largest deviation of a norm from 1.
        embedding: float32 (d,), embedding of the query.
        rows: int64 (m,), sorted rows to rank, or None for all rows.
        k: number of requested images.
        scanned: float32 (n,), scores of all rows if they are already computed.
    """
    # The largest possible score is the product of both norms.
    limit = float(np.linalg.norm(embedding)) * (1.0 + tolerance)
    approximate_index = candidates = None
    if rows is None or len(rows) > approximate.LEAST_SHARE * len(vectors):
        approximate_index = file.approximate_index(len(vectors))
    count = 4 * k + 64
    if approximate_index is not None:
        candidates = approximate_index.find(embedding, count, vectors, rows)
    yielded = np.zeros(0, np.int64)
    if candidates is not None:
        ranked = _rank_exactly(file, vectors, embedding, candidates, count, limit, None)
        for yielded, scores in itertools.islice(ranked, 1):
            yield yielded, scores
    # The additional rows replace near-duplicates and rows without an image.
    for best, scores in _rank_exactly(
        file, vectors, embedding, rows, k + 64, limit, scanned
    ):
        is_new = ~contains(yielded, best)
        yield best[is_new], scores[is_new]


def contains(members: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Returns a bool array (n,), True for each of the int64 rows that is a member.

    `np.isin` would import `numpy.ma`, which takes a tenth of the time of a search.
    """
    if not len(members):
        return np.zeros(len(rows), bool)
    ordered = np.sort(members)
    found = ordered[np.searchsorted(ordered, rows).clip(max=len(ordered) - 1)]
    is_member: np.ndarray = found == rows
    return is_member


def _rank_exactly(
    file: VectorsFile,
    vectors: Any,
    embedding: np.ndarray,
    rows: np.ndarray | None,
    size: int,
    limit: float,
    scanned: np.ndarray | None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields rows and their exact scores. `size` is the length of the first block."""
    if scanned is None:
        scanned = scan(vectors, embedding, rows)
    deviation = 0.0
    if not isinstance(vectors, np.ndarray):
        # A scan of float16 ignores parts of the rows.
        deviation = vectors.deviation * float(np.linalg.norm(embedding))
    file.check_scores(scanned, rows, limit + deviation)
    error = scan_error(vectors.shape[1], limit) + deviation
    yield from by_rank(vectors, embedding, rows, scanned, size, error)


def by_rank(
    vectors: np.ndarray | HalfRows,
    embedding: np.ndarray,
    rows: np.ndarray | None,
    scores: np.ndarray,
    size: int,
    error: float,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields rows and their exact scores in descending order, in growing blocks.

    Equal scores are in the order of the rows.

    Args:
        vectors: float32 (n, d), all vectors.
        embedding: float32 (d,), embedding of the query.
        rows: int64 (m,), sorted rows to rank, or None for all rows.
        scores: float32, their finite scores from `scan`.
        size: minimum number of rows in the first block. Each further block is four
            times as large.
        error: upper bound for the error of `scores`.

    Yields:
        int64 rows and float64 scores.
    """
    done = 0
    while done < len(scores):
        stop = min(done + size, len(scores))
        cut = float(np.partition(scores, len(scores) - stop)[len(scores) - stop])
        near = np.flatnonzero(scores >= cut - 2.0 * error)
        near_rows = near if rows is None else rows[near]
        near_scores = exact_scores(vectors, embedding, near_rows)
        order = np.lexsort((near, -near_scores))
        # At least `stop` positions pass this test, and no other position can have a
        # higher exact score than any of them.
        order = order[near_scores[order] >= cut - error]
        yield near_rows[order[done:]], near_scores[order[done:]]
        done, size = len(order), 4 * size


def scan(
    vectors: np.ndarray | HalfRows, embedding: np.ndarray, rows: np.ndarray | None
) -> np.ndarray:
    """Returns the float32 scores (n,) of all vectors, or of the given rows."""
    if isinstance(vectors, HalfRows):
        return vectors.scan(embedding, rows)
    count = len(vectors) if rows is None else len(rows)
    scores = np.empty(count, np.float32)
    for start in range(0, count, _ROW_BLOCK):
        stop = start + _ROW_BLOCK
        block = vectors[start:stop] if rows is None else vectors[rows[start:stop]]
        # The caller checks the scores for damaged rows, so NumPy's warnings are
        # disabled.
        with np.errstate(over="ignore", invalid="ignore"):
            np.matmul(block, embedding, out=scores[start:stop])
    return scores


def scan_many(vectors: np.ndarray | HalfRows, embeddings: np.ndarray) -> np.ndarray:
    """Returns the float32 scores (q, n) of all vectors for several queries.

    The vectors are read once for all queries. A score differs from that of `scan` by
    rounding errors.

    Args:
        vectors: float32 (n, d), or `HalfRows`.
        embeddings: float32 (q, d).
    """
    if isinstance(vectors, HalfRows):
        return np.ascontiguousarray(vectors.scan(embeddings.T, None).T)
    scores = np.empty((len(embeddings), len(vectors)), np.float32)
    for start in range(0, len(vectors), _ROW_BLOCK):
        stop = start + _ROW_BLOCK
        with np.errstate(over="ignore", invalid="ignore"):
            scores[:, start:stop] = embeddings @ vectors[start:stop].T
    return scores


def scan_error(dimension: int, limit: float) -> float:
    """Returns an upper bound for the rounding error of a score of `scan`.

    Args:
        dimension: width of the embeddings.
        limit: product of the query's norm and the largest norm of a row.

    References:
        Higham, "Accuracy and Stability of Numerical Algorithms", section 3.1.
    """
    unit = (dimension + 2) * 2.0**-24
    return unit / (1.0 - unit) * limit


def exact_scores(
    vectors: np.ndarray | HalfRows, embedding: np.ndarray, rows: np.ndarray
) -> np.ndarray:
    """Returns float64 scores (n,), which do not depend on the position of a row."""
    query = embedding.astype(np.float64)
    scores = np.empty(len(rows))
    for start in range(0, len(rows), _EXACT_BLOCK):
        block = vectors[rows[start : start + _EXACT_BLOCK]]
        # A matrix product would sum the last rows of a block in a different order.
        scores[start : start + _EXACT_BLOCK] = (block * query).sum(axis=1)
    return scores
