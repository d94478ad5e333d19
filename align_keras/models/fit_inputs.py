"""Converts the data of `fit`, `evaluate` and `predict` for Keras."""

import contextlib
import os
import re
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from align_keras.models.fit_arguments import is_raw_data
from align_keras.models.inference import is_distributed
from align_keras.models.input_checks import (
    INPUTS,
    REMEDY,
    check_computed_inputs,
    check_data,
    check_gray_levels,
    check_model_inputs,
    check_not_empty,
    loss_input_names,
    type_and_shape,
    value_range_rule,
)
from align_keras.models.input_report import (
    checked_batches,
    input_report,
    select_inputs,
    with_first_batch_check,
)
from align_keras.models.pair_batches import batches_of_dataset, image_text_batches
from align_keras.models.python_batches import PythonBatches, is_from_python
from align_keras.models.raw_pairs import plain_data, raw_pairs
from align_keras.preprocessing.image_converter import ALIGNImageConverter
from align_keras.preprocessing.preprocessor import ALIGNPreprocessor
from align_keras.utils.errors import InputError


def keras_input(
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
) -> Any:
    """Returns the value of `x` for `keras.Model.fit`.

    Raw pairs (images and captions) are converted to batches of the model's inputs. Data
    that already are model inputs are checked.

    Args:
        model: `ALIGN`.
        x: argument of `ALIGN.fit`.
        y: argument of `ALIGN.fit`.
        training: bool, prepare raw pairs for training.
        batch_size: int or None, argument of `ALIGN.fit`.
        shuffle: bool, shuffle sequences of raw pairs.
        repeat: bool, repeat sequences of raw pairs without end.
        augment: bool, crop raw images at a random position and mirror half of them.
        value_range: two floats or None, black and white of raw float images.
        with_loss_inputs: bool, include the inputs that only the loss reads.
    """
    loss_inputs = loss_input_names(model) if with_loss_inputs else ()
    with_image_ids = "image_ids" in loss_inputs
    x, y = plain_data(x), plain_data(y)
    pairs = raw_pairs(x, y)
    if pairs is not None or is_raw_data(x):
        check_computed_inputs(loss_inputs)
    if pairs is not None:
        images, captions = pairs
        batches = image_text_batches(
            images,
            captions,
            _preprocessor(model, augment, value_range),
            training=training,
            shuffle=shuffle,
            batch_size=32 if batch_size is None else batch_size,
            with_image_ids=with_image_ids,
        )
        return quickly_copied(model, batches.repeat() if repeat else batches)
    is_batches = hasattr(x, "__iter__") or isinstance(x, keras.utils.PyDataset)
    if y is not None or not is_batches or isinstance(x, str | bytes | os.PathLike):
        raise InputError(
            "x and y must be images and their captions. Received: "
            f"{type_and_shape(x)} and {type_and_shape(y)}. {REMEDY}"
        )
    check_not_empty(x)
    if is_raw_data(x):
        preprocessor = _preprocessor(model, augment, value_range)
        batches = batches_of_dataset(
            x, preprocessor, training=training, with_image_ids=with_image_ids
        )
        if x.cardinality() == tf.data.UNKNOWN_CARDINALITY:
            batches = with_first_batch_check(batches, is_float=False)
        return quickly_copied(model, batches)
    if is_from_python(x):
        reader = PythonBatches(
            model,
            _preprocessor(model, augment, value_range),
            training=training,
            value_range=value_range,
        )
        return reader.batches_of(x)
    if value_range is not None:
        raise InputError(value_range_rule(value_range, x))
    if isinstance(x, tf.data.Dataset):
        check_data(model, x.element_spec)
        vocabulary_size = model.text_encoder.vocabulary_size
        return checked_batches(x, (*INPUTS, *loss_inputs), vocabulary_size)
    if hasattr(x, "__getitem__"):
        check_model_inputs(model, x)
        check_gray_levels(x["images"])
        return select_inputs(x, (*INPUTS, *loss_inputs))
    return x


def quickly_copied(model: keras.Model, batches: tf.data.Dataset) -> tf.data.Dataset:
    """Disables graph rewriting for datasets that a strategy copies."""
    if not is_distributed(model.distribute_strategy):
        return batches
    # Keras passes datasets to the strategy, which copies them. TensorFlow needs a
    # minute to rewrite the graph of a copy. One thread for each operation saves more
    # time than the rewriting.
    options = tf.data.Options()
    options.experimental_optimization.apply_default_optimizations = False
    options.threading.max_intra_op_parallelism = 1
    return batches.with_options(options)


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
    if not options:
        return preprocessor
    return preprocessor.with_options(**options)


@contextlib.contextmanager
def readable_input(
    model: keras.Model,
    x: Any,
    y: Any = None,
    value_range: tuple[float, float] | None = None,
    **options: Any,
) -> Iterator[Any]:
    """Context manager that returns `keras_input` and explains its read errors.

    TensorFlow doesn't report the path of an image that it can't decode. This context
    manager raises an `InputError` that names the image.
    """
    with input_report() as report:
        batches = keras_input(model, x, y, value_range=value_range, **options)
        try:
            yield batches
            report.check_read()
        except UnboundLocalError:
            # `keras.Model.predict` raises this error if it read no batch.
            report.check_read()
            raise
        except tf.errors.OpError as error:
            if report.errors:
                raise report.errors[0] from error
            if "IteratorGetNext" not in str(error):
                raise
            converter = _preprocessor(model, True, value_range).image_converter
            _raise_for_unreadable_image(x, y, converter)
            match = re.search(r"transformation with iterator: \S+ (.*)", error.message)
            reason = match[1] if match else error.message.split("\n")[0]
            raise InputError(
                f"A batch of the input can't be read ({reason[:300]}). Repair the pair "
                "that causes the error, or remove it."
            ) from error


def _raise_for_unreadable_image(x: Any, y: Any, converter: ALIGNImageConverter) -> None:
    """Reads all images of a sequence until one raises an error that names it."""
    pairs = raw_pairs(plain_data(x), plain_data(y))
    if pairs is None or isinstance(pairs[0], tf.data.Dataset):
        return
    for row, image in enumerate(pairs[0]):
        converter.read(image, row)
