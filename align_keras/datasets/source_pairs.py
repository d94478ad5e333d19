"""Training data from existing shards, without building a corpus.

Each file is indexed once (`align_keras.corpus.record_index`), so that training can
start at any record.
"""

import hashlib
import json
import os
import re
import types
from collections.abc import Iterable, Iterator, Sequence
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.record_index import RecordIndex, open_record_index
from align_keras.corpus.record_indexing import index_files
from align_keras.corpus.sources.source_files import SourceFile
from align_keras.datasets.mixture import Mixture
from align_keras.datasets.named_corpora import open_corpus
from align_keras.datasets.shard_files import find_shards
from align_keras.utils.errors import ImageError, InputError
from align_keras.utils.pillow_images import graph_image
from align_keras.utils.progress import say

if TYPE_CHECKING:  # Importing this module must not load TensorFlow.
    import tensorflow as tf

_SPLIT = re.compile(r"(?<![a-z])(train|test|validation|valid|val|dev)(?![a-z])")
_SPLITS = {"valid": "validation", "val": "validation", "dev": "validation"}
# Number of records that one Python call passes to TensorFlow.
_RECORDS_PER_BATCH = 64
# Number of faulty images that are reported one by one. Later, the total is reported
# whenever it reaches a power of two.
_MAX_NAMED_FAULTS = 20


def open_sources(
    sources: str | Sequence[str],
    weights: Sequence[float] | None = None,
    *,
    image_column: str | None = None,
    caption_column: str | None = None,
    caption_sources: Sequence[str] = (),
    where: str | None = None,
    max_bad_fraction: float = 0.1,
    shorter_side: int | None = None,
) -> Any:
    """Opens existing shards of images and captions for training.

    The name of a file determines its split, such as `val` for `val-00.tar`. Files
    without the name of a split belong to `train`.

    Args:
        sources: str or sequence of str. Each is a file, a folder, a pattern with `*` or
            `{000..099}`, or an address such as `s3://bucket/tars`. The formats are:

            - webdataset tars or TFRecord files, as img2dataset writes them,
            - Parquet files with the bytes of the images, in a column of bytes or as
              `{bytes, path}` of Hugging Face, such as `hf://datasets/USER/NAME`,
            - a folder that `datasets.Dataset.save_to_disk` wrote,
            - a corpus that `align-keras corpus` built.

            If the names of the files don't show the kind, prefix the source with
            `KIND:` (`webdataset`, `tfrecord`, `parquet` or `arrow`).
        weights: sequence of float > 0, the share of each source in the batches. By
            default the shares follow the numbers of images.
        image_column: column of the images in Parquet and Arrow files. By default
            it is detected by its name.
        caption_column: column of the captions in Parquet and Arrow files. By
            default it is detected by its name.
        caption_sources: the names of several sources of captions. They are
            columns of Parquet and Arrow files, keys of the `.json` members of a tar, or
            features of TFRecord files. The key `caption` of a tar is its `.txt` member.
            A record has the captions of all its sources, and the source of each caption
            in the feature `caption_sources`. An empty list reads one column or key.
        where: condition on the scores of `align-keras corpus score`, which selects
            pairs as in `open_corpus`, or None for all pairs. It requires that all
            sources are built corpora.
        max_bad_fraction: in [0, 1], the largest fraction of records without a
            caption or an image.
        shorter_side: the shorter side in pixels that training needs from the
            images of a built corpus, or None.

    Returns:
        The argument `builder` of `align_keras.data.training_batches`: a `SourcePairs`,
        the TFDS builder of a built corpus, or a `Mixture` of several sources.

    Raises:
        InputError: If a source doesn't exist, is of an unknown kind, has no column of
            captions, or has too few usable records, if no record has a caption of one
            of `caption_sources`, or if `where` keeps no pair of a source.

    Example:

    ```python
    builder = open_sources("shards/{00000..00001}.tar")
    model = align_keras.ALIGN.from_preset("align_small_en")
    batches = align_keras.data.training_batches(
        builder, "train", model.preprocessor, batch_size=4
    )
    next(iter(batches))["token_ids"].shape[0]  # 4
    ```
    """
    names = [sources] if isinstance(sources, str) else list(sources)
    if not names or len(set(names)) < len(names):
        raise InputError(
            "sources must contain at least one source, and each source only once. "
            f"Received: sources={names}."
        )
    members: dict[str, Any] = {}
    for name in names:
        if os.path.isfile(os.path.join(name, "features.json")):
            members[name] = open_corpus(name, shorter_side=shorter_side, where=where)
        elif where is not None:
            raise InputError(
                "where must be None unless all sources are corpora that `align-keras "
                f"corpus` built. Received: where={where!r} for {name!r}."
            )
        else:
            members[name] = SourcePairs(
                name,
                image_column=image_column,
                caption_column=caption_column,
                caption_sources=caption_sources,
                max_bad_fraction=max_bad_fraction,
            )
    if caption_sources:
        _check_caption_sources(members, caption_sources)
    return Mixture(members, weights) if len(members) > 1 else members[names[0]]


