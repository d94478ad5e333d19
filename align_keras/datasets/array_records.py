"""Reader of corpora in the ArrayRecord format for `tf.data`.

TFDS can open this format only as a data source with random access.
"""

import functools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # Importing this module must not load TensorFlow.
    import numpy as np
    import tensorflow as tf
    import tensorflow_datasets as tfds

# Number of records that one call into Python reads.
_RECORDS_PER_BATCH = 64


def is_array_record(builder: "tfds.core.DatasetBuilder") -> bool:
    """Returns True if the files of a prepared TFDS builder are ArrayRecord files."""
    file_format = builder.info.file_format
    return file_format is not None and file_format.value == "array_record"


def array_records(
    path: "str | tf.Tensor", skip: "int | tf.Tensor", take: "int | tf.Tensor"
) -> "tf.data.Dataset":
    """Reads records of a file in this process.

    Args:
        path: str or scalar str tensor, file to read.
        skip: int or scalar int64 tensor, number of records to skip.
        take: int or scalar int64 tensor, number of records to read.

    Returns:
        `tf.data.Dataset` of serialized examples, scalar str tensors.
    """
    # This import is not at the top, because opening a corpus must not load TensorFlow.
    import tensorflow as tf

    return numbered_array_records(path, tf.data.Dataset.range(skip, skip + take))


def numbered_array_records(
    path: "str | tf.Tensor", numbers: "tf.data.Dataset"
) -> "tf.data.Dataset":
    """Reads the records of a file with the given numbers in this process.

    Args:
        path: str or scalar str tensor, file to read.
        numbers: `tf.data.Dataset` of int64, numbers of the records.

    Returns:
        `tf.data.Dataset` of serialized examples, scalar str tensors.
    """
    import tensorflow as tf

    def read(numbers: "tf.Tensor") -> "tf.Tensor":
        records = tf.numpy_function(
            _read, (path, numbers), tf.string, stateful=False, name="array_record"
        )
        return tf.ensure_shape(records, (None,))

    return numbers.batch(_RECORDS_PER_BATCH).map(read).unbatch()


def stored_examples(
    builder: "tfds.core.DatasetBuilder", split: str, decoders: Any = None
) -> "tf.data.Dataset":
    """Reads a split in the stored order.

    Args:
        builder: prepared TFDS builder.
        split: for example `"train[:10%]"`.
        decoders: decoders of TFDS.

    Returns:
        `tf.data.Dataset` of examples, as `builder.as_dataset` returns it.
    """
    import tensorflow_datasets as tfds

    if not is_array_record(builder):
        # Reads one file after another and doesn't cache the examples in memory.
        order = tfds.ReadConfig(try_autocache=False, interleave_cycle_length=1)
        return builder.as_dataset(
            split=split, shuffle_files=False, decoders=decoders, read_config=order
        )
    instructions = builder.info.splits[split].file_instructions
    files = [
        array_records(str(part.filename), part.skip, part.take) for part in instructions
    ]
    records = functools.reduce(lambda first, second: first.concatenate(second), files)
    return decoded_examples(records, builder.info.features, decoders)


def split_records(builder: Any, split: str) -> "tf.data.Dataset":
    """Reads the records of a split in the stored order by `builder.records`.

    Args:
        builder: `SourcePairs` or `SelectedPairs`.
        split: for example `"train[:10%]"`.

    Returns:
        `tf.data.Dataset` of serialized examples, scalar str tensors.
    """
    import tensorflow as tf

    parts = builder.info.splits[split].file_instructions
    files = tf.data.Dataset.from_tensor_slices(
        (
            [part.filename for part in parts],
            tf.constant([part.skip for part in parts], tf.int64),
            tf.constant([part.take for part in parts], tf.int64),
        )
    )
    return files.flat_map(builder.records)


def decoded_examples(
    records: "tf.data.Dataset", features: Any, decoders: Any = None
) -> "tf.data.Dataset":
    """Decodes serialized examples.

    Args:
        records: `tf.data.Dataset` of serialized examples, scalar str tensors.
        features: `tfds.features.FeaturesDict`.
        decoders: decoders of TFDS, which may be a `tfds.decode.PartialDecoding`.

    Returns:
        `tf.data.Dataset` of examples.
    """
    import tensorflow_datasets as tfds

    if isinstance(decoders, tfds.decode.PartialDecoding):
        features = decoders.extract_features(features)
        decoders = decoders.decoders
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
