"""What `fit`, `evaluate` and `predict` take: raw pairs, or inputs that fit."""

import contextlib
import contextvars
import dataclasses
import math
import os
import re
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from align_keras.images import read_image
from align_keras.models.on_replicas import is_distributed
from align_keras.models.raw_pairs import (
    batch_preparation,
    batches_of_dataset,
    image_text_batches,
    is_raw,
    plain_data,
    raw_pairs,
)
from align_keras.utils.errors import InputError

INPUTS = ("images", "token_ids", "padding_mask")
_REMEDY = (
    "give batches of images and captions by align_keras.data.image_text_batches, pairs "
    "(images, captions), or a dict or tf.data.Dataset of image and caption"
)


def quickly_copied(model: keras.Model, batches: tf.data.Dataset) -> tf.data.Dataset:
    """Spares the model's strategy what `training.distributed_batches` tells of."""
    if not is_distributed(model.distribute_strategy):
        return batches
    # Keras hands a strategy datasets, which it copies. TensorFlow's rewriting of a copy
    # takes a minute, and gains less than keeping each operation to one thread does.
    options = tf.data.Options()
    options.experimental_optimization.apply_default_optimizations = False
    options.threading.max_intra_op_parallelism = 1
    return batches.with_options(options)


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
) -> Any:
    """Returns what to give to Keras as `x`: raw pairs are made batches of inputs."""
    x, y = plain_data(x), plain_data(y)
    pairs = raw_pairs(x, y)
    if pairs is not None:
        images, captions = pairs
        batches = image_text_batches(
            images,
            captions,
            model,
            training=training,
            shuffle=shuffle,
            batch_size=32 if batch_size is None else batch_size,
            crop=augment,
            flip=augment,
            value_range=value_range,
        )
        return quickly_copied(model, batches.repeat() if repeat else batches)
    is_batches = hasattr(x, "__iter__") or isinstance(x, keras.utils.PyDataset)
    if y is not None or not is_batches or isinstance(x, str | bytes | os.PathLike):
        raise InputError(
            f"x and y must be images and their captions, received {_kind(x)} and "
            f"{_kind(y)}; {_REMEDY}."
        )
    check_not_empty(x)
    if is_raw_data(x):
        batches = batches_of_dataset(
            model, x, training=training, augment=augment, value_range=value_range
        )
        if x.cardinality() == tf.data.UNKNOWN_CARDINALITY:
            batches = _with_first_batch_check(batches, is_float=False)
        return quickly_copied(model, batches)
    if is_from_python(x):
        reader = PythonBatches(
            model, training=training, augment=augment, value_range=value_range
        )
        return reader.batches_of(x)
    if value_range is not None:
        raise InputError(_value_range_rule(value_range, x))
    if isinstance(x, tf.data.Dataset):
        check_data(model, x.element_spec)
        return checked_batches(x)
    if hasattr(x, "__getitem__"):
        check_inputs(model, x)
        check_gray_levels(x["images"])
        return {name: x[name] for name in INPUTS}
    return x


def steps_of_epoch(
    batches: Any, batch_size: int | None, steps_per_epoch: int | None
) -> int | None:
    """Returns the number of updates of an epoch of `fit`, or None if it is unknown."""
    if steps_per_epoch is not None:
        return steps_per_epoch
    if isinstance(batches, tf.data.Dataset):
        count = int(batches.cardinality())
        return count if count > 0 else None
    if isinstance(batches, keras.utils.PyDataset):
        return batches.num_batches
    if isinstance(batches, dict):
        return math.ceil(len(batches["images"]) / (batch_size or 32))
    return None


def pairs_of_step(x: Any, y: Any, batches: Any, batch_size: int | None) -> int | None:
    """Returns the number of pairs in a step of `fit`, or None if it is unknown.

    Args:
        x: as given to `fit`.
        y: as given to `fit`.
        batches: what `keras_input` made of them.
        batch_size: int or None, as given to `fit`.
    """
    pairs = raw_pairs(plain_data(x), plain_data(y))
    if pairs is not None or isinstance(batches, dict):
        images = batches["images"] if pairs is None else pairs[0]
        size = batch_size or 32
        return size if isinstance(images, tf.data.Dataset) else min(size, len(images))
    for dataset in (batches, x):
        if not isinstance(dataset, tf.data.Dataset):
            continue
        shape = tf.nest.flatten(dataset.element_spec)[0].shape
        if shape.rank and shape[0] is not None:
            return int(shape[0])
        size = int(tf.raw_ops.ComputeBatchSize(input_dataset=dataset._variant_tensor))
        if size > 0:
            return size
    return batch_size