def _check_caption_sources(
    members: dict[str, Any], caption_sources: Sequence[str]
) -> None:
    """Raises unless all members are shards, and each source has a caption in them."""
    counts = np.zeros(len(caption_sources), np.int64)
    for name, member in members.items():
        if not isinstance(member, SourcePairs):
            raise InputError(
                "caption_sources requires shards, because a built corpus has no "
                f"caption sources. Received: {name!r}. Leave one of them out."
            )
        counts += member.source_counts
    missing = [
        source
        for source, count in zip(caption_sources, counts, strict=True)
        if not count
    ]
    if missing:
        raise InputError(
            f"caption_sources must be columns or keys of {', '.join(members)} with "
            f"captions. Received: {', '.join(missing)}, without a caption in any "
            "record. Correct task.train_data.caption_sources."
        )


class SourcePairs:
    """Shards of images and captions with the interface of a TFDS builder.

    Only the parts of the interface that this package uses are implemented. A faulty
    image is reported and replaced by the next sound image of its file.

    Args:
        name: a source as in `open_sources`.
        image_column: argument of `open_sources`.
        caption_column: argument of `open_sources`.
        caption_sources: argument of `open_sources`.
        max_bad_fraction: in [0, 1], the largest fraction of records without a
            caption or an image.

    Attributes:
        source_counts: int64 array, number of captions of each of `caption_sources`.
    """

    def __init__(
        self,
        name: str,
        *,
        image_column: str | None = None,
        caption_column: str | None = None,
        caption_sources: Sequence[str] = (),
        max_bad_fraction: float = 0.1,
    ) -> None:
        self.name = name
        kind, root, files = find_shards(name)
        columns = {"image_column": image_column, "caption_column": caption_column}
        if kind not in ("parquet", "arrow") and any(columns.values()):
            raise InputError(
                "image_column and caption_column apply only to Parquet and Arrow "
                f"files. Received: {columns} for {name!r}, a source of kind {kind}. "
                "Leave them out."
            )
        indexes = index_files(
            kind, root, files, image_column, caption_column, caption_sources
        )
        counter = DropCounter()
        splits: dict[str, list[dict[str, Any]]] = {}
        for file, indexed in zip(files, indexes, strict=True):
            counter.add(DropCounter.from_metadata(indexed["counts"]))
            splits.setdefault(_split_of(file), []).append(indexed)
        try:
            counter.check(max_bad_fraction)
        except InputError as error:
            raise InputError(f"source {name!r}: {error}") from None
        self._indexed = {file["path"]: json.dumps(file) for file in indexes}
        self._faults: set[str] = set()
        self.source_counts = np.zeros(len(caption_sources), np.int64)
        for indexed in indexes:
            self.source_counts += indexed.get("source_counts", 0)
        text = tfds.features.Text()
        features = {
            "id": text,
            "image": tfds.features.Image(shape=(None, None, 3)),
            "captions": tfds.features.Sequence(text),
        }
        if caption_sources:
            features["caption_sources"] = tfds.features.Sequence(text)
        self.info = types.SimpleNamespace(
            splits=_SourceSplits(splits),
            features=tfds.features.FeaturesDict(features),
            file_format=None,
            metadata={**counter.as_metadata(), "summary": counter.lines()},
        )

    def records(
        self, path: "tf.Tensor", skip: "tf.Tensor", take: "tf.Tensor"
    ) -> "tf.data.Dataset":
        """Reads records of a file in this process.

        Args:
            path: scalar str tensor, one of the files.
            skip: scalar int64 tensor, number of records to skip.
            take: scalar int64 tensor, number of records to read.

        Returns:
            `tf.data.Dataset` of serialized examples.
        """
        # This import is not at the top, because opening a source must not load
        # TensorFlow.
        import tensorflow as tf

        records = tf.data.Dataset.from_generator(
            self._read,
            output_signature=tf.TensorSpec((None,), tf.string),
            args=(path, skip, take),
        )
        # Reads ahead, so that the latencies of the files overlap.
        return records.prefetch(2).unbatch()

    def captions(self, split: str) -> Iterator[str]:
        """Yields all captions of a split without reading the images."""
        for part in self.info.splits[split].file_instructions:
            index = self._index(part.filename)
            for number in range(part.skip, part.skip + part.take):
                yield from (caption.decode() for caption in index.captions(number))

    def caption_counts(self, split: str) -> dict[str, np.ndarray]:
        """Returns the number of captions of each record, by file of a split."""
        parts = self.info.splits[split].file_instructions
        return {part.filename: self._index(part.filename).numbers for part in parts}

    def fingerprint(self, split: str) -> str:
        """Returns a fingerprint of a split, computed from the stored indexes.

        It covers the captions, the positions of the images and the sizes of the files.
        The files are not read.
        """
        digest = hashlib.blake2b(digest_size=16)
        for part in self.info.splits[split].file_instructions:
            index = self._index(part.filename)
            digest.update(
                f"{index.file_info['size']} {part.skip} {part.take}\n".encode()
            )
            for array in index.arrays():
                digest.update(f"{array.dtype} {array.shape}\n".encode())
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def _index(self, path: str) -> RecordIndex:
        return open_record_index(self._indexed[path])

    def _read(self, path: bytes, skip: Any, take: Any) -> Iterator[np.ndarray]:
        """Yields batches of serialized examples, as arrays of bytes."""
        index, batch = self._index(os.fsdecode(path)), []
        counts = index.numbers.tolist()
        rows = index.readable_images(int(skip), int(skip + take))
        for row, (number, image, faults) in enumerate(rows, int(skip)):
            for fault in faults:
                self._report_fault(index, *fault)
            name = index.name(number).encode("utf-8", "surrogateescape")
            # The replacement example gets as many captions as the faulty record had.
            example = _example(
                id=[name],
                image=[graph_image(image)],
                captions=islice(cycle(index.captions(number)), counts[row]),
                caption_sources=islice(
                    cycle(index.caption_sources(number)), counts[row]
                ),
            )
            batch.append(example)
            if len(batch) == _RECORDS_PER_BATCH:
                yield np.array(batch, object)
                batch = []
        if batch:
            yield np.array(batch, object)

    def _report_fault(self, index: RecordIndex, number: int, fault: ImageError) -> None:
        name = index.name(number)
        if name in self._faults:  # The image was already reported in an earlier epoch.
            return
        self._faults.add(name)
        count = len(self._faults)
        if count <= _MAX_NAMED_FAULTS:
            say(f"{self.name}: skipped {name} ({fault})")
        elif count & (count - 1) == 0:
            say(f"{self.name}: skipped {count:,} faulty images, most recently {name}")


