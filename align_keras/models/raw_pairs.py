"""Images and captions as users have them → batches of a model's inputs."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from align_keras.images import (
    augment_images,
    crop_image,
    crop_image_bytes,
    crop_size_to_resize_size,
    decode_image,
    image_path,
    preprocess_image,
    read_image,
    resize_image,
    uint8_pixels,
)
from align_keras.images.read import shape_remedy
from align_keras.utils.arguments import check_number
from align_keras.utils.errors import InputError

_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8")


def image_text_batches(
    images: Any,
    captions: Any = None,
    model: Any = None,
    *,
    training: bool,
    batch_size: int,
    crop: bool = True,
    flip: bool = True,
    zoom: float = 0.0,
    shift: float = 0.0,
    recolor: float = 0.0,
    shuffle: bool | None = None,
    shuffle_buffer_size: int = 10_000,
    seed: int | None = None,
    drop_remainder: bool | None = None,
    value_range: tuple[float, float] | None = None,
) -> tf.data.Dataset:
    """Batches of a model's inputs from a user's images and captions.

    Args:
        images: sequence of paths, of encoded images (bytes) or of uint8 arrays
            (height, width, 3), all of one kind; an array or tensor of them; or a
            `tf.data.Dataset` of single images (paths, encoded or pixels). Without
            `captions`, a list or `tf.data.Dataset` of pairs: tuples or dicts of `image`
            and `caption`; or one tuple, dict or data frame of sequences of both.
        captions: sequence or tensor of str, one for each image, or a sequence of
            lists of str, of which training draws one each time and evaluation takes
            the first; or a `tf.data.Dataset` of them.
        model: `ALIGN` with a vocabulary, whose tokenizer and `image_size` are taken.
        training: bool, vary and shuffle the pairs.
        batch_size: int ≥ 1.
        crop: bool; in training, crop at a random place.
        flip: bool; in training, mirror half of the images.
        zoom: float ≥ 0; this and the next two as `align_keras.images.augment_images`.
        shift: float ≥ 0.
        recolor: float in [0, 1].
        shuffle: bool; None shuffles in training alone.
        shuffle_buffer_size: int ≥ 1, pairs of a `tf.data.Dataset` to draw from;
            sequences are shuffled as a whole.
        seed: int, of shuffling and variation; None for `keras.utils.set_random_seed`'s.
        drop_remainder: bool, leave out a last batch that isn't full; None does so in
            training, unless it would be the only one.
        value_range: two floats, black and white of float pixels: (0, 1), (-1, 1) or
            (0, 255). Without it, floats are refused.

    Returns:
        `tf.data.Dataset` of dicts, one pass over the pairs: `images` (n, image_size,
        image_size, 3) in [0, 255], `token_ids` and `padding_mask` int32 (n,
        sequence_length).

    Raises:
        InputError: if an argument isn't as above.

    References:
        Jia et al. 2021, section 5 (resize, random crop, horizontal flip).

    Example:

    >>> from align_keras.models import ALIGN
    >>> vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat"]
    >>> model = ALIGN.from_preset("align_nano", vocabulary=vocabulary)
    >>> images = np.zeros((3, 90, 120, 3), "uint8")
    >>> batches = image_text_batches(
    ...     images, ["a cat"] * 3, model, training=True, batch_size=2)
    >>> next(iter(batches))["images"].shape
    TensorShape([2, 64, 64, 3])
    """
    if getattr(model, "tokenizer", None) is None:
        raise InputError(
            f"model must be an ALIGN with a vocabulary, received {type(model).__name__}"
            "; give it as the third argument or as model=…."
        )
    check_number("batch_size", batch_size, 1, 1_000_000, whole=True)
    images, captions = plain_data(images), plain_data(captions)
    if captions is None:
        images, captions = raw_pairs(images) or (images, captions)
    preparation = _Preparation(
        model.image_size, training, crop, flip, zoom, shift, recolor, value_range
    )
    if isinstance(images, tf.data.Dataset):
        rows, fetch = _dataset_rows(images, captions)
        count, buffer = int(rows.cardinality()), shuffle_buffer_size
    else:
        count, fetch = _sequence_rows(images, captions, value_range)
        rows, buffer = tf.data.Dataset.range(count), count
    if training if shuffle is None else shuffle:
        rows = rows.shuffle(buffer, seed, reshuffle_each_iteration=True)
    if drop_remainder is None:
        drop_remainder = training and not 0 <= count < batch_size
    rows = tf.data.Dataset.zip((rows, _random_numbers(seed)))

    @tf.autograph.experimental.do_not_convert
    def row(pair, number):
        image, caption = fetch(pair)
        drawn = tf.random.stateless_uniform((4,), tf.stack([number, 0]))
        caption = _chosen(caption, drawn[3] if training else 0.0)
        return preparation.image(image, drawn[:3]), caption

    @tf.autograph.experimental.do_not_convert
    def inputs(batch, number):
        images, captions = batch
        return {"images": preparation.batch(images, number), **tokenizer(captions)}

    tokenizer = model.tokenizer
    rows = rows.map(row, tf.data.AUTOTUNE).batch(batch_size, drop_remainder)
    batches = tf.data.Dataset.zip((rows, _random_numbers(seed)))
    return batches.map(inputs, tf.data.AUTOTUNE).prefetch(2)


def batches_of_dataset(
    model: keras.Model,
    dataset: tf.data.Dataset,
    *,
    training: bool,
    augment: bool = True,
    value_range: tuple[float, float] | None = None,
) -> tf.data.Dataset:
    """Maps a dataset's batches of raw pairs, as `fit` takes them, to inputs."""
    image, caption = _pair(dataset.element_spec)
    if caption.shape.rank != 1:
        raise InputError(
            "a raw dataset must be batched: caption of rank 1, received rank "
            f"{caption.shape.rank}; call dataset.batch(n) first."
        )
    if image.dtype != tf.string:
        # Before tf.map_fn, which leaves TensorFlow's scope changed by an error: no
        # strategy could be entered any more.
        uint8_pixels(tf.zeros((0,), image.dtype), value_range)
    size, tokenizer = model.image_size, model.tokenizer
    preparation = _Preparation(
        size, training, augment, augment, value_range=value_range
    )
    one = tf.TensorSpec((size, size, 3), tf.uint8 if training else tf.float32)

    @tf.autograph.experimental.do_not_convert  # which would wrap InputError
    def inputs(pairs, number):
        images, captions = _pair(pairs)
        drawn = tf.random.stateless_uniform(
            (tf.shape(captions)[0], 3), tf.stack([number, 0])
        )
        images = tf.map_fn(
            lambda row: preparation.image(_one_image(row[0]), row[1]),
            (images, drawn),
            fn_output_signature=one,
        )
        return {"images": images, **tokenizer(captions)}

    pairs = tf.data.Dataset.zip((dataset, _random_numbers(None)))
    return pairs.map(inputs, tf.data.AUTOTUNE).prefetch(2)


