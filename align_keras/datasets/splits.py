"""Which images go to the test split."""

from collections.abc import Iterable


def hashed_test_keys(
    image_keys: Iterable[str], fraction: float, at_most: int | None = None
) -> set[str]:
    """Chooses about a fraction of images for tests by their pixels' hash alone; of two
    or more at least one, and not all.
    """
    keys = sorted(image_keys)
    count = sum(is_test_key(key, fraction) for key in keys)
    count = min(max(count, 1), len(keys) - 1)
    if at_most is not None:
        count = min(count, at_most)
    return set(keys[: max(count, 0)])


def is_test_key(image_key: str, fraction: float) -> bool:
    """As `hashed_test_keys`, of one image; no split is promised to have an image."""
    return int(image_key[:8], 16) < fraction * 16**8


def linked_names(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Groups names of (name, key) that share keys, also through others: each's smallest
    name.
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