def _example(**features: Iterable[bytes]) -> bytes:
    example = tf_example_pb2.Example()
    for name, values in features.items():
        example.features.feature[name].bytes_list.value.extend(values)
    return example.SerializeToString()


class _SourceSplits(dict):
    """Dict from a split to its indexed files.

    An item is an object with `num_examples`, `num_shards` and `file_instructions`, as
    in TFDS. The key may be a specification such as `"train[:10%]"` or `"all"`.
    """

    def __getitem__(self, split: str) -> types.SimpleNamespace:
        split = "+".join(self) if split == "all" else split
        split_infos = {
            name: types.SimpleNamespace(num_examples=sum(f["count"] for f in files))
            for name, files in self.items()
        }
        parts = []
        # Raises ValueError if the split doesn't exist.
        for span in tfds.core.ReadInstruction.from_spec(split).to_absolute(split_infos):
            count = split_infos[span.splitname].num_examples
            stop = count if span.to is None else span.to
            parts += _parts(self.get(span.splitname, []), span.from_ or 0, stop)
        return types.SimpleNamespace(
            num_examples=sum(part.take for part in parts),
            num_shards=len(parts),
            file_instructions=parts,
        )


def _split_of(file: SourceFile) -> str:
    """Returns the split in the name of a file, or "train" if there is none."""
    match = _SPLIT.search(file.name.lower())
    split = match[1] if match else "train"
    return _SPLITS.get(split, split)


def _parts(
    files: list[dict[str, Any]], start: int, stop: int
) -> list[types.SimpleNamespace]:
    """Returns instructions to read the records from `start` to `stop` of the files."""
    parts, begin = [], 0
    for file in files:
        bounds = [*file["stretches"], file["count"]]
        for first, last in zip(bounds, bounds[1:], strict=False):
            skip, end = max(first, start - begin), min(last, stop - begin)
            if skip < end:
                part = {"filename": file["path"], "skip": skip, "take": end - skip}
                parts.append(types.SimpleNamespace(**part))
        begin += file["count"]
    return parts
