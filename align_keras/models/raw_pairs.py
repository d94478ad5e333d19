"""Recognition of raw pairs (images with captions) in all accepted forms."""

from typing import Any

import numpy as np
import tensorflow as tf


def plain_data(data: Any) -> Any:
    """Converts data of other libraries to lists and NumPy arrays.

    The function converts columns of data frames, torch tensors and ragged tensors,
    including those inside of lists, tuples and dicts. It returns all other data
    unchanged, including data frames and datasets.
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
    # Torch isn't a dependency, so its tensors are recognized by their methods.
    if hasattr(data, "detach") and hasattr(data, "cpu"):
        return data.detach().cpu().numpy()
    if hasattr(data, "to_numpy") and not hasattr(data, "columns"):
        return list(data.to_numpy())
    return data


def is_raw(element: Any) -> bool:
    """Returns True if an element of a dataset, or its specification, is a raw pair."""
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
        is_sequence = isinstance(x, tuple | list | np.ndarray) or tf.is_tensor(x)
        return (x, y) if is_sequence else None
    if isinstance(x, dict):
        return image_and_caption(x) if is_raw(x) else None
    if hasattr(x, "to_numpy") and is_raw(dict.fromkeys(getattr(x, "columns", ()))):
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
    if isinstance(element, dict):
        return element["image"], element["caption"]
    return element
