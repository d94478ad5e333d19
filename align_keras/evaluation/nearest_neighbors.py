"""Exact nearest neighbors in a gallery that may be larger than memory.

A float32 product scores all pairs. A bound on its error determines the pairs that may
be among the top k. Only these pairs are scored again in fixed point, as described in
`exact_scores`.
"""

from typing import Any

import numpy as np

from align_keras.evaluation.exact_scores import (
    FRACTION_BITS,
    as_matrix,
    fixed_point,
    pair_scores,
    row_norms,
)
from align_keras.utils.arguments import check_number

# Number of pairs that are scored at once in fixed point. 2 × 4096 × 640 float64 numbers
# take 42 MB.
_PAIRS = 4096
# Fraction of the pairs of a block. If more pairs must be scored again, a float64
# product of the whole block is faster.
_DENSE = 1 / 128
# Rank if no neighbor has the correct class.
_NEVER = np.iinfo(np.int64).max


def nearest_neighbors(
    query_embeddings: Any, gallery_embeddings: Any, k: int, block_size: int = 4096
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the k gallery rows with the largest inner products.

    The search is exact. Rows with equal scores are sorted by row number. The result
    depends neither on `block_size` nor on the machine.

    Args:
        query_embeddings: real array (queries, dimension), finite.
        gallery_embeddings: real array (rows, dimension), finite, can be
            memory-mapped. It is read once for each block of queries.
        k: int in [1, rows].
        block_size: int >= 1, number of queries and gallery rows that are scored at
            once. The memory grows with its square and not with the gallery.

    Returns:
        int64 array (queries, k) of gallery rows, nearest first, and float64 array
        (queries, k) of their scores.

    Raises:
        InputError: if the shapes don't match, embeddings are empty or not finite, or k
            is out of range.

    References:
        Jia et al. 2021, section 6 (nearest training images).

    Example:
    >>> gallery = np.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [0.6, 0.8]])
    >>> rows, scores = nearest_neighbors(gallery[1:2], gallery, k=3)
    >>> rows.tolist(), scores.round(6).tolist()
    ([[1, 3, 2]], [[1.0, 1.0, 0.8]])
    """
    queries = as_matrix(query_embeddings)
    gallery = as_matrix(gallery_embeddings)
    check_number("`k`", k, 1, len(gallery), whole=True)
    check_number("`block_size`", block_size, 1, 2**31, whole=True)
    query_norms = row_norms("query_embeddings", queries)
    gallery_norm = row_norms("gallery_embeddings", gallery).max()
    rows = np.empty((len(queries), k), np.int64)
    scores = np.empty((len(queries), k))
    for start in range(0, len(queries), block_size):
        part = slice(start, start + block_size)
        search = _Search(queries[part], query_norms[part], gallery_norm, k)
        for row in range(0, len(gallery), block_size):
            search.add(row, gallery[row : row + block_size])
        rows[part] = search.rows
        exponents = np.frexp(query_norms[part])[1] + np.frexp(gallery_norm)[1]
        # The product of rows with very large norms overflows float64.
        with np.errstate(over="ignore"):
            scores[part] = np.ldexp(
                search.scores, exponents[:, None] - 2 * FRACTION_BITS
            )
    return rows, scores


class _Search:
    """Running top-k search for a block of queries.

    Attributes:
        rows: int64 array (queries, k) of the best rows so far, best first, filled up
            with -1.
        scores: float64 array (queries, k) of their scores, which are integers, filled
            up with -inf.
    """

    def __init__(
        self, queries: np.ndarray, norms: np.ndarray, gallery_norm: float, k: int
    ) -> None:
        self._norm = gallery_norm
        self._exact = fixed_point(queries, norms)
        self._fast = _scaled(queries, np.frexp(norms)[1][:, None])
        self._bound = _error_bound(queries.shape[1])
        self.rows = np.full((len(queries), k), -1, np.int64)
        self.scores = np.full((len(queries), k), -np.inf)

    def add(self, first: int, block: np.ndarray) -> None:
        """Adds a block of gallery rows.

        Args:
            first: gallery row of the first row of the block.
            block: real array (rows, dimension).
        """
        fast = self._fast @ _scaled(block, np.frexp(self._norm)[1]).T
        # The scaled rows are shorter than 1. The exact scores are divided by 2**52 to
        # have the same scale.
        least = np.ldexp(self.scores[:, -1], -2 * FRACTION_BITS) - self._bound
        near = (
            fast >= np.nextafter(least.astype(np.float32), np.float32(-np.inf))[:, None]
        )
        if np.count_nonzero(near) > _DENSE * near.size:
            self._merge_all(first, block)
        else:
            # `divmod` of a flat index is faster than `np.nonzero` of a matrix.
            owners, columns = np.divmod(np.flatnonzero(near), len(block))
            self._merge(first, block, owners, columns)

    def _fixed(self, block: np.ndarray) -> np.ndarray:
        return fixed_point(block, np.full(len(block), self._norm))

    def _merge_all(self, first: int, block: np.ndarray) -> None:
        """Scores all pairs of a block again and merges them into the best rows."""
        exact = self._exact @ self._fixed(block).T
        # Blocks are in the order of the gallery, so that a later row loses a tie.
        better = np.flatnonzero((exact > self.scores[:, -1:]).any(axis=1))
        # Sorting takes several times the memory of the scores, so it runs in parts.
        for part in np.array_split(better, max(1, len(better) // 256)):
            new_rows = np.broadcast_to(
                np.arange(first, first + len(block)), (len(part), len(block))
            )
            rows = np.hstack([self.rows[part], new_rows])
            scores = np.hstack([self.scores[part], exact[part]])
            k = self.scores.shape[1]
            order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            self.rows[part] = np.take_along_axis(rows, order, axis=1)
            self.scores[part] = np.take_along_axis(scores, order, axis=1)

    def _merge(
        self, first: int, block: np.ndarray, owners: np.ndarray, columns: np.ndarray
    ) -> None:
        """Scores pairs of queries and block rows again and merges them."""
        exact = pair_scores(
            self._exact, lambda rows: self._fixed(block[rows]), owners, columns, _PAIRS
        )
        better = exact > self.scores[owners, -1]
        owners, rows = owners[better], first + columns[better]
        k = self.scores.shape[1]
        changed = np.unique(owners)
        all_owners = np.concatenate([np.repeat(changed, k), owners])
        all_rows = np.concatenate([self.rows[changed].ravel(), rows])
        all_scores = np.concatenate([self.scores[changed].ravel(), exact[better]])
        # The order is by query, score and row. `lexsort` sorts by its last key first.
        order = np.lexsort([all_rows, -all_scores, all_owners])
        starts = np.searchsorted(all_owners[order], changed)
        best = order[starts[:, None] + np.arange(k)]
        self.rows[changed], self.scores[changed] = all_rows[best], all_scores[best]


def _scaled(block: np.ndarray, exponents: np.ndarray) -> np.ndarray:
    """Divides rows by powers of two, so that they are shorter than 1, in float32."""
    # float16 and integer inputs are converted, since they could overflow.
    kind = np.float32 if block.dtype == np.float32 else np.float64
    return np.ldexp(np.asarray(block, kind), -exponents).astype(np.float32, copy=False)


def _error_bound(dimension: int) -> float:
    """Returns a bound on the error of a float32 score of rows shorter than 1."""
    # Rounding the entries and summing in any order has an error of at most γ(d + 2)
    # (Higham, "Accuracy and Stability of Numerical Algorithms", section 3.1). Rounding
    # to fixed point changes a score by less than √d · 2**-26. The factor of two covers
    # entries that are too small for float32 and the rounding of this sum.
    unit = (dimension + 2) * 2.0**-24
    return 2 * (unit / (1 - unit) + np.sqrt(dimension) * 2.0**-FRACTION_BITS)


def neighbor_ranks(neighbor_labels: Any, labels: Any) -> np.ndarray:
    """Returns the rank of the first neighbor with the correct class.

    Args:
        neighbor_labels: integer array (queries, k), classes of the neighbors, nearest
            first.
        labels: integer array (queries,), correct classes.

    Returns:
        int64 array (queries,). The rank is 0 if the nearest neighbor has the correct
        class. It is the largest int64, which is a miss at any k, if no neighbor has it.

    References:
        Jia et al. 2021, section 6. R@K is the fraction of queries whose label is among
        the labels of the K nearest neighbors.

    Example:
    >>> neighbor_ranks(np.array([[3, 1], [3, 1]]), np.array([3, 1])).tolist()
    [0, 1]
    """
    neighbor_labels = np.asarray(neighbor_labels)
    labels = np.asarray(labels)
    right = neighbor_labels == labels[:, None]
    return np.where(right.any(axis=1), right.argmax(axis=1), _NEVER)
