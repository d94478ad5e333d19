"""Conversion of the data that `fit`, `evaluate` and `predict` accept to batches."""

import contextlib
import dataclasses
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import tensorflow as tf

from align_keras.data.model_inputs import (
    ACCEPTED,
    GRAY_LEVELS,
    INPUTS,
    check_compared_pairs,
    check_data,
    check_gray_levels,
    check_model_inputs,
    empty_data_error,
    is_scaled_to_one,
    loss_input_names,
    row_count,
    select_inputs,
    token_id_rule,
    type_and_shape,
)
from align_keras.data.pair_batches import (
    batch_function,
    batches_of_dataset,
    image_text_batches,
)
from align_keras.data.raw_pairs import is_raw, plain_data, raw_pairs
from align_keras.preprocessing.preprocessor import ALIGNPreprocessor
from align_keras.utils.arguments import check_number
from align_keras.utils.errors import InputError

BATCH_SIZE = 32


@dataclasses.dataclass(frozen=True)
class FitInput:
    """Batches of a model's inputs for the methods of `keras.Model`.

    Attributes:
        batches: `tf.data.Dataset`, `keras.utils.PyDataset`, generator, or a dict of
            arrays that Keras divides into batches.
        pairs_per_step: int, or None if it is unknown.
        steps_per_epoch: int, or None if it is unknown.
    """

    batches: Any
    pairs_per_step: int | None = None
    steps_per_epoch: int | None = None


def fit_input(
    model: keras.Model,
    x: Any,
    y: Any = None,
    *,
    training: bool = False,
    batch_size: int | None = None,
    shuffle: bool = False,
    repeat: bool = False,
    augment: bool = True,
    value_range: tuple[float, float] | None = None,
    with_loss_inputs: bool = True,
) -> FitInput:
    """Returns the batches of `x` and `y`, the arguments of `ALIGN.fit`.

    Raw pairs (images and captions) are preprocessed. Data that already are model inputs
    are checked.

    Args:
        model: `ALIGN`.
        x: argument of `ALIGN.fit`.
        y: argument of `ALIGN.fit`.
        training: prepare raw pairs for training.
        batch_size: pairs per batch of data that aren't batched. None means 32.
        shuffle: shuffle sequences of raw pairs.
        repeat: repeat sequences of raw pairs without end.
        augment: crop raw images at a random position and mirror half of them.
        value_range: black and white of raw float images.
        with_loss_inputs: include the inputs that only the loss reads.
    """
    x, y = plain_data(x), plain_data(y)
    size = BATCH_SIZE if batch_size is None else batch_size
    check_number("batch_size", size, 1, 1_000_000, whole=True)
    loss_inputs = loss_input_names(model) if with_loss_inputs else ()
    names = (*INPUTS, *loss_inputs)
    options: dict[str, Any] = {
        "training": training,
        "with_image_ids": "image_ids" in loss_inputs,
    }

    # === Images with captions, all pairs in memory or in files ===
    pairs = raw_pairs(x, y)
    if pairs is not None:
        images, captions = pairs
        batches = image_text_batches(
            images,
            captions,
            _preprocessor(model, augment, value_range),
            shuffle=shuffle,
            batch_size=size,
            **options,
        )
        count = row_count(images)
        return FitInput(
            _for_strategy(model, batches.repeat() if repeat else batches),
            size if count is None else min(size, count),
            _cardinality(batches),
        )
    if y is not None or not _has_batches(x):
        raise InputError(
            "x and y must be images and their captions. Received: "
            f"{type_and_shape(x)} and {type_and_shape(y)}. {ACCEPTED}"
        )

    # === A dataset of batches ===
    if isinstance(x, tf.data.Dataset):
        if is_raw(x.element_spec):
            preprocessor = _preprocessor(model, augment, value_range)
            batches = batches_of_dataset(x, preprocessor, **options)
            batches = _for_strategy(model, batches)
        else:
            check_data(model, x.element_spec)
            batches = _checked(x, names, model.text_encoder.vocabulary_size)
        return FitInput(batches, _pairs_of_batch(x) or batch_size, _cardinality(x))

    # === Batches from Python ===
    if _is_from_python(x):
        prepare = batch_function(_preprocessor(model, augment, value_range), **options)
        convert = _batch_converter(model, prepare, names, training)
        if isinstance(x, keras.utils.PyDataset):
            return FitInput(_ConvertedPyDataset(x, convert), batch_size, x.num_batches)
        if hasattr(x, "__next__"):
            return FitInput(_converted_generator(x, convert), batch_size)
        batches = _dataset_of_loader(model, x, convert)
        pairs_per_step = _pairs_of_batch(batches) or batch_size
        return FitInput(batches, pairs_per_step, row_count(x))

    # === Inputs of the model, all in memory ===
    if hasattr(x, "__getitem__"):
        check_model_inputs(model, x)
        check_gray_levels(x["images"])
        count = len(x["images"])
        steps = math.ceil(count / size)
        return FitInput(select_inputs(x, names), min(size, count), steps)

    # A dataset that a strategy has distributed.
    return FitInput(x, batch_size)


