"""Files of a split, and the number of captions of each image."""

import contextlib
import dataclasses
import pathlib
import zipfile
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core import FileFormat

from align_keras.datasets.array_records import array_records, is_array_record
from align_keras.datasets.mixture import Mixture
from align_keras.datasets.selected_pairs import SelectedPairs
from align_keras.datasets.source_pairs import SourcePairs
from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_write
from align_keras.utils.progress import say

_READ_BUFFER_BYTES = 1 << 20
# Builders that read their records by the method `records`.
_RECORD_SOURCES = (SourcePairs, SelectedPairs)
# File in the folder of the data that caches the counts of captions.
_FILE = "caption_counts.npz"
# Number of records whose captions are counted in one batch.
_READ_AT_ONCE = 256
# Maximum number of captions of an image in a pass. More captions would be in the
# shuffle buffer at the same time. An image with more captions is held in memory, and
# its captions are spread over the epoch.
MOST_PER_PASS = 4
# Maximum number of images that are held in memory.
MAX_HELD_IMAGES = 1000
# Bytes. Maximum size of the records that are held in memory.
MAX_HELD_BYTES = 256 * 2**20


@dataclasses.dataclass(frozen=True)
class _HeldImages:
    """Images with many captions, whose records are held in memory.

    Attributes:
        records: string tensor (images,), the serialized examples.
        counts: int64 (images,), number of captions of each image.
        most_captions: number of captions above which an image is held in memory.
    """

    records: tf.Tensor
    counts: np.ndarray
    most_captions: int


def _no_held_images() -> _HeldImages:
    return _HeldImages(
        records=tf.zeros((0,), tf.string),
        counts=np.zeros(0, "int64"),
        most_captions=int(np.iinfo("int64").max),
    )


