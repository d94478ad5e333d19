"""Images with classes, and the reader of folders of classes."""

import dataclasses
import os
import pathlib
from typing import Any

import numpy as np

from align_keras.datasets.benchmarks.class_names import readable_name
from align_keras.utils.errors import InputError
from align_keras.utils.pillow_images import IMAGE_SUFFIXES

# Names of folders that count as splits if they contain folders of classes.
_SPLIT_NAMES = frozenset(
    ("train", "training", "test", "testing", "val", "valid", "validation", "dev")
)


@dataclasses.dataclass(frozen=True)
class LabeledImages:
    """Images with their classes.

    Attributes:
        images: paths or encoded images, a list or a re-iterable object with a length.
        labels: int64 array (images,), indices in `class_names`.
        columns: dict from the name of a column to a list with a value per image.
            Metrics can be reported for each value.
        image_ids: ids with which metadata is joined. If None, the row
            numbers are the ids.
    """

    images: Any
    labels: np.ndarray
    class_names: list
    columns: dict = dataclasses.field(default_factory=dict)
    image_ids: list | None = None


def only_occurring_classes(data: LabeledImages) -> LabeledImages:
    """Removes the classes that no image has.

    The protocols for ImageNet-R and ImageNet-A require this.

    References:
        Hendrycks et al. 2021, ImageNet-R and ImageNet-A.
        Jia et al. 2021, table 4.

    Example:

    >>> data = LabeledImages(["a.png", "b.png"], np.array([2, 0]), ["x", "y", "z"])
    >>> only_occurring_classes(data).class_names
    ['x', 'z']
    """
    occurring, labels = np.unique(data.labels, return_inverse=True)
    names = [data.class_names[row] for row in occurring]
    return dataclasses.replace(data, labels=labels.reshape(-1), class_names=names)


def read_class_folders(
    folder: str | os.PathLike, split: str | None = None
) -> LabeledImages:
    """Reads images from one folder per class, in alphabetical order.

    The files are `FOLDER/CLASS/IMAGE` or `FOLDER/SPLIT/CLASS/IMAGE`. Images may be in
    subfolders of a class. A class has the name of its folder, with spaces instead of
    underscores.

    Args:
        folder: folder of the classes or of the splits.
        split: name of the folder of a split, or None.

    Returns:
        `LabeledImages`. The ids are the paths of the images.

    Raises:
        InputError: If the folder doesn't exist, has no subfolders, or a class has no
            image.
    """
    folder = pathlib.Path(folder)
    root = folder / split if split else folder
    classes = _subfolders(root) if root.is_dir() else []
    if not classes:
        names = [path.name for path in _subfolders(folder)] if folder.is_dir() else []
        raise InputError(
            f"--data must have a subfolder for each class. Received: {root}, which has "
            f"none. The subfolders of {folder} are {', '.join(names[:5]) or 'none'}."
        )
    images: list[str] = []
    labels: list[int] = []
    for label, class_folder in enumerate(classes):
        files = sorted(
            path for path in class_folder.rglob("*") if _is_image(path, root)
        )
        if not files:
            raise InputError(
                f"--data must have images of every class. Received: {class_folder} "
                f"without images ({', '.join(IMAGE_SUFFIXES)})."
            )
        images += [str(path) for path in files]
        labels += [label] * len(files)
    class_names = [readable_name(folder.name) for folder in classes]
    return LabeledImages(
        images,
        np.array(labels, np.int64),
        class_names,
        image_ids=[pathlib.Path(path).relative_to(root).as_posix() for path in images],
    )


def folders_of_splits(folder: str | os.PathLike) -> tuple[list[str], list[str]]:
    """Divides the subfolders of a folder into splits and other folders.

    A split is a folder with a name such as `train` or `val` that contains folders but
    no images, as in `FOLDER/SPLIT/CLASS/IMAGE`.

    Args:
        folder: str or path.

    Returns:
        `(splits, other_folders)`, two lists of names.
    """
    splits: list[str] = []
    other_folders: list[str] = []
    for path in _subfolders(pathlib.Path(folder)):
        is_split = (
            path.name.lower() in _SPLIT_NAMES
            and bool(_subfolders(path))
            and not any(_is_image(file, path) for file in path.iterdir())
        )
        (splits if is_split else other_folders).append(path.name)
    return splits, other_folders


def _subfolders(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(
        path for path in folder.iterdir() if path.is_dir() and path.name[0] != "."
    )


def _is_image(path: pathlib.Path, root: pathlib.Path) -> bool:
    hidden = any(part[0] == "." for part in path.relative_to(root).parts)
    return path.suffix.lower() in IMAGE_SUFFIXES and not hidden and path.is_file()
