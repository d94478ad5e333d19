"""A folder of classes: a subfolder of pictures for each."""

import pathlib

import numpy as np

from align_keras.corpus.pair_files import IMAGE_SUFFIXES
from align_keras.datasets.benchmarks.class_names import readable_name
from align_keras.datasets.benchmarks.labelled_images import LabelledImages
from align_keras.utils.errors import InputError


def read_class_folders(folder, split=None):
    """Reads `FOLDER/CLASS/PICTURE`, or `FOLDER/SPLIT/CLASS/PICTURE`.

    The class is named as its folder, with spaces for underscores. Pictures may lie
    in subfolders of it. Classes and pictures are in alphabetical order; hidden
    ones, and files that aren't pictures, are left out.

    Args:
        folder: str or path.
        split: str, a subfolder such as `"test"`, or None.

    Returns:
        `LabelledImages`, with paths; the ids are the paths below the split's folder,
        with slashes.

    Raises:
        InputError: for a folder or split that isn't there, one without subfolders,
            and a class without pictures.

    Example:

    >>> import tempfile
    >>> root = pathlib.Path(tempfile.mkdtemp())
    >>> for name in ("test/red_fox/1.png", "test/owl/2.jpg"):
    ...     (root / name).parent.mkdir(parents=True)
    ...     (root / name).touch()
    >>> data = read_class_folders(root, "test")
    >>> data.class_names, data.labels.tolist()
    (['owl', 'red fox'], [0, 1])
    """
    folder = pathlib.Path(folder)
    root = folder / split if split else folder
    if not root.is_dir():
        found = _subfolders(folder) if folder.is_dir() else []
        raise InputError(
            f"--data must be a folder of classes, received {root}, which isn't there"
            + (f"; {folder} has {_some(found)}." if found else "; check the path.")
        )
    classes = _subfolders(root)
    if not classes:
        raise InputError(
            f"--data must hold a subfolder for each class, received {root}, which has "
            "none; put the pictures of each class into a folder of its own."
        )
    images, labels = [], []
    for label, own in enumerate(classes):
        pictures = sorted(path for path in own.rglob("*") if _is_picture(path, root))
        if not pictures:
            raise InputError(
                f"--data must hold pictures of every class, received {own} without any "
                f"({', '.join(IMAGE_SUFFIXES)}); remove it, or name a split if it "
                "isn't a class."
            )
        images += map(str, pictures)
        labels += [label] * len(pictures)
    names = [readable_name(own.name) for own in classes]
    return LabelledImages(
        images,
        np.array(labels, np.int64),
        names,
        image_ids=[pathlib.Path(path).relative_to(root).as_posix() for path in images],
    )


def _subfolders(folder):
    return sorted(
        path for path in folder.iterdir() if path.is_dir() and path.name[0] != "."
    )


def _is_picture(path, root):
    hidden = any(part[0] == "." for part in path.relative_to(root).parts)
    return path.suffix.lower() in IMAGE_SUFFIXES and not hidden and path.is_file()


def _some(paths, limit=5):
    more = ", …" if len(paths) > limit else ""
    return ", ".join(path.name for path in paths[:limit]) + more