def is_raw_data(x: Any, y: Any = None) -> bool:
    """Tells whether `x` and `y` are raw pairs, as sequences or as a dataset."""
    if isinstance(x, tf.data.Dataset):
        return is_raw(x.element_spec)
    return raw_pairs(x, y) is not None


def as_x_and_y(validation_data: Any) -> tuple:
    """Returns `x` and `y` of `validation_data`, a dataset, a dict or a tuple."""
    validation_data = plain_data(validation_data)
    if not isinstance(validation_data, tuple | list) or len(validation_data) > 3:
        return validation_data, None
    x, y, weight = (*validation_data, None, None)[:3]
    check_weights(sample_weight=weight)
    return x, y


def split_pairs(x: Any, y: Any, share: float) -> tuple:
    """Returns `x` and `y` of the first pairs, and the last `share` as a tuple."""
    x, y = plain_data(x), plain_data(y)
    pairs = raw_pairs(x, y)
    if pairs is None and isinstance(x, dict) and y is None:
        pairs = tuple(x.values())
    if pairs is None:
        raise InputError(
            f"validation_split must be 0 for {_kind(x)}; give validation_data, such as "
            "dataset.take(n) and, to train on, dataset.skip(n)."
        )
    count = len(pairs[0])
    first = int(count * (1 - share))
    if not 0 < first < count:
        raise InputError(
            f"validation_split must leave pairs on both sides of {count}, received "
            f"{share}; give validation_data, or another share."
        )
    parts = [[values[:first] for values in pairs], [values[first:] for values in pairs]]
    if raw_pairs(x, y) is not None:
        return *parts[0], tuple(parts[1])
    train, validation = (dict(zip(x, part, strict=True)) for part in parts)
    return train, None, validation


def check_weights(**weights: object) -> None:
    """Raises for weights of pairs or classes, for which the loss has no place."""
    for name, value in weights.items():
        if value is not None:
            raise InputError(
                f"{name} can't be given, received {_kind(value)}; the contrastive loss "
                "weighs all pairs of a batch alike: leave it out."
            )


def check_data(model: keras.Model, data: Any) -> None:
    """Raises unless a batch, as a step gets it, is inputs alone that fit the model."""
    inputs, *others = data if isinstance(data, tuple | list) else (data,)
    if any(other is not None for other in others):
        raise InputError(
            "a batch must be the inputs alone, received targets or weights beside "
            "them, which the contrastive loss has no use for; leave them out."
        )
    check_inputs(model, inputs)


def check_inputs(model: keras.Model, inputs: dict) -> None:
    """Raises unless inputs have the names, dtypes and shapes that the model takes."""
    if not isinstance(inputs, dict) or not set(INPUTS) <= set(inputs):
        raise InputError(
            f"inputs must be a dict of {', '.join(INPUTS)}, received {_kind(inputs)}; "
            f"{_REMEDY}."
        )
    for name in INPUTS:
        if not hasattr(inputs[name], "shape"):
            raise InputError(
                f"{name} must be an array or tensor, received {_kind(inputs[name])}; "
                "convert it by numpy.asarray."
            )
    shapes = {name: tf.TensorShape(inputs[name].shape) for name in INPUTS}
    dtypes = {name: tf.as_dtype(inputs[name].dtype) for name in INPUTS}
    tokens = tf.TensorShape((shapes["images"].rank and shapes["images"][0], None))
    limit = model.text_encoder.max_sequence_length
    length = shapes["token_ids"].rank == 2 and shapes["token_ids"][1]
    fits = {
        "images": shapes["images"].is_compatible_with((None, None, None, 3))
        and (dtypes["images"].is_integer or dtypes["images"].is_floating),
        "token_ids": shapes["token_ids"].is_compatible_with(tokens)
        and dtypes["token_ids"].is_integer
        and (length or 0) <= limit,
        "padding_mask": shapes["padding_mask"].is_compatible_with(tokens)
        and shapes["padding_mask"].is_compatible_with(shapes["token_ids"])
        and (dtypes["padding_mask"].is_integer or dtypes["padding_mask"].is_bool),
    }
    wanted = {
        "images": "gray levels (n, height, width, 3)",
        "token_ids": f"integers (n, length), of length at most {limit}",
        "padding_mask": "integers or bool, of the shape of token_ids",
    }
    for name in INPUTS:
        if not fits[name]:
            raise InputError(
                f"{name} must be {wanted[name]}, received {dtypes[name].name} "
                f"{shapes[name]} beside images {shapes['images']}; {_REMEDY}."
            )


