"""Spearman's rank correlation."""

import numpy as np

from align_keras.utils.errors import InputError


def spearman(first, second):
    """Pearson's correlation of the ranks, equal values at their average rank.

    Where one side is constant it ranks nothing, and the correlation, which isn't
    defined, counts as 0: so does a model that has collapsed to one point.

    Args:
        first: real array (n,), n >= 2, finite.
        second: real array (n,).

    Returns:
        float in [-1, 1].

    Raises:
        InputError: for other shapes, fewer than two values, and what isn't
            finite.

    Example:
    >>> round(spearman([1, 2, 3, 4], [10, 20, 20, 15]), 4)
    0.3162
    >>> spearman([1, 2, 3], [7, 7, 7])
    0.0
    """
    sides = [np.asarray(values, float) for values in (first, second)]
    if sides[0].shape != sides[1].shape or sides[0].ndim != 1 or len(sides[0]) < 2:
        raise InputError(
            "`first` and `second` must be two lists of one length, at least 2, got "
            f"shapes {sides[0].shape} and {sides[1].shape}; give one value a pair."
        )
    if not np.isfinite(sides).all():
        raise InputError(
            "`first` and `second` must be finite, got NaN or infinity; look for a "
            "diverged model."
        )
    return rank_correlation(*map(dense_codes, sides))


def dense_codes(values):
    """Numbers the distinct values in their order, from 0: int array (n,)."""
    return np.unique(values, return_inverse=True)[1].reshape(-1)


def rank_correlation(first, second):
    """As `spearman`, of values that `dense_codes` has numbered.

    The codes of all pairs serve for every sample of them: a bootstrap sorts once.

    Args:
        first: int array (n,), codes >= 0.
        second: int array (n,).

    Returns:
        float in [-1, 1].
    """
    first, second = _centred_ranks(first), _centred_ranks(second)
    spread = np.sqrt(np.dot(first, first) * np.dot(second, second))
    if spread == 0:
        return 0.0
    return float(np.clip(np.dot(first, second) / spread, -1.0, 1.0))


def _centred_ranks(codes):
    counts = np.bincount(codes)
    # A code's average rank lies in the middle of its run, and the ranks' mean in
    # the middle of all.
    ranks = np.cumsum(counts) - (counts - 1) / 2
    return ranks[codes] - (len(codes) + 1) / 2
