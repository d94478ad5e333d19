"""Pictures that each belong to one class."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from align_keras.utils.errors import InputError


@dataclasses.dataclass(frozen=True)
class LabelledImages:
    """Pictures with their classes.

    Attributes:
        images: re-iterable with a length, of paths (str) or of file contents
            (bytes).
        labels: int64 array (pictures,), rows of `class_names`.
        class_names: list of str.
        columns: dict, name → list with a value a picture, by which metrics can be
            sliced.
        image_ids: list of str by which metadata is joined; the rows, counted from
            0, by default.
    """

    images: Sequence
    labels: np.ndarray
    class_names: list
    columns: dict = dataclasses.field(default_factory=dict)
    image_ids: list | None = None

    def __post_init__(self):
        lengths = {name: len(values) for name, values in self.columns.items()}
        if self.image_ids is not None:
            lengths["image_ids"] = len(self.image_ids)
        lengths |= {"images": len(self.images), "labels": len(self.labels)}
        if len(set(lengths.values())) > 1:
            raise InputError(
                "`images`, `labels`, `columns` and `image_ids` must have one entry a "
                f"picture, received {lengths}."
            )


def only_occurring_classes(data):
    """Leaves out the classes that no picture has.

    ImageNet-R and -A have pictures of 200 of ImageNet's 1000 classes, and are
    classified among these alone.

    Args:
        data: `LabelledImages`.

    Returns:
        `LabelledImages` whose labels are rows of the fewer names.

    References:
        Hendrycks et al., ImageNet-R and ImageNet-A; Jia et al. 2021, table 4.

    Example:

    >>> data = LabelledImages(["a.png", "b.png"], np.array([2, 0]), ["x", "y", "z"])
    >>> fewer = only_occurring_classes(data)
    >>> fewer.class_names, fewer.labels.tolist()
    (['x', 'z'], [1, 0])
    """
    occurring, labels = np.unique(data.labels, return_inverse=True)
    names = [data.class_names[row] for row in occurring]
    return dataclasses.replace(data, labels=labels.reshape(-1), class_names=names)
