"""The files of a corpus's split."""

import numpy as np
import tensorflow as tf
from tensorflow_datasets.core import FileFormat

from align_keras.datasets.array_records import array_records, is_array_record
from align_keras.datasets.mixture import Mixture
from align_keras.utils.errors import InputError

_READ_BUFFER_BYTES = 1 << 20


class Shards:
    """The files of a split, or of a part of it, and what to read of each.

    Args:
        builder: prepared TFDS builder.
        split: str, such as `"train"` or `"train[:10%]"`.
        input_pipeline_id: int, which part of the stored order.
        num_input_pipelines: int ≥ 1, parts of equal size; a file at the border
            of two is read by both, each its own records.

    Raises:
        InputError: if the corpus is stored neither as TFRecord nor as ArrayRecord.
    """

    def __init__(self, builder, split, input_pipeline_id=0, num_input_pipelines=1):
        stored_as = builder.info.file_format
        self._array_record = is_array_record(builder)
        if not self._array_record and stored_as not in (None, FileFormat.TFRECORD):
            raise InputError(
                f"{builder.name} must be stored as tfrecord or array_record, received "
                f"{stored_as.value}; build it anew, or set cache."
            )
        instructions = builder.info.splits[split].file_instructions
        total = sum(instruction.take for instruction in instructions)
        first, last = (
            total * number // num_input_pipelines
            for number in (input_pipeline_id, input_pipeline_id + 1)
        )
        self.paths, skips, takes, begin = [], [], [], 0
        for instruction in instructions:
            end = begin + instruction.take
            if begin < last and end > first:
                self.paths.append(str(instruction.filename))
                skips.append(instruction.skip + max(first - begin, 0))
                takes.append(min(end, last) - max(begin, first))
            begin = end
        self.skips, self.takes = np.array(skips, "int64"), np.array(takes, "int64")

    def __len__(self):
        return len(self.paths)

    @property
    def num_examples(self):
        """int, the records of all files."""
        return int(self.takes.sum())

    def interleaved(self, numbers):
        """Reads some of the files at the same time.

        Args:
            numbers: integer tensor (n,), which files.

        Returns:
            `tf.data.Dataset` of scalar strings, the first record of each file,
            then the second ones, and so on.
        """

        def read(path, skip, take):
            if self._array_record:
                return array_records(path, skip, take)
            file = tf.data.TFRecordDataset(path, buffer_size=_READ_BUFFER_BYTES)
            return file.skip(skip).take(take)

        files = (self.paths, self.skips, self.takes)
        return tf.data.Dataset.from_tensor_slices(
            tuple(tf.gather(tf.constant(values), numbers) for values in files)
        ).interleave(
            read,
            cycle_length=len(self),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )


def enough_shards(builder, split, num_input_pipelines):
    """Whether there are as many files as input pipelines, in every corpus."""
    return all(
        member.info.splits[split].num_shards >= num_input_pipelines
        for member in _members(builder)
    )


def check_data_service(builder, data_service):
    """Raises if a tf.data service is to read what only this process can."""
    if any(is_array_record(member) for member in _members(builder)):
        raise InputError(
            "data_service must be None for a corpus stored as array_record, which is "
            f"read by Python in the training process, received {data_service!r}; leave "
            "it out, or store the corpus as tfrecord."
        )


def _members(builder):
    return builder.members.values() if isinstance(builder, Mixture) else [builder]
