"""Checks of the training pairs as a whole.

Each check is a function of measured values that returns a `Finding` or None.
"""

import hashlib
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from align_keras.training.checks.finding import Finding

# Trained weights per pair. The largest model of the paper has 820 million weights and
# is fine-tuned on the 29,000 images of Flickr30k, which is 28,000 weights per image.
MAX_WEIGHTS_PER_PAIR = 30_000
# Number of images and bytes of their contents. A check of more images would delay the
# start of `fit` by more than a second.
MAX_COMPARED = 50_000
MAX_COMPARED_BYTES = 2**29


def check_pair_count(pairs: int, weights: int) -> Finding | None:
    """Checks that there are enough pairs for the trained weights.

    Args:
        pairs: int ≥ 1, number of training pairs.
        weights: int, number of trainable parameters.
    """
    ratio = weights / pairs
    if ratio <= MAX_WEIGHTS_PER_PAIR:
        return None
    return Finding(
        "few_pairs",
        f"The training changes {weights:,} weights, but has only {pairs:,} pairs.",
        "Freeze the encoders except their last layers, enable LoRA, or add pairs.",
        details={"weights": weights, "pairs": pairs},
    )


def check_shared_images(shared: int, validation: int) -> Finding | None:
    """Checks that no validation image is also a training image.

    Args:
        shared: int, number of validation images that are also training images.
        validation: int, number of validation images.
    """
    if not shared:
        return None
    return Finding(
        "shared_images",
        f"{shared:,} of the {validation:,} validation images are also training images, "
        "so the measured quality is too high.",
        "Remove these images from the training or the validation pairs.",
        details={"shared_images": shared, "validation_images": validation},
    )


def image_keys(images: Sequence[Any]) -> list[str] | None:
    """Returns a key for each image, which is equal for equal images.

    Args:
        images: sequence of paths, encoded images (bytes) or arrays.

    Returns:
        list of str, or None if there are too many images or the type is unknown.
    """
    if len(images) > MAX_COMPARED:
        return None
    keys = []
    size = 0
    for image in images:
        if isinstance(image, str | os.PathLike):
            keys.append(os.path.abspath(image))
            continue
        if isinstance(image, bytes):
            content = image
        elif hasattr(image, "__array__"):
            content = np.ascontiguousarray(image).tobytes()
        else:
            return None
        size += len(content)
        if size > MAX_COMPARED_BYTES:
            return None
        keys.append(hashlib.blake2b(content, digest_size=16).hexdigest())
    return keys


def count_shared_images(train: Any, validation: Any) -> tuple[int, int] | None:
    """Returns the numbers of shared images and of validation images, or None.

    Args:
        train: training images, a list or an array. Other types aren't compared, since
            they may decode an image whenever it is read.
        validation: validation images, as `train`.
    """
    keys = []
    for images in (train, validation):
        if not isinstance(images, list | tuple | np.ndarray):
            return None
        part = image_keys(images)
        if part is None:
            return None
        keys.append(part)
    train_keys = set(keys[0])
    return sum(key in train_keys for key in keys[1]), len(keys[1])
