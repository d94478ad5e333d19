"""The stamps with the folders that they lie in as their classes."""

import numpy as np

from align_keras.datasets.benchmarks.labelled_images import LabelledImages
from align_keras.utils.errors import InputError

# Folders whose names aren't words.
_NAMES = {"naturalforces": "natural forces"}


def stamps_by_category(builder, split=None):
    """Gives the stamps their categories as classes: animals, clothes, food ….

    Args:
        builder: prepared builder of the corpus `stamps`.
        split: `"train"` or `"test"`, two halves by a hash of the pixels, so that
            equal pictures lie in one, though similar ones may not; or None for
            all.

    Returns:
        `LabelledImages`, with the encoded pictures. All categories are classes,
        also one that a half hasn't got.

    Raises:
        InputError: for another split.

    Example:

    ```python
    from align_keras.datasets import build_corpus
    data = stamps_by_category(build_corpus("stamps"))
    data.class_names[:3]  # ['animals', 'clothes', 'food']
    ```
    """
    # Here, for the package of the builders imports much.
    from align_keras.datasets.benchmarks.stored_pictures import read_stored_pictures
    from align_keras.datasets.splits import hashed_test_keys

    if split not in (None, "train", "test"):
        raise InputError(
            f"the split of stamps must be train, test or all, received {split!r}; "
            "choose one."
        )
    pictures = read_stored_pictures(builder, "test")
    categories = sorted({picture.category for picture in pictures})
    test = hashed_test_keys({picture.image_key for picture in pictures}, fraction=0.5)
    chosen = [
        picture
        for picture in pictures
        if split is None or (picture.image_key in test) == (split == "test")
    ]
    return LabelledImages(
        images=[picture.image for picture in chosen],
        labels=np.array(
            [categories.index(picture.category) for picture in chosen], np.int64
        ),
        class_names=[_NAMES.get(name, name) for name in categories],
        image_ids=[picture.id for picture in chosen],
    )
