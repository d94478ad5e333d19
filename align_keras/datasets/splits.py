"""Which images go to the test split."""

_KEY_RANGE = 16**8


def hashed_test_keys(image_keys, fraction, at_most=None):
    """Chooses test images by their pixels' hash.

    The choice depends on no order and no seed, an image keeps its split when
    others come or go, and identical images never stand on both sides.

    Args:
        image_keys: set of str, hexadecimal digests.
        fraction: float in (0, 1), the share that is aimed at.
        at_most: int, the largest number of test images, or `None`.

    Returns:
        set of str: at least one key, and not all, where there are two or more.

    Example:

    >>> hashed_test_keys({"00000000", "80000000", "f0000000"}, fraction=0.1)
    {'00000000'}
    """
    keys = sorted(image_keys)
    count = sum(int(key[:8], 16) < fraction * _KEY_RANGE for key in keys)
    count = min(max(count, 1), len(keys) - 1)
    if at_most is not None:
        count = min(count, at_most)
    return set(keys[: max(count, 0)])


def is_test_key(image_key, fraction):
    """Returns whether an image goes to the test split, by its pixels' hash alone.

    As `hashed_test_keys`, for corpora whose keys aren't held in memory: no split is
    promised to have an image.

    Example:

    >>> is_test_key("00000000", 0.1), is_test_key("80000000", 0.1)
    (True, False)
    """
    return int(image_key[:8], 16) < fraction * _KEY_RANGE


def linked_names(pairs):
    """Groups names that share a key, directly or through others.

    Args:
        pairs: iterable of `(name, key)`, both str; a name may come with several
            keys, and a key with several names.

    Returns:
        dict, each name → the smallest name of its group.

    Example:

    >>> linked_names([("a", "1"), ("b", "1"), ("b", "2"), ("c", "2"), ("d", "3")])
    {'a': 'a', 'b': 'a', 'c': 'a', 'd': 'd'}
    """
    pairs = list(pairs)
    smallest, before = {name: name for name, _ in pairs}, None
    while smallest != before:
        before = dict(smallest)
        by_key = {}
        for name, key in pairs:
            by_key[key] = min(by_key.get(key, name), smallest[name])
        for name, key in pairs:
            smallest[name] = min(smallest[name], by_key[key])
    return smallest
