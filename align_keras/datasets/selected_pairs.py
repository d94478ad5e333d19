"""Pairs of a corpus that a condition on their scores keeps."""

import hashlib
import os
import types
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from align_keras.corpus.scores.score_table import (
    ScoreTable,
    Selection,
    ShardSelection,
    scores_path,
)
from align_keras.datasets.array_records import (
    decoded_examples,
    is_array_record,
    numbered_array_records,
    split_records,
)
from align_keras.utils.errors import InputError

if TYPE_CHECKING:  # Importing this module must not load TensorFlow.
    import tensorflow as tf

# Number of records that one call into Python processes.
_RECORDS_PER_BATCH = 64
_READ_BUFFER_BYTES = 1 << 20


class SelectedPairs:
    """Pairs of a corpus that a condition on their scores keeps.

    The class has the parts of the interface of a TFDS builder that this package uses.
    The shards are not changed: while they are read, captions that the condition drops
    are removed, and images without any other caption are skipped.

    Args:
        builder: prepared TFDS builder of the shards of a corpus. `align-keras corpus
            score` must have written their scores.
        where: condition on the columns of the scores.

    Attributes:
        name: name of the corpus and the condition, for messages.
        builder: prepared TFDS builder of all pairs.
        selection: `align_keras.corpus.scores.Selection`.
        info: object with `splits`, `features`, `file_format` and `metadata`.

    Raises:
        InputError: if the scores are missing or belong to other shards, or if the
            condition is invalid or keeps no pair.

    Example:

    ```python
    builder = tfds.builder_from_directory("corpus/web_pairs/1.0.0")
    pairs = SelectedPairs(builder, "similarity > -1")
    pairs.info.splits["train"].num_examples == pairs.selection.kept_images  # True
    ```
    """

    def __init__(self, builder: Any, where: str) -> None:
        folder = str(builder.data_path)
        table = ScoreTable(scores_path(folder))
        table.check_shards(folder)
        self.selection: Selection = table.select(where)
        self.builder = builder
        self.name = f"{builder.name} where {where}"
        self.info = types.SimpleNamespace(
            splits=_SelectedSplits(self.name, builder.info.splits, self.selection),
            features=builder.info.features,
            # Records are read by the methods of this class.
            file_format=None,
            metadata={
                **(builder.info.metadata or {}),
                "summary": [_summary(self.selection)],
            },
        )
        self._caption_lists = [
            name
            for name, feature in builder.info.features.items()
            if isinstance(feature, tfds.features.Sequence)
        ]

    def records(
        self, path: "tf.Tensor", skip: "tf.Tensor", take: "tf.Tensor"
    ) -> "tf.data.Dataset":
        """Reads selected records of a file in this process.

        Args:
            path: scalar str tensor, one of the files.
            skip: scalar int64 tensor, number of selected records to skip.
            take: scalar int64 tensor, number of selected records to read.

        Returns:
            `tf.data.Dataset` of serialized examples with the selected captions.
        """
        # This import is not at the top, because opening a corpus must not load
        # TensorFlow.
        import tensorflow as tf

        images = tf.numpy_function(
            self._images_of, (path, skip, take), tf.int64, stateful=False
        )
        images = tf.ensure_shape(images, (None,))
        if is_array_record(self.builder):
            numbers = tf.data.Dataset.from_tensor_slices(images)
            records = numbered_array_records(path, numbers)
        else:
            records = _records_at(path, images)
        numbers = tf.data.Dataset.range(skip, skip + take)

        def select(numbers: "tf.Tensor", records: "tf.Tensor") -> "tf.Tensor":
            arguments = (path, numbers, records)
            selected = tf.numpy_function(
                self._select_captions, arguments, tf.string, stateful=False
            )
            return tf.ensure_shape(selected, (None,))

        numbered = tf.data.Dataset.zip((numbers, records))
        return numbered.batch(_RECORDS_PER_BATCH).map(select).unbatch()

    def as_dataset(
        self, *, split: str, decoders: Any = None, **reading: Any
    ) -> "tf.data.Dataset":
        """Reads a split in the stored order.

        Args:
            split: for example `"train[:10%]"`.
            decoders: decoders of TFDS.
            **reading: other options of a TFDS builder, which have no effect.
        """
        return decoded_examples(
            split_records(self, split), self.info.features, decoders
        )

    def caption_counts(self, split: str) -> dict[str, np.ndarray]:
        """Returns the number of selected captions of each record, by file."""
        return {
            part.filename: self._shard(part.filename).counts
            for part in self.info.splits[split].file_instructions
        }

    def fingerprint(self) -> str:
        """Returns a fingerprint of the selected images and captions."""
        digest = hashlib.blake2b(digest_size=16)
        for name, shard in sorted(self.selection.shards.items()):
            digest.update(f"{name} {len(shard.images)}\n".encode())
            for array in (shard.images, shard.counts, shard.captions):
                digest.update(array.astype("<i8").tobytes())
        return digest.hexdigest()

    def _shard(self, path: str) -> ShardSelection:
        return self.selection.shards[os.path.basename(path)]

    def _images_of(self, path: bytes, skip: int, take: int) -> np.ndarray:
        """Returns the positions of selected records in a file, int64 (take,)."""
        return self._shard(os.fsdecode(path)).images[skip : skip + take]

    def _select_captions(
        self, path: bytes, numbers: np.ndarray, records: np.ndarray
    ) -> np.ndarray:
        """Removes captions that are not selected from serialized examples of a file."""
        shard = self._shard(os.fsdecode(path))
        selected = []
        for number, record in zip(numbers.tolist(), records.tolist(), strict=True):
            if shard.counts[number] < shard.all_counts[number]:
                record = self._with_captions(record, shard.captions_of(number))
            selected.append(record)
        return np.array(selected, object)

    def _with_captions(self, record: bytes, captions: np.ndarray) -> bytes:
        """Returns a serialized example with some of its captions and their origins."""
        example = tf_example_pb2.Example.FromString(record)
        for name in self._caption_lists:
            values = example.features.feature[name].bytes_list.value
            kept_values = [values[caption] for caption in captions]
            del values[:]
            values.extend(kept_values)
        return example.SerializeToString(deterministic=True)


