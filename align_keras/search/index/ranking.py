"""Ranking of the rows of a vectors file by their scores.

A large index has an approximate index, which returns candidates. The exact vectors of
the candidates are ranked. In other indexes, all vectors are scanned.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from align_keras.search.index import approximate, exact_scan
from align_keras.search.index.vectors_file import VectorsFile


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
        is_new = ~np.isin(best, yielded)
        yield best[is_new], scores[is_new]


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
        scanned = exact_scan.scan(vectors, embedding, rows)
    deviation = 0.0
    if not isinstance(vectors, np.ndarray):
        # A scan of float16 ignores parts of the rows.
        deviation = vectors.deviation * float(np.linalg.norm(embedding))
    file.check_scores(scanned, rows, limit + deviation)
    error = exact_scan.scan_error(vectors.shape[1], limit) + deviation
    yield from exact_scan.by_rank(vectors, embedding, rows, scanned, size, error)
