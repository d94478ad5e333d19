"""The files of a corpus's split, and how many captions their images have."""

import contextlib
import pathlib
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core import FileFormat

from align_keras.datasets.array_records import array_records, is_array_record
from align_keras.datasets.mixture import Mixture
from align_keras.datasets.source_pairs import SourcePairs
from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_write
from align_keras.utils.progress import say

_READ_BUFFER_BYTES = 1 << 20
# Beside the data, so that they are counted once.
_FILE = "caption_counts.npz"
_READ_AT_ONCE = 256
# An image with more captions than this in a pass would put them all into the shuffle
# buffer at once. It is held in memory instead, and its captions are spread over the
# epoch.
MOST_PER_PASS = 4
# Limits of the images that are held: how many, and the bytes of their records.
_MOST_HELD_IMAGES = 1000
_MOST_HELD_BYTES = 256 * 2**20


class Shards:
    """The files of a split, or of a part of it, and what to read of each.

    `skips` and `takes` (files,) are the records to leave out at a file's beginning, and
    to read. `sizes` (passes, files) are the entries of each file in each pass of an
    epoch: one pass with an entry a record, or, if `pair_weighted`, as many as images
    have captions in the mean, rounded up. Each takes other captions of an image, so
    that these lie apart.

    Images with more than `MOST_PER_PASS` captions in a pass are in no pass. Their
    records are held in memory: `held` (images,) is a string tensor of them, and
    `held_counts` (images,) has the number of their captions.
    """

    def __init__(
        self,
        builder,
        split,
        input_pipeline_id=0,
        num_input_pipelines=1,
        pair_weighted=False,
    ):
        stored_as = builder.info.file_format
        if stored_as not in (None, FileFormat.TFRECORD, FileFormat.ARRAY_RECORD):
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
        self._builder, self._pair_weighted = builder, pair_weighted
        self.held = tf.zeros((0,), tf.string)
        self.held_counts = np.zeros(0, "int64")
        # Captions of an image, above which it is held.
        self._most_captions = np.iinfo("int64").max
        self.sizes = self._passes(split) if pair_weighted else self.takes[None]

    def __len__(self):
        return len(self.paths)

    @property
    def num_entries(self) -> int:
        """The entries of an epoch."""
        return int(self.sizes.sum() + self.held_counts.sum())

    def interleaved(
        self, numbers: tf.Tensor, number_of_pass: int | tf.Tensor = 0
    ) -> tf.data.Dataset:
        """Reads files record by record, with captions' numbers if pair-weighted."""

        def read(path, skip, take):
            records = _records(self._builder, path, skip, take)
            return records.enumerate() if self._pair_weighted else records

        def entries(position, record):
            count = tf.cast(count_captions(self._builder, record), tf.int64)
            count = tf.where(count > self._most_captions, tf.zeros_like(count), count)
            first = (number_of_pass - position) % len(self.sizes)
            chosen = tf.range(first, tf.maximum(first, count), len(self.sizes))
            return tf.data.Dataset.from_tensor_slices(chosen).map(
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
        return records.flat_map(entries) if self._pair_weighted else records

    def _passes(self, split):
        counts = caption_counts(self._builder, split)
        parts = [
            counts[path][skip : skip + take].astype("int64")
            for path, skip, take in zip(self.paths, self.skips, self.takes, strict=True)
        ]
        self._hold(parts)
        parts = [np.where(part > self._most_captions, 0, part) for part in parts]
        total, images = sum(part.sum() for part in parts), self.takes.sum()
        passes = max(1, -(-int(total) // max(1, int(images))))
        sizes = np.zeros((passes, len(parts)), "int64")
        for number_of_pass in range(passes):
            for file, part in enumerate(parts):
                # As `entries` of `interleaved`: the captions first, first + passes …
                first = (number_of_pass - np.arange(len(part))) % passes
                sizes[number_of_pass, file] = np.maximum(
                    0, -((first - part) // passes)
                ).sum()
        return sizes

    def _hold(self, parts: list[np.ndarray]) -> None:
        """Reads the records of images with very many captions."""
        counts = np.concatenate([np.zeros(0, "int64"), *parts])
        limit = _held_limit(counts)
        chosen = [np.flatnonzero(part > limit) for part in parts]
        if not any(map(len, chosen)):
            return
        say(
            f"reading the {sum(map(len, chosen)):,} images of {self._builder.name} "
            f"that have more than {limit:,} captions"
        )
        sizes = np.concatenate(
            [
                [len(record) for record in self._records_at(file, rows)]
                for file, rows in enumerate(chosen)
            ]
        )
        held = np.concatenate(
            [part[rows] for part, rows in zip(parts, chosen, strict=True)]
        )
        # The images with the most captions first, as long as they fit.
        order = np.argsort(-held, kind="stable")
        too_many = np.cumsum(sizes[order]) > _MOST_HELD_BYTES
        if too_many.any():
            limit = max(limit, held[order][too_many][0])
        chosen = [np.flatnonzero(part > limit) for part in parts]
        records = [
            record
            for file, rows in enumerate(chosen)
            for record in self._records_at(file, rows)
        ]
        self._most_captions = limit
        self.held = tf.constant(records, tf.string, shape=(len(records),))
        self.held_counts = np.concatenate(
            [part[rows] for part, rows in zip(parts, chosen, strict=True)]
        )

    def _records_at(self, file: int, rows: np.ndarray) -> Iterator[bytes]:
        """Yields the records of a file at some of its entries, in order."""
        if not len(rows):
            return
        wanted = set(rows.tolist())
        skip, take = int(self.skips[file]), int(rows[-1]) + 1
        records = _records(self._builder, self.paths[file], skip, take)
        for row, record in enumerate(records.as_numpy_iterator()):
            if row in wanted:
                yield record


def _held_limit(counts: np.ndarray) -> int:
    """Returns the number of captions above which an image is held in memory."""
    limit = int(counts.max(initial=0))
    while True:
        # Without the held images, the mean and so the number of passes is lower.
        rest = counts[counts <= limit]
        passes = max(1, -(-int(rest.sum()) // max(1, len(counts))))
        lower = MOST_PER_PASS * passes
        if lower >= limit:
            break
        limit = lower
    if np.count_nonzero(counts > limit) > _MOST_HELD_IMAGES:
        limit = int(
            np.partition(counts, -_MOST_HELD_IMAGES - 1)[-_MOST_HELD_IMAGES - 1]
        )
    return limit


def enough_shards(builder: Any, split: str, num_input_pipelines: int) -> bool:
    """Whether every corpus has as many files as input pipelines, or an index."""
    return all(
        isinstance(member, SourcePairs)
        or member.info.splits[split].num_shards >= num_input_pipelines
        for member in _members(builder)
    )


def check_data_service(builder: Any, data_service: str | None) -> None:
    """Raises if a tf.data service is to read what only this process can."""
    for member in _members(builder):
        if is_array_record(member) or isinstance(member, SourcePairs):
            raise InputError(
                "data_service must be None for a source and a corpus stored as "
                "array_record, which are read by Python in the training process, "
                f"received {data_service!r}; leave it out, or build a corpus stored as "
                "tfrecord."
            )


def _members(builder):
    return builder.members.values() if isinstance(builder, Mixture) else [builder]


def caption_counts(builder: Any, split: str) -> dict[str, np.ndarray]:
    """Counts captions, path → uint32 (images,); kept beside the files if possible."""
    if isinstance(builder, SourcePairs):
        return builder.caption_counts(split)
    store = pathlib.Path(builder.data_path) / _FILE
    kept, parts = _read_kept(store), builder.info.splits[split].file_instructions
    missing = [
        part
        for part in parts
        if len(kept.get(part.basename(), ())) != part.examples_in_shard
    ]
    if missing:
        say(f"counting the captions of {len(missing):,} files of {builder.name}")
        kept |= {part.basename(): _count(builder, part) for part in missing}
        # In a folder that is only read, they are counted again next time.
        with contextlib.suppress(OSError), atomic_write(store, "wb") as file:
            np.savez(file, **kept)
    return {str(part.filename): kept[part.basename()] for part in parts}


def count_captions(builder: Any, serialized: tf.Tensor) -> tf.Tensor:
    """Returns the number of captions of a serialized example."""
    captions = {"captions": builder.info.features["captions"]}
    features = tfds.features.FeaturesDict(captions)
    return tf.size(features.deserialize_example(serialized)["captions"])


def _records(builder, path, skip, take):
    if isinstance(builder, SourcePairs):
        return builder.records(path, skip, take)
    if is_array_record(builder):
        return array_records(path, skip, take)
    file = tf.data.TFRecordDataset(path, buffer_size=_READ_BUFFER_BYTES)
    return file.skip(skip).take(take)


def _count(builder, part):
    records = _records(builder, str(part.filename), 0, part.examples_in_shard)
    counts = records.map(
        lambda record: count_captions(builder, record), tf.data.AUTOTUNE
    ).batch(_READ_AT_ONCE)
    parts = [batch.astype(np.uint32) for batch in counts.as_numpy_iterator()]
    return np.concatenate([np.zeros(0, np.uint32), *parts])


def _read_kept(store):
    try:
        with open(store, "rb") as file, np.load(file) as kept:
            return dict(kept)
    except (OSError, ValueError, zipfile.BadZipFile):
        return {}  # There is none, or it is damaged.
