"""Raw pairs (images with captions) in all accepted forms, and how they are read."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any, overload

import numpy as np
import tensorflow as tf

from align_keras.images import image_path
from align_keras.images.read import (
    encoded_image,
    graph_file,
    gray_levels,
    read_graph_file,
)
from align_keras.utils.errors import InputError
from align_keras.utils.files import read_regular
from align_keras.utils.pillow_images import rgb_pixels

# === Recognition ===


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


# === Conversion to single pairs ===


@dataclasses.dataclass(frozen=True)
class PairSource:
    """Raw pairs as a dataset.

    Attributes:
        rows: `tf.data.Dataset` of row numbers or of pairs, which are the arguments of
            `read_pair`.
        read_pair: function of an element of `rows` that returns the image, encoded or
            as pixels, and the caption or the captions.
        pair_count: number of pairs, or a negative number if it is unknown.
        is_sequence: False if the pairs come from a `tf.data.Dataset`.
    """

    rows: tf.data.Dataset
    read_pair: Callable[[Any], tuple]
    pair_count: int
    is_sequence: bool


def source_of_pairs(
    images: Any, captions: Any, value_range: tuple[float, float] | None = None
) -> PairSource:
    """Returns the pairs of any kind of data that `image_text_batches` accepts.

    Args:
        images: argument of `image_text_batches`.
        captions: argument of `image_text_batches`.
        value_range: two floats or None, black and white of float images.
    """
    images, captions = plain_data(images), plain_data(captions)
    if captions is None:
        images, captions = raw_pairs(images) or (images, captions)
    if isinstance(images, tf.data.Dataset):
        return source_of_dataset(images, captions)
    return source_of_sequences(images, captions, value_range)


def source_of_dataset(images: tf.data.Dataset, captions: Any) -> PairSource:
    """Returns the pairs of a dataset.

    Args:
        images: dataset of pairs if `captions` is None, otherwise a dataset of images.
        captions: dataset or sequence of captions, or None.
    """
    pairs = images
    if captions is not None:
        if not isinstance(captions, tf.data.Dataset):
            captions = tf.data.Dataset.from_tensor_slices(_caption_tensor(captions))
        pairs = tf.data.Dataset.zip((images, captions))
    if not is_raw(pairs.element_spec):
        raise InputError(
            "images must be a dataset of pairs (image, caption) or of dicts with image "
            "and caption if the argument captions is None. Received: "
            f"{pairs.element_spec}. Map the dataset to such pairs."
        )
    image = image_and_caption(pairs.element_spec)[0]
    single_rank = 0 if image.dtype == tf.string else 3
    if image.shape.rank == single_rank + 1:
        pairs = pairs.unbatch()
    elif image.shape.rank != single_rank:
        raise InputError(
            "image must be a path, an encoded image or pixels (height, width, 3). "
            f"Received: {image}. Map the dataset to such images. Use tf.ensure_shape "
            "if their rank is unknown."
        )

    def read_pair(pair: Any) -> tuple:
        image, caption = image_and_caption(pair)
        return encoded_image(image), caption

    return PairSource(pairs, read_pair, int(pairs.cardinality()), is_sequence=False)


def source_of_sequences(
    images: Any, captions: Any, value_range: tuple[float, float] | None
) -> PairSource:
    """Returns the pairs of a sequence of images and a sequence of captions."""
    read_image_of_row, image_count = _image_reader(images, value_range)
    caption_tensor = _caption_tensor(captions)
    caption_count = len(captions)
    if image_count != caption_count or not image_count:
        raise InputError(
            "images and captions must have the same length, at least 1. Received: "
            f"{image_count} images and {caption_count} captions. Pass one caption, or "
            "one list of captions, for each image."
        )

    def read_pair(row: Any) -> tuple:
        return read_image_of_row(row), caption_tensor[row]

    rows = tf.data.Dataset.range(image_count)
    return PairSource(rows, read_pair, image_count, is_sequence=True)


def _image_reader(
    images: Any, value_range: tuple[float, float] | None
) -> tuple[Callable[[Any], tf.Tensor], int]:
    """Returns a function that reads the image of a row, and the number of images."""
    if isinstance(images, str | bytes | os.PathLike | dict):
        raise InputError(
            "images must be a sequence of paths, of encoded images or of arrays. "
            f"Received: a single {type(images).__name__}. Write [image]."
        )
    if len(getattr(images, "shape", ())) == 4:
        gray_levels("images", images[0], value_range)
        pixels = tf.convert_to_tensor(images)
        return lambda row: pixels[row], len(images)
    if isinstance(images, EncodedImages):
        # The files are read one after another, because they may exceed the memory.
        def read_file(row: tf.Tensor) -> tf.Tensor:
            content = tf.numpy_function(lambda row: images[row], [row], tf.string)
            return graph_file(tf.ensure_shape(content, ()))

        return read_file, len(images)
    images = list(images.numpy() if tf.is_tensor(images) else images)
    if all(isinstance(image, str | os.PathLike) for image in images):
        paths = tf.constant(list(map(image_path, images)), tf.string)
        return lambda row: read_graph_file(paths[row]), len(images)
    if all(isinstance(image, bytes) for image in images):
        files = tf.constant(images, tf.string)
        return lambda row: encoded_image(files[row]), len(images)
    dtype = rgb_pixels(images[0]).dtype
    for row, image in enumerate(images):
        gray_levels(f"images[{row}]", image, value_range)

    def read_array(row: Any) -> tf.Tensor:
        image = tf.numpy_function(lambda row: rgb_pixels(images[row]), [row], dtype)
        return tf.ensure_shape(image, (None, None, 3))

    return read_array, len(images)


def _caption_tensor(captions: Any) -> Any:
    """Returns a string tensor (n,), ragged (n, None) if images have several captions.

    Args:
        captions: sequence of str, or of lists of str.
    """
    if isinstance(captions, str | bytes) or not hasattr(captions, "__len__"):
        raise InputError(
            "captions must be a sequence of str, one for each image. Received: "
            f"{type(captions).__name__}. Write [caption]."
        )
    captions = list(captions.numpy() if tf.is_tensor(captions) else captions)
    has_several = [isinstance(c, Sequence) and not _is_text(c) for c in captions]
    for row, caption in enumerate(captions):
        texts = caption if has_several[row] else [caption]
        is_like_first = has_several[row] == has_several[0]
        if not is_like_first or not texts or not all(map(_is_text, texts)):
            raise InputError(
                f"captions[{row}] must be a str, or all captions must be lists of "
                f"str. Received: {caption!r}. Pass one caption, or one list of "
                "captions, for each image."
            )
    if any(has_several):
        return tf.ragged.constant(captions, tf.string)
    return tf.constant(captions, tf.string)


def _is_text(value: Any) -> bool:
    return isinstance(value, str | bytes)
