"""Records of input errors and unread datasets while Keras reads the input."""

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from align_keras.models.input_checks import (
    check_gray_levels,
    empty_data_error,
    token_id_rule,
)
from align_keras.utils.errors import InputError


@dataclasses.dataclass
class InputReport:
    """Errors and unread datasets of the input while Keras reads it.

    Attributes:
        errors: errors that input pipelines raised. TensorFlow passes on only their
            text, so the exceptions are recorded here.
        unread: datasets of unknown length from which no batch was read yet.
    """

    errors: list[InputError] = dataclasses.field(default_factory=list)
    unread: list[tf.data.Dataset] = dataclasses.field(default_factory=list)

    def check_read(self) -> None:
        """Raises `InputError` if an unread dataset is empty."""
        for dataset in self.unread:
            # A dataset may be unread because `fit` had no epoch to train, so a batch is
            # read here.
            if next(iter(dataset), None) is None:
                raise empty_data_error(dataset)


_REPORT: contextvars.ContextVar[InputReport | None] = contextvars.ContextVar(
    "input_report", default=None
)


def current_report() -> InputReport:
    """Returns the report of the enclosing `input_report`, or a new report."""
    return _REPORT.get() or InputReport()


@contextlib.contextmanager
def input_report() -> Iterator[InputReport]:
    """Context manager that returns the report of the pipelines built in its body.

    The pipelines keep a reference to the report, since their threads may outlive the
    context.
    """
    report = InputReport()
    token = _REPORT.set(report)
    try:
        yield report
    finally:
        _REPORT.reset(token)


def checked_batches(
    dataset: tf.data.Dataset, names: tuple[str, ...], vocabulary_size: int
) -> tf.data.Dataset:
    """Returns a dataset of the inputs with these names.

    The token ids of each batch are checked. If the images are floats,
    `check_gray_levels` checks the first batch. If the length of the dataset is unknown,
    the report records whether a batch was read.
    """
    spec = dataset.element_spec
    inputs = spec[0] if isinstance(spec, tuple | list) else spec
    rule = token_id_rule(vocabulary_size)

    @tf.autograph.experimental.do_not_convert
    def selected_and_checked(*batch: dict) -> dict[str, tf.Tensor]:
        inputs = select_inputs(batch[0], names)
        token_ids = inputs["token_ids"]
        is_token = (token_ids >= 0) & (token_ids < vocabulary_size)
        check = tf.debugging.Assert(tf.reduce_all(is_token), [rule])
        with tf.control_dependencies([check]):
            inputs["token_ids"] = tf.identity(token_ids)
        return inputs

    dataset = dataset.map(selected_and_checked)
    is_float = inputs["images"].dtype.is_floating
    if is_float or dataset.cardinality() == tf.data.UNKNOWN_CARDINALITY:
        return with_first_batch_check(dataset, is_float)
    return dataset


def select_inputs(batch: dict, names: tuple[str, ...]) -> dict[str, Any]:
    """Returns the entries of a batch with these names, without missing entries."""
    return {name: batch[name] for name in names if name in batch}


def with_first_batch_check(dataset: tf.data.Dataset, is_float: bool) -> tf.data.Dataset:
    """Returns the dataset with a check of the first batch when it is read.

    The check is a part of the pipeline, because reading a batch twice may be slow.

    Args:
        dataset: `tf.data.Dataset` of inputs of the model.
        is_float: bool, call `check_gray_levels` on the first batch.
    """
    report = current_report()
    if dataset.cardinality() == tf.data.UNKNOWN_CARDINALITY:
        report.unread.append(dataset)

    def check_in_python(images: np.ndarray) -> np.int64:
        # Datasets can only be compared by identity.
        report.unread = [unread for unread in report.unread if unread is not dataset]
        try:
            if is_float:
                check_gray_levels(images)
        except InputError as error:
            report.errors.append(error)
            raise
        return np.int64(0)

    @tf.autograph.experimental.do_not_convert
    def check(number: tf.Tensor, batch: Any) -> dict[str, tf.Tensor]:
        inputs = dict(batch[0] if isinstance(batch, tuple) else batch)
        images = inputs["images"]
        checked = tf.cond(
            number == 0,
            lambda: tf.numpy_function(
                check_in_python, [images if is_float else number], tf.int64
            ),
            lambda: tf.constant(0, tf.int64),
        )
        with tf.control_dependencies([checked]):
            inputs["images"] = tf.identity(images)
        return inputs

    return dataset.enumerate().map(check)
