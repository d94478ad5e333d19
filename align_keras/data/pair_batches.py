"""Conversion of raw pairs to batches of a model's inputs by `ALIGNPreprocessor`."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from align_keras.data.preparation import PairPreparation
from align_keras.data.raw_pairs import (
    image_and_caption,
    source_of_pairs,
    source_of_sequences,
)
from align_keras.data.teacher_embeddings import TeacherEmbeddings
from align_keras.images.image_hash import image_hash
from align_keras.preprocessing.preprocessor import ALIGNPreprocessor
from align_keras.utils.arguments import check_number
from align_keras.utils.errors import InputError


def image_text_batches(
    images: Any,
    captions: Any = None,
    preprocessor: ALIGNPreprocessor | None = None,
    *,
    training: bool,
    batch_size: int,
    shuffle: bool | None = None,
    shuffle_buffer_size: int = 10_000,
    seed: int | None = None,
    drop_remainder: bool | None = None,
    with_image_ids: bool = False,
    teacher: TeacherEmbeddings | None = None,
) -> tf.data.Dataset:
    """Returns batches of a model's inputs from images and captions.

    Args:
        images: with `captions`, a sequence, array or tensor of images, or a
            `tf.data.Dataset` of single images. The images are paths, encoded images
            (bytes) or uint8 arrays (height, width, 3), all of the same kind. Without
            `captions`, a list or `tf.data.Dataset` of pairs, which are tuples or dicts
            of `image` and `caption`, one tuple, dict or data frame of a sequence of
            images and a sequence of captions, or a `Dataset` of Hugging Face.
        captions: sequence or tensor of str, one for each image, or a
            `tf.data.Dataset` of them. For a sequence of lists of str, training draws
            one caption of an image in each epoch, and evaluation uses the first one.
        preprocessor: `ALIGNPreprocessor` with a tokenizer, such as
            `model.preprocessor`. Its options determine crop, flip, zoom, shift, recolor
            and the range of float pixels.
        training: augment and shuffle the pairs.
        batch_size: int ≥ 1.
        shuffle: bool or None. None shuffles in training only.
        shuffle_buffer_size: ≥ 1, size of the shuffle buffer for a
            `tf.data.Dataset`, in pairs. Sequences are shuffled as a whole.
        seed: seed of shuffling and augmentation. None uses the seed of
            `keras.utils.set_random_seed`.
        drop_remainder: drop the last batch if it is not full. None drops
            it in training, unless it is the only batch.
        with_image_ids: add `image_ids`, which are equal for equal images. A loss
            with `share_equal_images` needs them, and `fit` adds them for it.
        teacher: `TeacherEmbeddings` of the images and captions, or None. They are added
            to each batch for `DistillationLoss`.

    Returns:
        `tf.data.Dataset` of dicts, one pass over the pairs: `images` (n, image_size,
        image_size, 3) in [0, 255], `token_ids` and `padding_mask` int32 (n,
        sequence_length), and if requested `image_ids` int64 (n,), and
        `teacher_image_embeddings` and `teacher_text_embeddings` float32 (n, t).

    Raises:
        InputError: if an argument has the wrong type or value.

    References:
        Jia et al. 2021, section 5 (resize, random crop, horizontal flip).

    Example:

    >>> import numpy as np
    >>> from align_keras.models import ALIGN
    >>> vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat"]
    >>> model = ALIGN.from_preset("align_nano", vocabulary=vocabulary)
    >>> images = np.zeros((3, 90, 120, 3), "uint8")
    >>> batches = image_text_batches(
    ...     images,
    ...     ["a cat"] * 3,
    ...     model.preprocessor.with_options(zoom=0.1),
    ...     training=True,
    ...     batch_size=2,
    ... )
    >>> next(iter(batches))["images"].shape
    TensorShape([2, 64, 64, 3])
    """
    if not isinstance(preprocessor, ALIGNPreprocessor):
        raise InputError(
            "`preprocessor` must be an ALIGNPreprocessor. Received: "
            f"{type(preprocessor).__name__}. Pass model.preprocessor as the third "
            "argument or as preprocessor=…."
        )
    preprocessor.require_tokenizer()
    check_number("batch_size", batch_size, 1, 1_000_000, whole=True)
    prepare = PairPreparation(
        preprocessor, training=training, with_image_ids=with_image_ids, teacher=teacher
    )
    value_range = preprocessor.image_converter.value_range
    source = source_of_pairs(images, captions, value_range)
    rows = source.rows
    if training if shuffle is None else shuffle:
        buffer_size = source.pair_count if source.is_sequence else shuffle_buffer_size
        rows = rows.shuffle(buffer_size, seed, reshuffle_each_iteration=True)
    if drop_remainder is None:
        drop_remainder = training and not 0 <= source.pair_count < batch_size

    @tf.autograph.experimental.do_not_convert
    def prepare_pair(element: Any, number: tf.Tensor) -> tuple:
        return prepare.pair(source.read_pair(element), tf.stack([number, 0]))

    @tf.autograph.experimental.do_not_convert
    def prepare_batch(pairs: tuple, number: tf.Tensor) -> dict[str, tf.Tensor]:
        images, captions, inputs = pairs
        images = prepare.augmented(images, tf.stack([number, 1]))
        return prepare.batch(images, captions, inputs)

    rows = tf.data.Dataset.zip((rows, _random_numbers(seed)))
    pairs = rows.map(prepare_pair, tf.data.AUTOTUNE).batch(batch_size, drop_remainder)
    batches = tf.data.Dataset.zip((pairs, _random_numbers(seed)))
    return batches.map(prepare_batch, tf.data.AUTOTUNE).prefetch(2)


def batches_of_dataset(
    dataset: tf.data.Dataset,
    preprocessor: ALIGNPreprocessor,
    *,
    training: bool,
    with_image_ids: bool = False,
) -> tf.data.Dataset:
    """Returns the model's inputs for each batch of raw pairs of a dataset.

    Args:
        dataset: `tf.data.Dataset` of batches that `ALIGN.fit` accepts, tuples or dicts
            of `image` and `caption`.
        preprocessor: `ALIGNPreprocessor` with a tokenizer.
        training: augment the images.
        with_image_ids: add `image_ids` int64 (n,), equal for equal images.
    """
    preprocessor.require_tokenizer()
    image, caption = image_and_caption(dataset.element_spec)
    if caption.shape.rank != 1:
        raise InputError(
            "A raw dataset must be batched, with captions of rank 1. Received: rank "
            f"{caption.shape.rank}. Call dataset.batch(n) first."
        )
    preprocessor.image_converter.check_dtype(image.dtype)

    # AutoGraph would wrap an InputError in another exception.
    @tf.autograph.experimental.do_not_convert
    def prepare_batch(pairs: Any, number: tf.Tensor) -> dict[str, tf.Tensor]:
        images, captions = image_and_caption(pairs)
        # `preprocessor(…)` would make Keras rewrite the errors of `call`.
        inputs = preprocessor.call(
            images, captions, training=training, seed=tf.stack([number, 0])
        )
        if with_image_ids:
            inputs["image_ids"] = tf.map_fn(
                image_hash, images, fn_output_signature=tf.int64
            )
        return inputs

    pairs = tf.data.Dataset.zip((dataset, _random_numbers(None)))
    return pairs.map(prepare_batch, tf.data.AUTOTUNE).prefetch(2)


def batch_function(
    preprocessor: ALIGNPreprocessor, *, training: bool, with_image_ids: bool = False
) -> Callable[[Any, Any], dict]:
    """Returns a function that converts one batch in memory to the model's inputs.

    The function accepts a sequence of images and a sequence of captions, in the forms
    of `image_text_batches`. It returns the same dict as `batches_of_dataset`.

    Args:
        preprocessor: `ALIGNPreprocessor` with a tokenizer.
        training: augment the images.
        with_image_ids: add `image_ids` int64 (n,), equal for equal images.
    """
    prepare = PairPreparation(
        preprocessor, training=training, with_image_ids=with_image_ids
    )
    converter = preprocessor.image_converter
    prepare_pair = tf.function(prepare.pair, reduce_retracing=True, autograph=False)

    def prepare_batch(images: Any, captions: Any) -> dict[str, tf.Tensor]:
        source = source_of_sequences(images, captions, converter.value_range)
        shape = (source.pair_count + 1, 2)
        seeds = tf.random.uniform(shape, maxval=2**63 - 1, dtype=tf.int64)
        pairs = []
        for row in range(source.pair_count):
            try:
                pairs.append(prepare_pair(source.read_pair(row), seeds[row]))
            except tf.errors.OpError:
                # `read` fails for the same image, with an error that names it.
                converter.read(images[row], row)
                raise
        prepared, texts, inputs = tf.nest.map_structure(
            lambda *rows: tf.stack(rows), *pairs
        )
        return prepare.batch(prepare.augmented(prepared, seeds[-1]), texts, inputs)

    return prepare_batch


def _random_numbers(seed: int | None) -> tf.data.Dataset:
    """Returns an endless dataset of random int64, different in each epoch."""
    return tf.data.Dataset.random(seed, rerandomize_each_iteration=True)