class Shards:
    """Files of a split, or of one input pipeline's part of it.

    An epoch reads the files in one or more passes. Without `pair_weighted`, there is
    one pass with an entry for each record. With `pair_weighted`, an entry is a record
    with one of its captions, and the number of passes is the mean number of captions
    per image, rounded up. The captions of an image are divided among the passes, so
    that they are far apart.

    An image with more than `MOST_PER_PASS` captions in a pass isn't part of the passes.
    Its record is held in memory instead.

    Args:
        builder: TFDS builder or source.
        split: name of the split.
        input_pipeline_id: number of the input pipeline.
        num_input_pipelines: number of input pipelines that share the records.
        pair_weighted: see above.

    Attributes:
        paths: list of str, paths of the files.
        skips: int64 (files,), number of records to skip at the start of each file.
        takes: int64 (files,), number of records to read from each file.
        sizes: int64 (passes, files), number of entries of each file in each pass.
        held: string tensor (images,), records that are held in memory.
        held_counts: int64 (images,), number of captions of these records.

    Raises:
        InputError: if the corpus is stored neither as TFRecord nor as ArrayRecord.
    """

    def __init__(
        self,
        builder: Any,
        split: str,
        input_pipeline_id: int = 0,
        num_input_pipelines: int = 1,
        pair_weighted: bool = False,
    ) -> None:
        file_format = builder.info.file_format
        if file_format not in (None, FileFormat.TFRECORD, FileFormat.ARRAY_RECORD):
            raise InputError(
                f"{builder.name} must be stored as tfrecord or array_record. Received: "
                f"{file_format.value}. Build the corpus again, or set cache=true."
            )
        instructions = builder.info.splits[split].file_instructions
        total = sum(instruction.take for instruction in instructions)
        first = total * input_pipeline_id // num_input_pipelines
        last = total * (input_pipeline_id + 1) // num_input_pipelines
        self.paths: list[str] = []
        skips = []
        takes = []
        begin = 0
        for instruction in instructions:
            end = begin + instruction.take
            if begin < last and end > first:
                self.paths.append(str(instruction.filename))
                skips.append(instruction.skip + max(first - begin, 0))
                takes.append(min(end, last) - max(begin, first))
            begin = end
        self.skips = np.array(skips, "int64")
        self.takes = np.array(takes, "int64")
        self.pair_weighted = pair_weighted
        self._builder = builder
        if pair_weighted:
            counts = self._caption_counts(split)
            held = self._hold(counts)
            most_captions = held.most_captions
            counts = [np.where(part > most_captions, 0, part) for part in counts]
            self.sizes = _pass_sizes(counts, int(self.takes.sum()))
        else:
            held = _no_held_images()
            self.sizes = self.takes[None]
        self.held = held.records
        self.held_counts = held.counts
        self._most_captions = held.most_captions

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def num_entries(self) -> int:
        """Number of entries in an epoch."""
        return int(self.sizes.sum() + self.held_counts.sum())

    def interleaved(
        self, numbers: tf.Tensor, number_of_pass: int | tf.Tensor = 0
    ) -> tf.data.Dataset:
        """Returns the records of several files, interleaved one by one.

        Args:
            numbers: int (files,), numbers of the files to read.
            number_of_pass: number of the pass in the epoch.

        Returns:
            `tf.data.Dataset` of serialized examples, or of (serialized example, number
            of the caption) if `pair_weighted`.
        """

        def read(path: tf.Tensor, skip: tf.Tensor, take: tf.Tensor) -> tf.data.Dataset:
            records = _records(self._builder, path, skip, take)
            return records.enumerate() if self.pair_weighted else records

        def entries(position: tf.Tensor, record: tf.Tensor) -> tf.data.Dataset:
            count = tf.cast(count_captions(self._builder, record), tf.int64)
            count = tf.where(count > self._most_captions, tf.zeros_like(count), count)
            first = (number_of_pass - position) % len(self.sizes)
            captions = tf.range(first, tf.maximum(first, count), len(self.sizes))
            return tf.data.Dataset.from_tensor_slices(captions).map(
                lambda caption: (record, caption)
            )

        files = (self.paths, self.skips, self.takes)
        records = tf.data.Dataset.from_tensor_slices(
            tuple(tf.gather(tf.constant(values), numbers) for values in files)
        ).interleave(
            read,
            cycle_length=len(self),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        return records.flat_map(entries) if self.pair_weighted else records

    def _caption_counts(self, split: str) -> list[np.ndarray]:
        """Returns the number of captions of each record to read, for each file."""
        counts = caption_counts(self._builder, split)
        return [
            counts[path][skip : skip + take].astype("int64")
            for path, skip, take in zip(self.paths, self.skips, self.takes, strict=True)
        ]

    def _hold(self, counts: list[np.ndarray]) -> _HeldImages:
        """Reads the records of the images with many captions into memory."""
        limit = _held_limit(np.concatenate([np.zeros(0, "int64"), *counts]))
        rows = [np.flatnonzero(part > limit) for part in counts]
        num_images = sum(len(file_rows) for file_rows in rows)
        if not num_images:
            return _no_held_images()
        say(
            f"reading the {num_images:,} images of {self._builder.name} with more than "
            f"{limit:,} captions"
        )
        sizes = np.concatenate(
            [
                [len(record) for record in self._records_at(file, file_rows)]
                for file, file_rows in enumerate(rows)
            ]
        )
        held_counts = np.concatenate(
            [part[file_rows] for part, file_rows in zip(counts, rows, strict=True)]
        )
        # The images with the most captions are held first, up to `MAX_HELD_BYTES`.
        order = np.argsort(-held_counts, kind="stable")
        exceeds_memory = np.cumsum(sizes[order]) > MAX_HELD_BYTES
        if exceeds_memory.any():
            limit = max(limit, int(held_counts[order][exceeds_memory][0]))
        rows = [np.flatnonzero(part > limit) for part in counts]
        records = [
            record
            for file, file_rows in enumerate(rows)
            for record in self._records_at(file, file_rows)
        ]
        return _HeldImages(
            records=tf.constant(records, tf.string, shape=(len(records),)),
            counts=np.concatenate(
                [part[file_rows] for part, file_rows in zip(counts, rows, strict=True)]
            ),
            most_captions=limit,
        )

    def _records_at(self, file: int, rows: np.ndarray) -> Iterator[bytes]:
        """Yields the records of a file at the given rows, in order."""
        if not len(rows):
            return
        selected = set(rows.tolist())
        skip = int(self.skips[file])
        take = int(rows[-1]) + 1
        records = _records(self._builder, self.paths[file], skip, take)
        for row, record in enumerate(records.as_numpy_iterator()):
            if row in selected:
                yield record


def _pass_sizes(counts: list[np.ndarray], num_images: int) -> np.ndarray:
    """Returns the number of entries of each file in each pass, int64 (passes, files).

    Args:
        counts: list of int64 (images,), for each file the number of captions of its
            images. It is 0 for images that are held in memory.
        num_images: number of all images, including those in memory.
    """
    total = int(sum(part.sum() for part in counts))
    passes = max(1, -(-total // max(1, num_images)))
    sizes = np.zeros((passes, len(counts)), "int64")
    for number_of_pass in range(passes):
        for file, part in enumerate(counts):
            # `entries` in `Shards.interleaved` uses the captions first, first + passes,
            # first + 2 * passes and so on.
            first = (number_of_pass - np.arange(len(part))) % passes
            num_captions = np.maximum(0, -((first - part) // passes))
            sizes[number_of_pass, file] = num_captions.sum()
    return sizes


def _held_limit(counts: np.ndarray) -> int:
    """Returns the number of captions above which an image is held in memory."""
    limit = int(counts.max(initial=0))
    while True:
        # Holding images in memory lowers the mean number of captions and so the number
        # of passes, which lowers the limit again.
        not_held = counts[counts <= limit]
        passes = max(1, -(-int(not_held.sum()) // max(1, len(counts))))
        lower = MOST_PER_PASS * passes
        if lower >= limit:
            break
        limit = lower
    if np.count_nonzero(counts > limit) > MAX_HELD_IMAGES:
        limit = int(np.partition(counts, -MAX_HELD_IMAGES - 1)[-MAX_HELD_IMAGES - 1])
    return limit


def enough_shards(builder: Any, split: str, num_input_pipelines: int) -> bool:
    """Returns True if each input pipeline can read a separate part of the files.

    Each corpus must have an index, or at least one file per input pipeline.
    """
    return all(
        isinstance(member, SourcePairs)
        or member.info.splits[split].num_shards >= num_input_pipelines
        for member in _members(builder)
    )


def check_data_service(builder: Any, data_service: str | None) -> None:
    """Raises InputError if a tf.data service can't read one of the corpora."""
    for member in _members(builder):
        if is_array_record(member) or isinstance(member, _RECORD_SOURCES):
            raise InputError(
                "data_service must be None for a source, for a corpus stored as "
                "array_record, and with `where`, because Python reads them in the "
                f"training process. Received: data_service={data_service!r}. Leave it "
                "out, or use a corpus stored as tfrecord without `where`."
            )


def _members(builder: Any) -> Iterable[Any]:
    """Returns the corpora of a mixture, or the corpus itself."""
    return builder.members.values() if isinstance(builder, Mixture) else [builder]


def caption_counts(builder: Any, split: str) -> dict[str, np.ndarray]:
    """Returns the number of captions of each image in a split.

    The counts are cached in the folder of the data if it is writable.

    Returns:
        dict from the path of a file to uint32 (images,).
    """
    if isinstance(builder, _RECORD_SOURCES):
        return builder.caption_counts(split)
    store = pathlib.Path(builder.data_path) / _FILE
    counts = _read_counts(store)
    parts = builder.info.splits[split].file_instructions
    missing = [
        part
        for part in parts
        if len(counts.get(part.basename(), ())) != part.examples_in_shard
    ]
    if missing:
        say(f"counting the captions of {len(missing):,} files of {builder.name}")
        for part in missing:
            counts[part.basename()] = _count(builder, part)
        # In a read-only folder, the captions are counted again the next time.
        with contextlib.suppress(OSError), atomic_write(store, "wb") as file:
            np.savez(file, **counts)  # type: ignore[arg-type]
    return {str(part.filename): counts[part.basename()] for part in parts}


def count_captions(builder: Any, serialized: tf.Tensor) -> tf.Tensor:
    """Returns the number of captions of a serialized example."""
    captions = {"captions": builder.info.features["captions"]}
    features = tfds.features.FeaturesDict(captions)
    return tf.size(features.deserialize_example(serialized)["captions"])


def _records(
    builder: Any,
    path: str | tf.Tensor,
    skip: int | tf.Tensor,
    take: int | tf.Tensor,
) -> tf.data.Dataset:
    """Returns `take` serialized examples of a file, after the first `skip` ones."""
    if isinstance(builder, _RECORD_SOURCES):
        return builder.records(path, skip, take)
    if is_array_record(builder):
        return array_records(path, skip, take)
    file = tf.data.TFRecordDataset(path, buffer_size=_READ_BUFFER_BYTES)
    return file.skip(skip).take(take)


def _count(builder: Any, part: Any) -> np.ndarray:
    """Returns the number of captions of each image in a file, uint32 (images,)."""
    records = _records(builder, str(part.filename), 0, part.examples_in_shard)
    counts = records.map(
        lambda record: count_captions(builder, record), tf.data.AUTOTUNE
    ).batch(_READ_AT_ONCE)
    parts = [batch.astype(np.uint32) for batch in counts.as_numpy_iterator()]
    return np.concatenate([np.zeros(0, np.uint32), *parts])


def _read_counts(store: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the cached counts, or {} if the file is missing or damaged."""
    try:
        with open(store, "rb") as file, np.load(file) as counts:
            return dict(counts)
    except (OSError, ValueError, zipfile.BadZipFile):
        return {}
