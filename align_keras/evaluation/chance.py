"""What a random ranking would reach, so that a recall can be judged."""

import numpy as np

from align_keras.evaluation.recall_at_k import as_ks, as_positive_lists
from align_keras.utils.errors import InputError


def chance_recall_at_k(positives, gallery_rows, ks=(1, 5, 10), *, leave_out_self=False):
    """Expected recall at k of a uniformly random ranking, exactly.

    A query with m right rows in a gallery of n misses them all in its first k
    with the hypergeometric probability C(n - m, k) / C(n, k); the expectation
    is one minus its mean over the queries that have positives.

    Args:
        positives: sequence with, for each query, the gallery rows that are
            hits, as for `recall_at_k`.
        gallery_rows: int >= 1, the size of the gallery.
        ks: integers >= 1.
        leave_out_self: bool, whether a query doesn't find itself, one row of the
            gallery.

    Returns:
        dict from each k to a float in (0, 1].

    Raises:
        InputError: for rows outside the gallery, k < 1, and when no query has
            a positive.

    Example:
    >>> chance_recall_at_k([[0], [1]], gallery_rows=4, ks=(1, 2, 9))
    {1: 0.25, 2: 0.5, 9: 1.0}
    """
    ks = as_ks(ks)
    lists = as_positive_lists(positives, len(positives), gallery_rows)
    right = np.array([len(np.unique(rows)) for rows in lists if len(rows)])
    if not len(right):
        raise InputError(
            "`positives` must name a gallery row for at least one query, got none; "
            "check that queries and gallery belong together."
        )
    gallery_rows -= leave_out_self
    right, queries = np.unique(right, return_counts=True)
    expected = {}
    miss, drawn = np.ones(len(right)), 0
    for k in sorted(ks):
        while drawn < min(k, gallery_rows):
            # One more row drawn without replacement, and wrong again.
            wrong_left = np.maximum(gallery_rows - right - drawn, 0)
            miss = miss * wrong_left / (gallery_rows - drawn)
            drawn += 1
        expected[k] = float(np.average(1.0 - miss, weights=queries))
    return {k: expected[k] for k in ks}
