"""Conversion of the batches of generators, loaders and `keras.utils.PyDataset`."""

from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from align_keras.models.input_checks import (
    INPUTS,
    check_compared_pairs,
    check_data,
    check_gray_levels,
    check_model_inputs,
    empty_data_error,
    loss_input_names,
    row_count,
    value_range_rule,
)
from align_keras.models.input_report import current_report, select_inputs
from align_keras.models.pair_batches import batch_function
from align_keras.models.raw_pairs import is_raw, plain_data
from align_keras.preprocessing.preprocessor import ALIGNPreprocessor
from align_keras.utils.errors import InputError


def is_from_python(x: Any) -> bool:
    """Returns True for a PyDataset, a generator, or a loader such as that of torch."""
    if isinstance(x, keras.utils.PyDataset):
        return True
    if isinstance(x, tf.data.Dataset | tf.data.Iterator) or _is_distributed(x):
        return False
    return hasattr(x, "__iter__") and not hasattr(x, "__getitem__")


def _is_distributed(x: Any) -> bool:
    return isinstance(
        x, tf.distribute.DistributedDataset | tf.distribute.DistributedIterator
    )


class PythonBatches:
    """Converts the batches of a generator or loader to a model's inputs.

    A dict with the entries `INPUTS` contains model inputs already. A pair of images and
    captions, or a dict of `image` and `caption`, is a raw batch and is preprocessed.

    Args:
        model: `ALIGN`.
        preprocessor: `ALIGNPreprocessor` for raw batches.
        training: bool, augment raw images.
        value_range: two floats or None, argument of `fit`.
    """

    def __init__(
        self,
        model: keras.Model,
        preprocessor: ALIGNPreprocessor,
        *,
        training: bool,
        value_range: tuple[float, float] | None,
    ) -> None:
        self.model = model
        self.report = current_report()
        self.loss_inputs = loss_input_names(model)
        self.prepare = batch_function(
            preprocessor,
            training=training,
            with_image_ids="image_ids" in self.loss_inputs,
        )
        self.training = training
        self.value_range = value_range
        self.is_first = True

    def batches_of(self, x: Any) -> Any:
        """Returns the batches of `x` in a form that Keras accepts."""
        if isinstance(x, keras.utils.PyDataset):
            return _ReadyPyDataset(x, self)
        if hasattr(x, "__next__"):
            return self._generator(x)
        # Keras accepts loaders only from torch, so a dataset reads the loader.
        return self._dataset(x)

    def ready(self, batch: Any) -> Any:
        """Returns a batch as a tuple that contains only the inputs.

        A batch that doesn't fit the model is returned unchanged. The step calls
        `check_data`, which raises an error for it.
        """
        try:
            inputs = self._ready(batch)
            if self.training and self.is_first and isinstance(inputs, dict):
                check_compared_pairs(self.model.loss, row_count(inputs.get("images")))
            self.is_first = False
            return inputs if isinstance(inputs, tuple) else (inputs,)
        except InputError as error:
            self.report.errors.append(error)
            raise

    def _ready(self, batch: Any) -> Any:
        batch = plain_data(batch)
        if isinstance(batch, tuple | list) and batch:
            first, *targets = batch
            if len(batch) == 2 and not isinstance(first, dict):
                return self.prepare(*batch)
            if any(target is not None for target in targets):
                return tuple(batch)
            batch = first
        if is_raw(batch):
            return self.prepare(batch["image"], batch["caption"])
        if not isinstance(batch, dict) or not set(INPUTS) <= set(batch):
            return batch
        if self.value_range is not None:
            raise InputError(value_range_rule(self.value_range, batch))
        check_model_inputs(self.model, batch)
        if self.is_first:
            check_gray_levels(batch["images"])
        return select_inputs(batch, (*INPUTS, *self.loss_inputs))

    def _generator(self, x: Any) -> Iterator:
        is_empty = True
        for batch in x:
            is_empty = False
            yield self.ready(batch)
        if is_empty:
            raise empty_data_error(x)

    def _dataset(self, x: Any) -> tf.data.Dataset:
        """Returns a dataset that reads `x` again in each epoch.

        The method reads one batch in advance to get the shapes and dtypes.
        """
        first = next(iter(x), None)
        if first is None:
            raise empty_data_error(x)
        batch = self.ready(first)
        check_data(self.model, batch)
        inputs = batch[0]
        signature = {
            name: tf.TensorSpec((None, *values.shape[1:]), values.dtype)
            for name, values in inputs.items()
        }
        dataset = tf.data.Dataset.from_generator(
            lambda: (self.ready(batch)[0] for batch in x), output_signature=signature
        )
        count = row_count(x)
        if count is not None:
            dataset = dataset.apply(tf.data.experimental.assert_cardinality(count))
        return dataset.prefetch(2)


class _ReadyPyDataset(keras.utils.PyDataset):
    """`PyDataset` that converts the batches of a wrapped `PyDataset`."""

    def __init__(self, dataset: keras.utils.PyDataset, reader: PythonBatches) -> None:
        super().__init__(workers=dataset.workers, max_queue_size=dataset.max_queue_size)
        if dataset.use_multiprocessing:
            raise InputError(
                "A PyDataset must not use processes. Received: "
                "use_multiprocessing=True. Set it to False. Its `workers` are then "
                "threads."
            )
        self.dataset = dataset
        self.reader = reader

    @property
    def num_batches(self) -> int | None:
        return self.dataset.num_batches

    def __getitem__(self, index: int) -> Any:
        return self.reader.ready(self.dataset[index])

    def on_epoch_begin(self) -> None:
        self.dataset.on_epoch_begin()

    def on_epoch_end(self) -> None:
        self.dataset.on_epoch_end()
