"""Exact scores of pairs in fixed point, and counts of those that reach one."""

import numpy as np

from align_keras.evaluation.fixed_point import FRACTION_BITS

# Where more than one pair in so many is too near to be told apart in float32,
# the whole block is scored exactly.
_FEW = 32


def pair_scores(queries, gallery, owners, rows, chunk):
    """Exact scores of chosen pairs.

    Args:
        queries: fixed-point array (queries, dimension).
        gallery: function from an array of rows to these, in fixed point.
        owners: int array (pairs,), rows of `queries`.
        rows: int array (pairs,), rows of the gallery.
        chunk: int, pairs that are scored at once.

    Returns:
        float64 array (pairs,).
    """
    scores = np.empty(len(owners))
    for start in range(0, len(scores), chunk):
        part = slice(start, start + chunk)
        scores[part] = np.einsum("ij,ij->i", queries[owners[part]], gallery(rows[part]))
    return scores


class CountAtLeast:
    """Counts, for each query, the rows that score at least its threshold, exactly.

    A first pass in float32 settles all pairs but those so near to the threshold
    that its rounding may err; these are scored anew. It takes half of float64's
    time.

    Args:
        queries: fixed-point array (queries, dimension).
        thresholds: float64 array (queries,).
        block_size: int, rows that are counted at once at most.

    Example:
    >>> count = CountAtLeast(np.array([[1.0, 2.0]]), np.array([4.0]), block_size=3)
    >>> count(np.array([[0.0, 2.0], [5.0, -1.0], [1.0, 2.0]])).tolist()
    [2]
    """

    def __init__(self, queries, thresholds, block_size):
        self._queries, self._thresholds = queries, thresholds
        self._inexact = queries.astype(np.float32)
        # The rounding of both entries, of their product and of the sums, in any
        # order, moves a score by at most (dimension + 2) units of 2**-24 of both
        # lengths; these are 2**26 each, and 4 units more cover terms of the second
        # order and the rounding of the thresholds.
        slack = (queries.shape[1] + 6) * 2.0 ** (2 * FRACTION_BITS - 24)
        self._low = (thresholds - slack).astype(np.float32)[:, None]
        self._high = (thresholds + slack).astype(np.float32)[:, None]
        # Memory that is asked for anew at each block costs as much as the product.
        self._scores = np.empty((block_size, len(queries)), np.float32)
        self._chunk = block_size

    def __call__(self, rows):
        """Returns the counts among some rows.

        Args:
            rows: fixed-point array (rows, dimension), at most `block_size` rows.

        Returns:
            int64 array (queries,).
        """
        size = (len(self._queries), len(rows))
        scores = self._scores.reshape(-1)[: size[0] * size[1]].reshape(size)
        np.matmul(self._inexact, rows.astype(np.float32).T, out=scores)
        surely = scores > self._high
        counts = np.count_nonzero(surely, axis=1)
        near = scores >= self._low
        near ^= surely
        pairs = np.flatnonzero(near)
        if len(pairs) * _FEW > near.size:
            exact = self._queries @ rows.T
            return np.count_nonzero(exact >= self._thresholds[:, None], axis=1)
        owners, found = np.divmod(pairs, len(rows))
        exact = pair_scores(self._queries, rows.__getitem__, owners, found, self._chunk)
        reached = owners[exact >= self._thresholds[owners]]
        return counts + np.bincount(reached, minlength=len(counts))