def batch_preparation(
    model: keras.Model,
    *,
    training: bool,
    augment: bool = True,
    value_range: tuple[float, float] | None = None,
) -> Callable[[Any, Any], dict]:
    """Returns a function of the images and captions of one batch in memory.

    It returns the model's inputs, as `batches_of_dataset` does for a `tf.data.Dataset`.
    Images and captions are sequences, as `image_text_batches` takes them.
    """
    size, tokenizer = model.image_size, model.tokenizer
    preparation = _Preparation(
        size, training, augment, augment, value_range=value_range
    )

    @tf.function(reduce_retracing=True, autograph=False)
    def prepared_image(image, drawn):
        return preparation.image(image, drawn)

    def prepare(images, captions):
        count, fetch = _sequence_rows(images, captions, value_range)
        drawn = tf.random.uniform((count, 4))
        prepared, texts = [], []
        for row in range(count):
            try:
                image, caption = fetch(row)
                prepared.append(prepared_image(image, drawn[row, :3]))
            except tf.errors.OpError:
                read_image(images[row], row, size, value_range)  # Names the image.
                raise
            texts.append(_chosen(caption, drawn[row, 3] if training else 0.0))
        return {"images": tf.stack(prepared), **tokenizer(tf.stack(texts))}

    return prepare


