"""Sorted keys with their counts, and the most frequent among them."""

import numpy as np


def sum_by_key(keys, counts=None):
    """Adds up the counts of equal keys.

    Args:
        keys: uint64 array `(entries,)`, in any order.
        counts: uint64 array `(entries,)`, or None, where each counts as one.

    Returns:
        `(keys, counts)`: uint64 arrays, the keys sorted and distinct.

    Example:

    >>> keys, counts = sum_by_key(np.array([7, 3, 7], np.uint64))
    >>> keys.tolist(), counts.tolist()
    ([3, 7], [1, 2])
    """
    if counts is None:
        keys = np.sort(keys)
        starts = _run_starts(keys)
        sums = np.diff(starts, append=len(keys)).astype(np.uint64)
    else:
        # Stable sorting merges the sorted runs of which the keys usually consist.
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        starts = _run_starts(keys)
        sums = np.add.reduceat(counts[order], starts) if len(keys) else counts
    return keys[starts], sums


def keys_over_limit(keys, values, limit):
    """Finds the keys that have more than `limit` distinct values.

    Args:
        keys: uint64 array `(entries,)`, in any order.
        values: uint64 array `(entries,)`.
        limit: int ≥ 1.

    Returns:
        `(keys, counts)`: uint64 arrays, sorted keys and their distinct values.

    Example:

    >>> keys, values = np.array([[5, 5, 5, 9, 9], [1, 2, 2, 1, 1]], np.uint64)
    >>> [own.tolist() for own in keys_over_limit(keys, values, limit=1)]
    [[5], [2]]
    """
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    starts = _run_starts(keys)
    sizes = np.diff(starts, append=len(keys))
    # Few have enough entries; only theirs are sorted by value as well.
    large = np.repeat(sizes > limit, sizes)
    keys, values = keys[large], values[order[large]]
    order = np.lexsort((values, keys))
    keys, values = keys[order], values[order]
    distinct = np.ones(len(keys), bool)
    distinct[1:] = (keys[1:] != keys[:-1]) | (values[1:] != values[:-1])
    keys, counts = sum_by_key(keys[distinct])
    return keys[counts > limit], counts[counts > limit]


def rank_threshold(histogram, limit):
    """Finds the count down to which keys are among the `limit` most frequent.

    Args:
        histogram: dict, how many keys (int) have each count (int).
        limit: int ≥ 0.

    Returns:
        `(count, quota)` of int: all keys with a larger count are among them, and of
        those with just this count the `quota` smallest keys. `(0, 0)` if all are.

    Example:

    >>> rank_threshold({1: 100, 2: 10, 7: 1}, 5)
    (2, 4)
    >>> rank_threshold({1: 100, 2: 10, 7: 1}, 111)
    (0, 0)
    """
    for count in sorted(histogram, reverse=True):
        if histogram[count] > limit:
            return count, limit
        limit -= histogram[count]
    return 0, 0


def count_histogram(counts):
    """Returns how many keys have each count, a dict of int.

    Example:

    >>> count_histogram(np.array([1, 5, 1], np.uint64))
    {1: 2, 5: 1}
    """
    values, numbers = np.unique(counts, return_counts=True)
    return dict(zip(values.tolist(), numbers.tolist(), strict=True))


def select_frequent(keys, counts, count, quota):
    """Selects the keys that `rank_threshold` admits.

    Args:
        keys: uint64 array, sorted and distinct.
        counts: uint64 array, theirs.
        count: int.
        quota: int.

    Returns:
        uint64 array, sorted.

    Example:

    >>> keys, counts = np.array([[1, 2, 3, 4], [9, 5, 5, 1]], np.uint64)
    >>> select_frequent(keys, counts, count=5, quota=1).tolist()
    [1, 2]
    """
    admitted = counts > count
    admitted[np.flatnonzero(counts == count)[:quota]] = True
    return keys[admitted]


def is_member(keys, values):
    """Tells which values are among the keys.

    Args:
        keys: uint64 array, sorted; may be mapped from a file.
        values: uint64 array `(values,)`, in any order.

    Returns:
        bool array `(values,)`.

    Example:

    >>> keys, values = np.array([2, 5], np.uint64), np.array([5, 3, 9], np.uint64)
    >>> is_member(keys, values).tolist()
    [True, False, False]
    """
    found = np.zeros(len(values), bool)
    if len(keys) and len(values):
        # In order, so that neighbours are looked up in the same pages.
        order = np.argsort(values)
        ordered = values[order]
        places = np.searchsorted(keys, ordered)
        found[order] = keys[np.minimum(places, len(keys) - 1)] == ordered
    return found


def _run_starts(keys):
    starts = np.ones(len(keys), bool)
    starts[1:] = keys[1:] != keys[:-1]
    return np.flatnonzero(starts)
