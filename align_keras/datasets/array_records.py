"""Corpora stored as ArrayRecord, which TFDS itself opens as a data source only."""

import functools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # TensorFlow must not load if a corpus is only named.
    import numpy as np
    import tensorflow as tf
    import tensorflow_datasets as tfds

# Read at a time, which takes one call into Python.
_RECORDS_AT_ONCE = 64


def is_array_record(builder: "tfds.core.DatasetBuilder") -> bool:
    """Tells whether a prepared TFDS builder's files are ArrayRecord."""
    file_format = builder.info.file_format
    return file_format is not None and file_format.value == "array_record"


def array_records(
    path: "str | tf.Tensor", skip: "int | tf.Tensor", take: "int | tf.Tensor"
) -> "tf.data.Dataset":
    """Reads `take` records behind `skip`, scalar strings, in this process alone."""
    import tensorflow as tf  # Here, for naming a corpus must not load it.

    def read(numbers: "tf.Tensor") -> "tf.Tensor":
        records = tf.numpy_function(
            _read, (path, numbers), tf.string, stateful=False, name="array_record"
        )
        return tf.ensure_shape(records, (None,))

    numbers = tf.data.Dataset.range(skip, skip + take).batch(_RECORDS_AT_ONCE)
    return numbers.map(read).unbatch()


def stored_examples(
    builder: "tfds.core.DatasetBuilder", split: str, decoders: Any = None
) -> "tf.data.Dataset":
    """Reads a split in the stored order, as `builder.as_dataset`."""
    import tensorflow_datasets as tfds

    if not is_array_record(builder):
        # One file after another, and nothing in memory.
        order = tfds.ReadConfig(try_autocache=False, interleave_cycle_length=1)
        return builder.as_dataset(
            split=split, shuffle_files=False, decoders=decoders, read_config=order
        )
    instructions = builder.info.splits[split].file_instructions
    files = [
        array_records(str(part.filename), part.skip, part.take) for part in instructions
    ]
    records = functools.reduce(lambda first, second: first.concatenate(second), files)
    features = builder.info.features
    return records.map(
        lambda record: features.deserialize_example(record, decoders=decoders)
    )


def _read(path: bytes, numbers: "np.ndarray") -> "np.ndarray":
    import numpy as np

    return np.array(_reader(path).read(numbers.tolist()), object)


@functools.lru_cache(maxsize=64)
def _reader(path: bytes) -> Any:
    from array_record.python import array_record_module

    return array_record_module.ArrayRecordReader(path.decode())
