"""Errors and empty datasets that the input reports while Keras reads it."""

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from align_keras.models.input_checks import INPUTS, check_gray_levels, empty_data_error
from align_keras.utils.errors import InputError


@dataclasses.dataclass
class InputReport:
    """Errors and unread datasets of the input while Keras reads it.

    Attributes:
        errors: errors of input pipelines. TensorFlow keeps only their text.
        unread: datasets of unknown length of which no batch was read yet.
    """

    errors: list[InputError] = dataclasses.field(default_factory=list)
    unread: list[tf.data.Dataset] = dataclasses.field(default_factory=list)

    def check_read(self) -> None:
        """Raises `InputError` if one of the datasets holds no batch."""
        for dataset in self.unread:
            # `fit` reads no batch either if no epoch is left to train.
            if next(iter(dataset), None) is None:
                raise empty_data_error(dataset)


_REPORT: contextvars.ContextVar[InputReport | None] = contextvars.ContextVar(
    "input_report", default=None
)


def current_report() -> InputReport:
    """Returns the report of the surrounding `input_report`, or a new report."""
    return _REPORT.get() or InputReport()


@contextlib.contextmanager
def input_report() -> Iterator[InputReport]:
    """Collects the reports of the input pipelines that are built in its body.

    Threads of the pipelines keep a reference to the report.
    """
    report = InputReport()
    token = _REPORT.set(report)
    try:
        yield report
    finally:
        _REPORT.reset(token)


def checked_batches(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Returns the inputs of a dataset without other entries of its dicts.

    If the images are floats, `check_gray_levels` checks the first batch. If the length
    of the dataset is unknown, the report notes that there is a batch. Any other dataset
    that holds only `INPUTS` is returned unchanged.
    """
    spec = dataset.element_spec
    inputs = spec[0] if isinstance(spec, tuple | list) else spec
    if set(inputs) != set(INPUTS):
        dataset = dataset.map(_inputs_alone)
    is_float = inputs["images"].dtype.is_floating
    if is_float or dataset.cardinality() == tf.data.UNKNOWN_CARDINALITY:
        return with_first_batch_check(dataset, is_float)
    return dataset


def _inputs_alone(*batch: Any) -> dict[str, tf.Tensor]:
    return {name: batch[0][name] for name in INPUTS}


def with_first_batch_check(dataset: tf.data.Dataset, is_float: bool) -> tf.data.Dataset:
    """Checks the first batch when it is read, because reading it twice may be slow.

    Args:
        dataset: `tf.data.Dataset` of a model's inputs.
        is_float: bool, check by `check_gray_levels` too.
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
        inputs = dict(_inputs_alone(*batch) if isinstance(batch, tuple) else batch)
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
