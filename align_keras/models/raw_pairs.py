"""Recognition of raw pairs (images with captions) in all accepted forms."""

import dataclasses
from collections.abc import Sequence
from typing import Any, overload

import numpy as np
import tensorflow as tf

from align_keras.utils.files import read_regular


def plain_data(data: Any) -> Any:
    """Converts data of other libraries to lists and NumPy arrays.

    The function converts columns of data frames and of Hugging Face `datasets`, torch
    tensors and ragged tensors, including those inside of lists, tuples and dicts. It
    returns all other data unchanged, including data frames and datasets.
    """
    if isinstance(data, dict):
        return {name: plain_data(part) for name, part in data.items()}
    if isinstance(data, tuple | list):
        parts = [plain_data(part) for part in data]
        return parts if isinstance(data, list) else tuple(parts)
    if isinstance(data, tf.RaggedTensor):
        if data.dtype == tf.string:
            return data.to_list()
        rows = [data[row] for row in range(int(data.nrows()))]
        return [
            row.to_tensor() if isinstance(row, tf.RaggedTensor) else row for row in rows
        ]
    if _is_hugging_face(data) and hasattr(data, "column_name"):
        return _column_values(data)
    # Torch isn't a dependency, so its tensors are recognized by their methods.
    if hasattr(data, "detach") and hasattr(data, "cpu"):
        return data.detach().cpu().numpy()
    if hasattr(data, "to_numpy") and not hasattr(data, "columns"):
        return list(data.to_numpy())
    return data


class EncodedImages(Sequence):
    """Images in a column of a Hugging Face `Dataset` as the contents of their files.

    Args:
        column: `datasets.Column` of dicts of `bytes` and `path`.
        rows: numbers of the rows.
    """

    def __init__(self, column: Any, rows: range) -> None:
        self._column = column
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, row: int) -> bytes: ...

    @overload
    def __getitem__(self, row: slice) -> "EncodedImages": ...

    def __getitem__(self, row: int | slice) -> "bytes | EncodedImages":
        if isinstance(row, slice):
            return EncodedImages(self._column, self._rows[row])
        image = self._column[self._rows[row]]
        return image["bytes"] or read_regular(image["path"])


def _is_hugging_face(data: Any) -> bool:
    """Returns True for objects of the package `datasets`, which is no dependency."""
    return type(data).__module__.partition(".")[0] == "datasets"


def _column_values(column: Any) -> Any:
    """Returns the values of a `datasets.Column`, and `EncodedImages` for images.

    The files have the orientation, transparency and original pixels of the images.
    Values that `set_transform` changes are not files.
    """
    dataset, name = column.source, column.column_name
    # A column within a column has no format.
    if getattr(dataset, "format", {"type": "custom"})["type"] == "custom":
        return list(column)
    dataset = dataset.with_format(None)
    feature: Any = dataset.features[name]
    if type(feature).__name__ != "Image":
        return list(dataset[name])
    files = dataset.cast_column(name, dataclasses.replace(feature, decode=False))
    return EncodedImages(files[name], range(len(files)))


def is_raw(element: Any) -> bool:
    """Returns True if an element of a dataset, or its specification, is a raw pair."""
    element = without_tuple(element)
    if isinstance(element, dict):
        return {"image", "caption"} <= set(element)
    if not isinstance(element, tuple) or len(element) != 2:
        return False
    return getattr(element[1], "dtype", None) == tf.string


def raw_pairs(x: Any, y: Any = None) -> tuple | None:
    """Returns images and captions if `x` and `y` are sequences of raw pairs, or None.

    Args:
        x: argument of `fit`.
        y: argument of `fit`.
    """
    if y is not None:
        x, y = plain_data(x), plain_data(y)
        sequences = tuple | list | np.ndarray | EncodedImages
        is_sequence = isinstance(x, sequences) or tf.is_tensor(x)
        return (x, y) if is_sequence else None
    if isinstance(x, dict):
        return image_and_caption(x) if is_raw(x) else None
    if hasattr(x, "to_numpy") and is_raw(dict.fromkeys(getattr(x, "columns", ()))):
        return plain_data(x["image"]), plain_data(x["caption"])
    # A dataset that is read as a stream has no number of rows.
    has_rows = _is_hugging_face(x) and hasattr(x, "num_rows")
    if has_rows and is_raw(dict.fromkeys(x.column_names)):
        return plain_data(x["image"]), plain_data(x["caption"])
    if isinstance(x, list) and x and all(map(_is_one_pair, x)):
        images, captions = zip(*map(image_and_caption, x), strict=True)
        return list(images), list(captions)
    if isinstance(x, tuple | list) and len(x) == 2 and not isinstance(x[0], dict):
        return tuple(x)
    return None


def _is_one_pair(element: Any) -> bool:
    if isinstance(element, tuple):
        return len(element) == 2
    return isinstance(element, dict) and is_raw(element)


def image_and_caption(element: Any) -> tuple:
    """Returns the image and the caption of a raw pair, which is a tuple or a dict."""
    element = without_tuple(element)
    if isinstance(element, dict):
        return element["image"], element["caption"]
    return element


def without_tuple(element: Any) -> Any:
    """Returns `x` for `(x,)`, which are equal for Keras."""
    is_single = isinstance(element, tuple) and len(element) == 1
    return element[0] if is_single else element
