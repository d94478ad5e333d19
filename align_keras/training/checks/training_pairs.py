"""Checks of the training pairs as a whole.

Each check is a function of measured values that returns a `Finding` or None.
"""

import hashlib
import os
from collections.abc import Iterable, Sequence
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
        pairs: ≥ 1, number of training pairs.
        weights: number of trainable parameters.
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
        shared: number of validation images that are also training images.
        validation: number of validation images.
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


def count_shared_images(train: Any, validation: Any) -> tuple[int, int] | None:
    """Returns the numbers of shared images and of validation images, or None.

    Two files are equal if they have the same path or the same content.

    Args:
        train: training images, a list or an array of paths, encoded images (bytes) or
            arrays. Other types aren't compared, since they may decode an image whenever
            it is read.
        validation: validation images, as `train`.
    """
    parts = (train, validation)
    if not all(isinstance(images, list | tuple | np.ndarray) for images in parts):
        return None
    if max(len(images) for images in parts) > MAX_COMPARED:
        return None
    train_keys, validation_keys = (image_keys(images) for images in parts)
    if train_keys is None or validation_keys is None:
        return None
    known_keys = set(train_keys)
    other_keys = [key for key in validation_keys if key not in known_keys]
    shared = len(validation_keys) - len(other_keys)
    return shared + count_copied_files(known_keys, other_keys), len(validation_keys)


def image_keys(images: Sequence[Any]) -> list[str] | None:
    """Returns a key for each image, which is equal for equal images.

    Args:
        images: sequence of paths, encoded images (bytes) or arrays.

    Returns:
        list of str, paths or hashes, or None if the images are too large or of an
        unknown type.
    """
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
        keys.append(_hash(content))
    return keys


def count_copied_files(train: Iterable[str], validation: Iterable[str]) -> int:
    """Returns the number of validation files with the content of a training file.

    Only files of equal sizes are read. If they are too large together, the result is 0.

    Args:
        train: different paths of training images. Strings that aren't paths are
            ignored.
        validation: paths of validation images.
    """
    train_files = _files_by_size(train)
    validation_files = _files_by_size(validation)
    sizes = train_files.keys() & validation_files.keys()
    numbers = {s: len(train_files[s]) + len(validation_files[s]) for s in sizes}
    if sum(size * number for size, number in numbers.items()) > MAX_COMPARED_BYTES:
        return 0
    copies = 0
    for size in sizes:
        contents = {_hash_file(path) for path in train_files[size]} - {None}
        copies += sum(_hash_file(path) in contents for path in validation_files[size])
    return copies


def _files_by_size(paths: Iterable[str]) -> dict[int, list[str]]:
    """Returns the local files among the paths by their size in bytes."""
    files: dict[int, list[str]] = {}
    for path in paths:
        if os.path.isfile(path):
            files.setdefault(os.path.getsize(path), []).append(path)
    return files


def _hash_file(path: str) -> str | None:
    """Returns a hash of a file, or None if the file can't be read."""
    try:
        with open(path, "rb") as file:
            return _hash(file.read())
    except OSError:
        return None


def _hash(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