def _has_batches(x: Any) -> bool:
    if isinstance(x, str | bytes | os.PathLike):
        return False
    return hasattr(x, "__iter__") or isinstance(x, keras.utils.PyDataset)


def _is_from_python(x: Any) -> bool:
    """Returns True for a PyDataset, a generator, or a loader such as that of torch."""
    if isinstance(x, keras.utils.PyDataset):
        return True
    datasets = (
        tf.data.Iterator,
        tf.distribute.DistributedDataset,
        tf.distribute.DistributedIterator,
    )
    return not isinstance(x, datasets) and not hasattr(x, "__getitem__")


def _preprocessor(
    model: keras.Model, augment: bool, value_range: tuple[float, float] | None
) -> ALIGNPreprocessor:
    """Returns the model's preprocessor with the options of `fit`."""
    options: dict[str, Any] = {}
    if not augment:
        options["crop"] = "center"
        options["flip"] = False
    if value_range is not None:
        options["value_range"] = value_range
    preprocessor = model.require_preprocessor()
    return preprocessor.with_options(**options) if options else preprocessor


def _for_strategy(model: keras.Model, batches: tf.data.Dataset) -> tf.data.Dataset:
    """Disables graph rewriting for datasets that a strategy copies."""
    with model.distribute_strategy.scope():
        if not tf.distribute.has_strategy():
            return batches
    # Keras passes datasets to the strategy, which copies them. TensorFlow needs a
    # minute to rewrite the graph of a copy. One thread for each operation saves more
    # time than the rewriting.
    options = tf.data.Options()
    options.experimental_optimization.apply_default_optimizations = False
    options.threading.max_intra_op_parallelism = 1
    return batches.with_options(options)


def _cardinality(dataset: tf.data.Dataset) -> int | None:
    """Returns the number of elements, or None if it is unknown or infinite."""
    count = int(dataset.cardinality())
    return count if count > 0 else None


def _pairs_of_batch(dataset: tf.data.Dataset) -> int | None:
    """Returns the number of pairs of a full batch, or None if it is unknown."""
    shape = tf.nest.flatten(dataset.element_spec)[0].shape
    if shape.rank and shape[0] is not None:
        return int(shape[0])
    size = int(tf.raw_ops.ComputeBatchSize(input_dataset=dataset._variant_tensor))
    return size if size > 0 else None


def _checked(
    dataset: tf.data.Dataset, names: tuple[str, ...], vocabulary_size: int
) -> tf.data.Dataset:
    """Returns a dataset of the inputs with these names, and checks their values."""
    rule = token_id_rule(vocabulary_size)

    @tf.autograph.experimental.do_not_convert
    def select_and_check(*batch: dict) -> dict[str, tf.Tensor]:
        inputs = select_inputs(batch[0], names)
        token_ids = inputs["token_ids"]
        is_token = (token_ids >= 0) & (token_ids < vocabulary_size)
        checks = [tf.debugging.Assert(tf.reduce_all(is_token), [rule])]
        if inputs["images"].dtype.is_floating:
            # One image is enough, because all images are scaled in the same way.
            is_scaled = is_scaled_to_one(inputs["images"][:1])
            checks.append(tf.debugging.Assert(~is_scaled, [GRAY_LEVELS]))
        with tf.control_dependencies(checks):
            inputs["token_ids"] = tf.identity(token_ids)
        return inputs

    return dataset.map(select_and_check)


# === Batches from Python ===


def _batch_converter(
    model: keras.Model, prepare: Callable, names: tuple[str, ...], training: bool
) -> Callable[[Any], tuple]:
    """Returns a function that makes `(inputs,)` of a batch from Python.

    A dict with the entries `INPUTS` contains model inputs already. A pair of images and
    captions, or a dict of `image` and `caption`, is a raw batch. Any other batch is
    returned unchanged, and the step refuses it.
    """

    def convert(batch: Any) -> tuple:
        batch = plain_data(batch)
        if isinstance(batch, tuple | list) and batch:
            first, *targets = batch
            if len(batch) == 2 and not isinstance(first, dict):
                return (checked(prepare(*batch)),)
            if any(target is not None for target in targets):
                return tuple(batch)
            batch = first
        if is_raw(batch):
            return (checked(prepare(batch["image"], batch["caption"])),)
        if not isinstance(batch, dict) or not set(INPUTS) <= set(batch):
            return (batch,)
        check_model_inputs(model, batch)
        check_gray_levels(batch["images"][:1])
        return (checked(select_inputs(batch, names)),)

    def checked(inputs: dict) -> dict:
        if training:
            check_compared_pairs(model.loss, row_count(inputs["images"]))
        return inputs

    return convert


def _converted_generator(x: Iterator, convert: Callable) -> Iterator[tuple]:
    for batch in x:
        yield convert(batch)


