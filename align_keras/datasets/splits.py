"""Which images go to the test split."""

from collections.abc import Iterable


def hashed_test_keys(
    image_keys: Iterable[str], fraction: float, at_most: int | None = None
) -> set[str]:
    """Chooses about a fraction of images for tests by their pixels' hash.

    The choice depends on no order and no seed, an image keeps its split when others
    come or go, and identical images never stand on both sides. Of two keys or more at
    least one is chosen, and not all.
    """
    keys = sorted(image_keys)
    count = sum(is_test_key(key, fraction) for key in keys)
    count = min(max(count, 1), len(keys) - 1)
    if at_most is not None:
        count = min(count, at_most)
    return set(keys[: max(count, 0)])


def is_test_key(image_key: str, fraction: float) -> bool:
    """Tells whether an image goes to the test split, by its pixels' hash alone. As
    `hashed_test_keys`, for corpora whose keys aren't held in memory: no split is
    promised to have an image.
    """
    return int(image_key[:8], 16) < fraction * 16**8


def linked_names(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Groups names that share a key, directly or through others. Takes (name, key) and
    returns each name's smallest in its group.
    """
    pairs = list(pairs)
    smallest, before = {name: name for name, _ in pairs}, None
    while smallest != before:
        before = dict(smallest)
        by_key: dict[str, str] = {}
        for name, key in pairs:
            by_key[key] = min(by_key.get(key, name), smallest[name])
        for name, key in pairs:
            smallest[name] = min(smallest[name], by_key[key])
    return smallest
