"""TFDS builder that divides a user's pairs so that splits share no image or caption."""

from collections.abc import Sequence
from typing import Any

import tensorflow_datasets as tfds

from align_keras.datasets.splits import linked_names
from align_keras.datasets.user_pairs import UserPairs
from align_keras.utils.errors import InputError

# Fractions of the images in the splits `validation` and `test`.
HELD_OUT_FRACTION = 0.15
# More held-out images would make each evaluation slower than an epoch of training.
MOST_HELD_OUT_IMAGES = 1000


class GroupedPairs(UserPairs, skip_registration=True):
    """Pairs from a user's table or folder with splits that share nothing.

    Images that share their pixels or a caption, directly or through other images, are
    in the same split. The splits `validation` and `test` have about 15% of the images
    each, at most 1,000.

    Example:

    ```python
    builder = align_keras.datasets.open_corpus(
        "pairs", pairs="pairs.csv", split_by="image_and_caption"
    )
    isinstance(builder, GroupedPairs)  # True
    ```
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}

    def _split(self, entries: list[Any]) -> dict[str, list[Any]]:
        names = group_splits(
            [entry.image_key for entry in entries],
            [self._linked_captions(entry) for entry in entries],
        )
        splits: dict[str, list[Any]] = {"train": [], "validation": [], "test": []}
        for name, entry in zip(names, entries, strict=True):
            splits[name].append(entry)
        return splits

    def _linked_captions(self, entry: Any) -> Sequence[str]:
        """Returns the captions that no image of another split may have."""
        return entry.raw.captions


class ThreeSplitPairs(GroupedPairs, skip_registration=True):
    """Pairs from a user's table or folder with splits that share no image.

    The splits are those of `GroupedPairs`, except that captions of different splits may
    be equal, as those that a teacher chose from a list of texts.

    Example:

    ```python
    builder = align_keras.datasets.open_corpus(
        "pairs", pairs="pairs.csv", split_by="image_with_validation"
    )
    isinstance(builder, ThreeSplitPairs)  # True
    ```
    """

    def _linked_captions(self, entry: Any) -> Sequence[str]:
        del entry  # Only equal images must be in the same split.
        return ()


def group_splits(
    image_keys: Sequence[str],
    captions: Sequence[Sequence[str]],
) -> list[str]:
    """Returns the split of each image: `"train"`, `"validation"` or `"test"`.

    Captions that differ only in case and white space are equal. The result doesn't
    depend on the order of the images.

    Args:
        image_keys: key of each image, equal for equal images. The keys are hashes,
            whose order is random.
        captions: captions of each image.

    Raises:
        InputError: if there are fewer than three groups.

    Example:

    >>> keys = ["0a", "1b", "1b", "2c"]
    >>> group_splits(keys, [["cat"], ["dog"], ["hound"], ["Dog "]])
    Traceback (most recent call last):
    ...
    align_keras.utils.errors.InputError: The pairs must have at least 3 groups of ...
    >>> group_splits([*keys, "3d"], [["cat"], ["dog"], ["hound"], ["Dog "], ["ox"]])
    ['test', 'train', 'train', 'train', 'validation']
    """
    links = []
    for key, texts in zip(image_keys, captions, strict=True):
        links.append((key, f"image {key}"))
        links.extend((key, f"caption {_normalized(text)}") for text in texts)
    group_of_key = linked_names(links)
    groups = [group_of_key[key] for key in image_keys]
    sizes: dict[str, int] = {}
    for group in groups:
        sizes[group] = sizes.get(group, 0) + 1
    if len(sizes) < 3:
        raise InputError(
            "The pairs must have at least 3 groups of images that share no caption, "
            "for training, validation and test. Received: "
            f"{len(image_keys)} images in {len(sizes)} groups. Add pairs, or remove "
            "captions that many images have."
        )
    count = round(HELD_OUT_FRACTION * len(image_keys))
    target = max(1, min(count, MOST_HELD_OUT_IMAGES))
    split_of_group: dict[str, str] = {}
    counts = {"test": 0, "validation": 0}
    # The largest group always trains.
    largest = max(sizes, key=lambda group: (sizes[group], group))
    candidates = sorted(set(sizes) - {largest})
    for group in candidates:
        split = min(counts, key=lambda name: counts[name])
        if counts[split] + sizes[group] <= target:
            split_of_group[group] = split
            counts[split] += sizes[group]
    for split in counts:
        if not counts[split]:
            # All groups are larger than the target.
            unused = [group for group in candidates if group not in split_of_group]
            smallest = min(unused, key=lambda group: (sizes[group], group))
            split_of_group[smallest] = split
    return [split_of_group.get(group, "train") for group in groups]


def _normalized(caption: str) -> str:
    return " ".join(caption.casefold().split())