def _dataset_of_loader(
    model: keras.Model, loader: Iterable, convert: Callable
) -> tf.data.Dataset:
    """Returns a dataset that reads the loader again in each epoch.

    Keras accepts loaders only from torch. One batch is read in advance to get the
    shapes and dtypes.
    """
    first = next(iter(loader), None)
    if first is None:
        raise empty_data_error(loader)
    batch = convert(first)
    check_data(model, batch)
    signature = {
        name: tf.TensorSpec((None, *values.shape[1:]), values.dtype)
        for name, values in batch[0].items()
    }
    dataset = tf.data.Dataset.from_generator(
        lambda: (convert(batch)[0] for batch in loader), output_signature=signature
    )
    count = row_count(loader)
    if count is not None:
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(count))
    return dataset.prefetch(2)


class _ConvertedPyDataset(keras.utils.PyDataset):
    """`PyDataset` that converts the batches of another one."""

    def __init__(self, dataset: keras.utils.PyDataset, convert: Callable) -> None:
        super().__init__(workers=dataset.workers, max_queue_size=dataset.max_queue_size)
        self.dataset = dataset
        self.convert = convert

    @property
    def num_batches(self) -> int | None:
        return self.dataset.num_batches

    def __getitem__(self, index: int) -> tuple:
        return self.convert(self.dataset[index])

    def on_epoch_begin(self) -> None:
        self.dataset.on_epoch_begin()

    def on_epoch_end(self) -> None:
        self.dataset.on_epoch_end()


# === Errors while Keras reads the batches ===


@contextlib.contextmanager
def explained_read_errors(
    model: keras.Model, x: Any, y: Any, value_range: tuple[float, float] | None
) -> Iterator[None]:
    """Context manager that raises `InputError` for errors of an input pipeline.

    TensorFlow passes on the text of an `InputError` of a pipeline, and doesn't report
    the path of an image that it can't decode. The error of this context manager names
    the image.
    """
    try:
        yield
    except tf.errors.OpError as error:
        raised_in_python = re.search(r"\bInputError: (.*)", error.message)
        if raised_in_python:
            raise InputError(raised_in_python[1]) from error
        if "IteratorGetNext" not in str(error):
            raise
        _raise_for_unreadable_image(model, x, y, value_range)
        match = re.search(r"transformation with iterator: \S+ (.*)", error.message)
        reason = match[1] if match else error.message.split("\n")[0]
        raise InputError(
            f"A batch of the input can't be read ({reason[:300]}). Repair the pair "
            "that causes the error, or remove it."
        ) from error


def _raise_for_unreadable_image(
    model: keras.Model, x: Any, y: Any, value_range: tuple[float, float] | None
) -> None:
    """Reads all images of a sequence until one raises an error that names it."""
    pairs = raw_pairs(plain_data(x), plain_data(y))
    if pairs is None or isinstance(pairs[0], tf.data.Dataset):
        return
    converter = _preprocessor(model, True, value_range).image_converter
    for row, image in enumerate(pairs[0]):
        converter.read(image, row)


# === Arguments of `fit` ===


def check_weights(**weights: object) -> None:
    """Raises `InputError` if a weight is set. The loss doesn't support weights."""
    for name, value in weights.items():
        if value is not None:
            raise InputError(
                f"{name} must be None. Received: {type_and_shape(value)}. The "
                "contrastive loss weighs all pairs of a batch equally. Leave the "
                "weights out."
            )


def as_x_and_y(validation_data: Any) -> tuple:
    """Returns `x` and `y` of `validation_data`, which is like `x` or a tuple.

    Raises:
        InputError: if the tuple has a third entry, which would be weights.
    """
    validation_data = plain_data(validation_data)
    if not isinstance(validation_data, tuple | list) or len(validation_data) > 3:
        return validation_data, None
    x, y, weight = (*validation_data, None, None)[:3]
    check_weights(sample_weight=weight)
    return x, y


def split_pairs(x: Any, y: Any, share: float) -> tuple:
    """Divides data into pairs to train on and pairs to validate on.

    Args:
        x: argument of `fit`.
        y: argument of `fit`.
        share: in (0, 1), fraction of the pairs to validate on. They are taken from the
            end.

    Returns:
        `x` and `y` to train on, and the validation data.
    """
    x, y = plain_data(x), plain_data(y)
    pairs = raw_pairs(x, y)
    is_inputs = pairs is None and isinstance(x, dict) and y is None
    columns = tuple(x.values()) if is_inputs else pairs
    if columns is None:
        raise InputError(
            "validation_split must be 0 unless the pairs are sequences. Received: "
            f"validation_split={share} for {type_and_shape(x)}. Pass validation_data, "
            "such as dataset.take(n), and train on dataset.skip(n)."
        )
    count = len(columns[0])
    first = int(count * (1 - share))
    if not 0 < first < count:
        raise InputError(
            "validation_split must leave at least one pair to train on and one to "
            f"validate on. Received: validation_split={share} for {count} pairs. Pass "
            "validation_data, or another fraction."
        )
    training = [values[:first] for values in columns]
    validation = [values[first:] for values in columns]
    if is_inputs:
        return (
            dict(zip(x, training, strict=True)),
            None,
            dict(zip(x, validation, strict=True)),
        )
    return *training, tuple(validation)