def check_gray_levels(images: Any) -> None:
    """Raises for floats that are all of [0, 1]: nearly black as gray levels.

    Integers are gray levels whatever they are, as those of dark images.
    """
    if not tf.as_dtype(images.dtype).is_floating or 0 in images.shape:
        return
    least, largest = float(np.min(images)), float(np.max(images))
    if 0 < largest <= 1 and least >= -1:
        raise InputError(
            "images must be gray levels in [0, 255], received floats of at most "
            f"{largest:g}; multiply them by 255, or give uint8 for dark images."
        )


def check_not_empty(x: Any) -> None:
    """Raises for data that are known to be empty before they are read."""
    if isinstance(x, tf.data.Dataset):
        count = int(x.cardinality())
    elif isinstance(x, dict) and "images" in x:
        count = _length(x["images"])
    else:
        count = _length(x)
    if count == 0:
        raise _empty_error(x)


def _length(values):
    """Returns the number of rows or batches, or None where it is not known."""
    try:
        return len(values)
    except TypeError:  # An iterable data set's loader has a length, which raises.
        return None


def _empty_error(x):
    kind = "a tf.data.Dataset" if isinstance(x, tf.data.Dataset) else _kind(x)
    return InputError(
        f"The data must hold at least one batch. Received: {kind} without any. "
        "Check the files and filters that it is made of, and that a batch with "
        "drop_remainder is not larger than the data."
    )


# === Data sets of ready batches ===


@dataclasses.dataclass
class InputReport:
    """What was seen of the input while Keras read it.

    Attributes:
        errors: errors of input pipelines. TensorFlow keeps their text alone.
        unread: datasets of unknown length, none of whose batches was read so far.
    """

    errors: list[InputError] = dataclasses.field(default_factory=list)
    unread: list[tf.data.Dataset] = dataclasses.field(default_factory=list)

    def check_read(self) -> None:
        """Raises if one of the datasets holds no batch."""
        for dataset in self.unread:
            # None was read either way, as where no epoch is left to be trained.
            if next(iter(dataset), None) is None:
                raise _empty_error(dataset)


# That of the `readable_input` around; the pipelines' threads keep a reference.
_REPORT: contextvars.ContextVar[InputReport | None] = contextvars.ContextVar(
    "input_report", default=None
)


