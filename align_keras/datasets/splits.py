"""Selection of test images, and groups of images that must share a split."""

from collections.abc import Iterable


def hashed_test_keys(
    image_keys: Iterable[str], fraction: float, at_most: int | None = None
) -> set[str]:
    """Chooses the test images by the hashes of their pixels.

    Args:
        image_keys: pixel keys of the images.
        fraction: in [0, 1], approximate fraction of test images.
        at_most: largest number of test images, or None.

    Returns:
        set of the chosen keys. It contains at least one key and never all keys.
    """
    keys = sorted(image_keys)
    count = sum(is_test_key(key, fraction) for key in keys)
    count = min(max(count, 1), len(keys) - 1)
    if at_most is not None:
        count = min(count, at_most)
    return set(keys[: max(count, 0)])


def is_test_key(image_key: str, fraction: float) -> bool:
    """Returns True if the hash of an image puts it into the test split."""
    return int(image_key[:8], 16) < fraction * 16**8


def linked_names(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Groups names that share keys, directly or through other names.

    Args:
        pairs: iterable of `(name, key)`.

    Returns:
        dict from each name to the smallest name of its group.
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