def plain_data(data: Any) -> Any:
    """Converts data of other libraries to lists and NumPy arrays.

    Converted are columns of data frames, whatever their index is, tensors of torch
    and ragged tensors, also in lists, tuples and dicts. Anything else is returned as
    it is, data frames and data sets included.
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
    if hasattr(data, "detach") and hasattr(data, "cpu"):  # A tensor of torch.
        return data.detach().cpu().numpy()
    if hasattr(data, "to_numpy") and not hasattr(data, "columns"):
        return list(data.to_numpy())
    return data


def is_raw(element: Any) -> bool:
    """Tells whether an element of a dataset, or its specification, is a raw pair."""
    if isinstance(element, dict):
        return {"image", "caption"} <= set(element)
    if not isinstance(element, tuple) or len(element) != 2:
        return False
    return getattr(element[1], "dtype", None) == tf.string


def raw_pairs(x: Any, y: Any = None) -> tuple | None:
    """Returns images and captions where they are given as sequences, or None."""
    if y is not None:
        x, y = plain_data(x), plain_data(y)
        is_sequence = isinstance(x, tuple | list | np.ndarray) or tf.is_tensor(x)
        return (x, y) if is_sequence else None
    if isinstance(x, dict):
        return _pair(x) if is_raw(x) else None
    if hasattr(x, "to_numpy") and is_raw(dict.fromkeys(getattr(x, "columns", ()))):
        return plain_data(x["image"]), plain_data(x["caption"])
    if isinstance(x, list) and x and all(map(_is_one_pair, x)):
        images, captions = zip(*map(_pair, x), strict=True)
        return list(images), list(captions)
    if isinstance(x, tuple | list) and len(x) == 2 and not isinstance(x[0], dict):
        return tuple(x)
    return None


def _is_one_pair(element):
    if isinstance(element, tuple):
        return len(element) == 2
    return isinstance(element, dict) and is_raw(element)


def _pair(element):
    if isinstance(element, dict):
        return element["image"], element["caption"]
    return element


@dataclasses.dataclass(frozen=True)
class _Preparation:
    """What is done to an image, and to a batch of them, before the encoder."""

    image_size: int
    training: bool
    crop: bool = True
    flip: bool = True
    zoom: float = 0.0
    shift: float = 0.0
    recolor: float = 0.0
    value_range: tuple[float, float] | None = None

    @property
    def varies_batches(self):
        """Whether whole images are resized first, and varied by the batch."""
        return self.training and bool(self.zoom or self.shift or self.recolor)

    def image(self, image, drawn):
        """Brings files or pixels to (S, S, 3); `drawn` are three numbers in [0, 1)."""
        is_encoded, size = image.dtype == tf.string, self.image_size
        if self.training and not self.varies_batches:
            place = drawn[:2] if self.crop else tf.fill((2,), 0.5)
            flipped = drawn[2] < 0.5 if self.flip else False
            if is_encoded:
                return crop_image_bytes(image, size, place, flipped)
            pixels = uint8_pixels(image, self.value_range)
            return crop_image(pixels, size, place, flipped)
        if is_encoded:
            pixels = decode_image(image)
        else:
            pixels = uint8_pixels(image, self.value_range)
        if self.varies_batches:
            return resize_image(pixels, crop_size_to_resize_size(size))
        return preprocess_image(pixels, size)

    def batch(self, images, number):
        """Images as `image` gives them → (n, S, S, 3)."""
        if not self.varies_batches:
            return images
        options = {"zoom": self.zoom, "shift": self.shift, "recolor": self.recolor}
        return augment_images(
            images,
            self.image_size,
            tf.stack([number, 1]),
            crop=self.crop,
            flip=self.flip,
            **options,
        )


def _random_numbers(seed):
    """Endless int64, others in each epoch."""
    return tf.data.Dataset.random(seed, rerandomize_each_iteration=True)


def _chosen(caption, place):
    """Returns the caption, or the one of several at a place in [0, 1)."""
    if caption.shape.rank == 0:
        return caption
    count = tf.size(caption)
    return caption[
        tf.minimum(tf.cast(place * tf.cast(count, tf.float32), tf.int32), count - 1)
    ]


def _one_image(image):
    """Returns pixels of a ragged batch as a tensor; otherwise as `_file_bytes`."""
    if isinstance(image, tf.RaggedTensor):
        return tf.ensure_shape(image.to_tensor(), (None, None, 3))
    return _file_bytes(image)


def _file_bytes(image):
    """Returns encoded images and pixels as they are; of a path, the file's bytes."""
    if image.dtype != tf.string:
        return image
    # No path holds NUL, which ends the head of a short one.
    head = tf.strings.join([tf.strings.substr(image, 0, 12), b"\0" * 12])

    def has(start, part):
        return tf.strings.substr(head, start, len(part)) == part

    is_encoded = (has(0, b"RIFF") & has(8, b"WEBP")) | (has(0, b"BM") & has(6, b"\0\0"))
    for signature in _SIGNATURES:
        is_encoded |= has(0, signature)
    return tf.cond(is_encoded, lambda: image, lambda: tf.io.read_file(image))


# === Pairs of a tf.data.Dataset ===