def checked_batches(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Returns the inputs of a dataset without other entries of its dicts.

    Of float images the first batch is checked by `check_gray_levels`. Of a dataset of
    unknown length it is noted that there is a batch. Any other dataset of `INPUTS`
    alone is returned as it is.
    """
    spec = dataset.element_spec
    inputs = spec[0] if isinstance(spec, tuple | list) else spec
    if set(inputs) != set(INPUTS):
        dataset = dataset.map(_inputs_alone)
    is_float = inputs["images"].dtype.is_floating
    if is_float or dataset.cardinality() == tf.data.UNKNOWN_CARDINALITY:
        return _with_first_batch_check(dataset, is_float)
    return dataset


def _inputs_alone(*batch):
    return {name: batch[0][name] for name in INPUTS}


def _with_first_batch_check(dataset, is_float):
    """Checks the first batch where it is read, since reading it twice may be slow."""
    report = _REPORT.get() or InputReport()
    if dataset.cardinality() == tf.data.UNKNOWN_CARDINALITY:
        report.unread.append(dataset)

    def check_in_python(images):
        # By identity: datasets have no truth value to be compared by.
        report.unread[:] = [other for other in report.unread if other is not dataset]
        try:
            if is_float:
                check_gray_levels(images)
        except InputError as error:
            report.errors.append(error)
            raise
        return np.int64(0)

    @tf.autograph.experimental.do_not_convert
    def check(number, batch):
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


# === Batches that Python gives ===


def is_from_python(x: Any) -> bool:
    """Returns True for a PyDataset, a generator, or a loader such as torch's."""
    if isinstance(x, keras.utils.PyDataset):
        return True
    if isinstance(x, tf.data.Dataset | tf.data.Iterator) or _is_distributed(x):
        return False
    return hasattr(x, "__iter__") and not hasattr(x, "__getitem__")


def _is_distributed(x):
    return isinstance(
        x, tf.distribute.DistributedDataset | tf.distribute.DistributedIterator
    )


class PythonBatches:
    """Makes a model's inputs of the batches that Python gives.

    A batch is ready, a dict of `INPUTS` among others, or raw: a pair of images and
    captions, or a dict of `image` and `caption`.
    """

    def __init__(
        self,
        model: keras.Model,
        *,
        training: bool,
        augment: bool,
        value_range: tuple[float, float] | None,
    ):
        self.model = model
        self.report = _REPORT.get() or InputReport()
        self.prepare = batch_preparation(
            model, training=training, augment=augment, value_range=value_range
        )
        self.value_range = value_range
        self.is_first = True

    def batches_of(self, x: Any) -> Any:
        """Returns what Keras takes in the place of `x`."""
        if isinstance(x, keras.utils.PyDataset):
            return _ReadyPyDataset(x, self)
        if hasattr(x, "__next__"):
            return self._generator(x)
        # Keras takes such a loader from torch alone.
        return self._dataset(x)

    def ready(self, batch: Any) -> Any:
        """Returns a batch as Keras takes it from Python, a tuple of its inputs alone.

        Batches that do not fit are left for `check_data`, which the step calls.
        """
        try:
            inputs = self._ready(batch)
            return inputs if isinstance(inputs, tuple) else (inputs,)
        except InputError as error:
            self.report.errors.append(error)
            raise

    def _ready(self, batch):
        batch = plain_data(batch)
        if isinstance(batch, tuple | list) and batch:
            first, *others = batch
            if len(batch) == 2 and not isinstance(first, dict):
                return self.prepare(*batch)
            if any(other is not None for other in others):
                return tuple(batch)
            batch = first
        if is_raw(batch):
            return self.prepare(batch["image"], batch["caption"])
        if not isinstance(batch, dict) or not set(INPUTS) <= set(batch):
            return batch
        if self.value_range is not None:
            raise InputError(_value_range_rule(self.value_range, batch))
        if self.is_first:
            check_inputs(self.model, batch)
            check_gray_levels(batch["images"])
        self.is_first = False
        return {name: batch[name] for name in INPUTS}

    def _generator(self, x):
        is_empty = True
        for batch in x:
            is_empty = False
            yield self.ready(batch)
        if is_empty:
            raise _empty_error(x)

    def _dataset(self, x):
        """Reads `x` anew in each epoch, after a first batch that gives the dtypes."""
        first = next(iter(x), None)
        if first is None:
            raise _empty_error(x)
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
        count = _length(x)
        if count is not None:
            dataset = dataset.apply(tf.data.experimental.assert_cardinality(count))
        return dataset.prefetch(2)


class _ReadyPyDataset(keras.utils.PyDataset):
    """A `PyDataset` whose batches are made the model's inputs."""

    def __init__(self, dataset: keras.utils.PyDataset, reader: PythonBatches):
        super().__init__(workers=dataset.workers, max_queue_size=dataset.max_queue_size)
        if dataset.use_multiprocessing:
            raise InputError(
                "A PyDataset must not use processes here. Received: "
                "use_multiprocessing=True. Set it to False. `workers` are threads then."
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


def _value_range_rule(value_range, x):
    return (
        f"value_range is of raw images, received {value_range} and {_kind(x)}, "
        "which is ready for the model; give gray levels in [0, 255], and leave it out."
    )


def _kind(value):
    if isinstance(value, dict):
        return f"a dict of {', '.join(map(str, value)) or 'nothing'}"
    shape = getattr(value, "shape", None)
    return type(value).__name__ if shape is None else f"{type(value).__name__} {shape}"


@contextlib.contextmanager
def readable_input(
    model: keras.Model,
    x: Any,
    y: Any = None,
    value_range: tuple[float, float] | None = None,
    **options: Any,
) -> Iterator[Any]:
    """Gives `keras_input`; says in one line which of its images can't be read."""
    report = InputReport()
    token = _REPORT.set(report)
    try:
        batches = keras_input(model, x, y, value_range=value_range, **options)
        yield batches
        report.check_read()
    except UnboundLocalError:
        # `keras.Model.predict` fails so where no batch was read.
        report.check_read()
        raise
    except tf.errors.OpError as error:
        if report.errors:
            raise report.errors[0] from error
        if "IteratorGetNext" not in str(error):
            raise
        found = re.search(r"transformation with iterator: \S+ (.*)", error.message)
        reason = found[1] if found else error.message.split("\n")[0]
        images = (raw_pairs(plain_data(x), plain_data(y)) or [()])[0]
        is_dataset = isinstance(images, tf.data.Dataset)
        for row, image in enumerate(() if is_dataset else images):
            read_image(image, row, model.image_size, value_range)
        raise InputError(
            f"a batch of the input can't be read ({reason[:300]}); mend or leave out "
            "that pair."
        ) from error
    finally:
        _REPORT.reset(token)