class _SelectedSplits(Mapping):
    """Splits of the selected pairs.

    An item is an object with `num_examples`, `num_shards` and `file_instructions`, as
    in TFDS. The instructions count selected records. The key may be a specification
    such as `"train[:10%]"`.

    Args:
        name: name of the selected pairs for messages.
        splits: splits of all pairs.
    """

    def __init__(self, name: str, splits: Any, selection: Selection) -> None:
        self._name = name
        self._splits = splits
        self._selection = selection

    def __getitem__(self, split: str) -> types.SimpleNamespace:
        parts = []
        for instruction in self._splits[split].file_instructions:
            shard = self._selection.shards.get(os.path.basename(instruction.filename))
            if shard is None:  # A shard without images has no scores.
                continue
            bounds = [instruction.skip, instruction.skip + instruction.take]
            first, last = np.searchsorted(shard.images, bounds).tolist()
            if first < last:
                part = {"skip": first, "take": last - first}
                filename = str(instruction.filename)
                parts.append(types.SimpleNamespace(filename=filename, **part))
        if not parts:
            raise InputError(
                f"`where` must keep at least one pair of the split {split}. Received: "
                f"{self._name}, which keeps none. Try other conditions with "
                "`align-keras corpus select`."
            )
        return types.SimpleNamespace(
            num_examples=sum(part.take for part in parts),
            num_shards=len(parts),
            file_instructions=parts,
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._splits)

    def __len__(self) -> int:
        return len(self._splits)


def _records_at(path: "tf.Tensor", images: "tf.Tensor") -> "tf.data.Dataset":
    """Reads the serialized examples at ascending positions of a TFRecord file."""
    import tensorflow as tf

    # Records before the first one and after the last one are not parsed.
    first = images[0]
    count = images[-1] - first + 1
    is_selected = tf.scatter_nd(
        (images - first)[:, None], tf.ones_like(images, tf.bool), count[None]
    )
    file = tf.data.TFRecordDataset(path, buffer_size=_READ_BUFFER_BYTES)
    records = tf.data.Dataset.zip(
        (
            file.skip(first).take(count),
            tf.data.Dataset.from_tensor_slices(is_selected),
        )
    )
    return records.filter(lambda record, selected: selected).map(
        lambda record, selected: record
    )


def _summary(selection: Selection) -> str:
    return (
        f"where {selection.where} keeps {selection.kept_captions:,} of "
        f"{selection.num_captions:,} captions, and {selection.kept_images:,} of "
        f"{selection.num_images:,} images"
    )