def _dataset_rows(images, captions):
    """Returns the dataset of single pairs, and what makes (image, caption) of one."""
    pairs = images
    if captions is not None:
        if not isinstance(captions, tf.data.Dataset):
            captions = tf.data.Dataset.from_tensor_slices(_caption_tensor(captions))
        pairs = tf.data.Dataset.zip((images, captions))
    if not is_raw(pairs.element_spec):
        raise InputError(
            "images must be a dataset of pairs (image, caption) or of dicts with image "
            f"and caption, or captions be given too, received {pairs.element_spec}; "
            "map it to such pairs."
        )
    image = _pair(pairs.element_spec)[0]
    single = 0 if image.dtype == tf.string else 3
    if image.shape.rank == single + 1:
        pairs = pairs.unbatch()
    elif image.shape.rank != single:
        raise InputError(
            "image must be a path, an encoded image or pixels (height, width, 3), "
            f"received {image}; map it to such, by tf.ensure_shape where its rank "
            "isn't known."
        )

    def fetch(pair):
        image, caption = _pair(pair)
        return _file_bytes(image), caption

    return pairs, fetch


# === Pairs of sequences ===


def _sequence_rows(images, captions, value_range):
    """Returns how many pairs there are, and what makes one of a row's number."""
    image_of, image_count = _image_fetcher(images, value_range)
    caption_tensor = _caption_tensor(captions)
    caption_count = len(captions)
    if image_count != caption_count or not image_count:
        raise InputError(
            "images and captions must be of one number and not empty, received "
            f"{image_count} and {caption_count}; give each image its caption."
        )
    return image_count, lambda row: (image_of(row), caption_tensor[row])


def _image_fetcher(images, value_range):
    """Returns what reads the image of a row, and how many there are."""
    if isinstance(images, str | bytes | os.PathLike | dict):
        raise InputError(
            "images must be a sequence of paths, of encoded images or of arrays, "
            f"received one {type(images).__name__}; write [image]."
        )
    if len(getattr(images, "shape", ())) == 4:
        _check_pixels("images", images[0], value_range)
        pixels = tf.convert_to_tensor(images)
        return lambda row: pixels[row], len(images)
    images = list(images.numpy() if tf.is_tensor(images) else images)
    if all(isinstance(image, str | os.PathLike) for image in images):
        paths = tf.constant(list(map(image_path, images)), tf.string)
        return lambda row: tf.io.read_file(paths[row]), len(images)
    if all(isinstance(image, bytes) for image in images):
        files = tf.constant(images, tf.string)
        return lambda row: _file_bytes(files[row]), len(images)
    dtype = np.asarray(images[0]).dtype
    for row, image in enumerate(images):
        _check_pixels(f"images[{row}]", image, value_range)
        if np.asarray(image).dtype != dtype:
            raise InputError(
                f"images must be of one dtype, received {dtype} and, in images[{row}], "
                f"{np.asarray(image).dtype}; convert them to uint8."
            )

    def fetch(row):
        image = tf.numpy_function(lambda row: np.asarray(images[row]), [row], dtype)
        return tf.ensure_shape(image, (None, None, 3))

    return fetch, len(images)


def _check_pixels(name, image, value_range):
    if isinstance(image, str | bytes | os.PathLike):
        raise InputError(
            f"images must be all of one kind, received a {type(image).__name__} as "
            f"{name} among others; give paths, encoded images or arrays alone."
        )
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[-1] != 3 or not image.size:
        raise InputError(
            f"{name} must be an array (height, width, 3), received {image.dtype} "
            f"{image.shape}; {shape_remedy(image.shape)}."
        )
    try:
        uint8_pixels(image, value_range)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


def _caption_tensor(captions):
    """Captions as a string tensor (n,), or ragged (n, None) where images have more."""
    if isinstance(captions, str | bytes) or not hasattr(captions, "__len__"):
        raise InputError(
            "captions must be a sequence of str, one for each image, received "
            f"{type(captions).__name__}; write [caption]."
        )
    captions = list(captions.numpy() if tf.is_tensor(captions) else captions)
    several = [isinstance(c, Sequence) and not _is_text(c) for c in captions]
    for row, caption in enumerate(captions):
        texts = caption if several[row] else [caption]
        if several[row] != several[0] or not texts or not all(map(_is_text, texts)):
            raise InputError(
                f"captions[{row}] must be a str, or all of them lists of str, received "
                f"{caption!r}; give each image its caption."
            )
    if any(several):
        return tf.ragged.constant(captions, tf.string)
    return tf.constant(captions, tf.string)


def _is_text(value):
    return isinstance(value, str | bytes)
