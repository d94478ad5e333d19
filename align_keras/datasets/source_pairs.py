"""Shards as people keep them, read in training without building a corpus first: files
are indexed once (`align_keras.corpus.record_index`), training starts at any record.
"""

import errno
import glob
import hashlib
import json
import os
import re
import types
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.image import ImageError
from align_keras.corpus.record_index import RecordIndex, index_files, open_record_index
from align_keras.corpus.sources.source_files import (
    SourceFile,
    is_folder,
    list_files,
    one_file,
)
from align_keras.datasets.build import open_corpus
from align_keras.datasets.mixture import Mixture
from align_keras.utils.errors import InputError
from align_keras.utils.progress import say
from align_keras.utils.remote import file_system, is_url

if TYPE_CHECKING:  # For naming a source must not load TensorFlow.
    import tensorflow as tf

_SPLIT = re.compile(r"(?<![a-z])(train|test|validation|valid|val|dev)(?![a-z])")
_SPLITS = {"valid": "validation", "val": "validation", "dev": "validation"}
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_PATTERN = re.compile(r"[*?[]|" + _RANGE.pattern)
_SUFFIXES = {
    "webdataset": (".tar",),
    "tfrecord": (".tfrecord", ".tfrecords"),
    "parquet": (".parquet",),
    "arrow": (".arrow",),
}
_KIND_OF = {end: kind for kind, ends in _SUFFIXES.items() for end in ends}
_LOGGED = ("webdataset", "tfrecord")
# Passed to TensorFlow at a time, which takes one call into Python.
_RECORDS_AT_ONCE = 64
# Faults that are named one by one; of more the number is told, at its doubles.
_NAMED = 20


def open_sources(
    sources: str | Sequence[str],
    weights: Sequence[float] | None = None,
    *,
    image_column: str | None = None,
    caption_column: str | None = None,
    max_bad_fraction: float = 0.1,
    shorter_side: int | None = None,
) -> Any:
    """Opens shards of images and captions for training, as they are.

    Args:
        sources: str or a sequence of them, each a file, a folder, `*` and `{000..099}`
            in names of files, or an address such as `s3://bucket/tars`:

            - webdataset tars and TFRecord files, as img2dataset writes them;
            - Parquet files with the images' bytes, in a column of their own or as
              Hugging Face's `{bytes, path}`, such as `hf://datasets/USER/NAME`;
            - a folder that `datasets.Dataset.save_to_disk` wrote;
            - a corpus that `align-keras corpus` built.

            `KIND:` before it (`webdataset`, `tfrecord`, `parquet`, `arrow`) names what
            can't be told by names.
        weights: sequence of float > 0, the sources' shares of each batch; by their
            numbers of images without it.
        image_column: str, of Parquet and Arrow, guessed by default.
        caption_column: the same.
        max_bad_fraction: float in [0, 1], a larger share of records without caption or
            image raises.
        shorter_side: int, what training needs of a built corpus's images, or None.

    Returns:
        What `align_keras.data.training_batches` takes as `builder`: `SourcePairs`, a
        built corpus's TFDS builder, or a `Mixture` of several. Splits are told by the
        files' names, `train` where these say nothing.

    Raises:
        InputError: nothing is there, or of no known kind, no column of captions, no
            usable record or too few.

    Example:

    ```python
    builder = open_sources("laion/{00000..00099}.tar")
    batches = training_batches(
        builder, "train", model.preprocessor, batch_size=256)
    model.fit(batches, steps_per_epoch=1000)
    ```
    """
    names = [sources] if isinstance(sources, str) else list(sources)
    if not names or len(set(names)) < len(names):
        raise InputError(
            f"sources must be one or more, each once, received {names}; leave out the "
            "repeated ones, and give a weight to what is to come more often."
        )
    if weights is not None and (
        len(weights) != len(names) or not all(weight > 0 for weight in weights)
    ):
        raise InputError(
            f"weights must be a number above 0 for each of {len(names)} sources, "
            f"received {list(weights)}; write for example [2, 1]."
        )
    columns = {"image_column": image_column, "caption_column": caption_column}
    members = {
        name: open_corpus(name, shorter_side=shorter_side)
        if os.path.isfile(os.path.join(name, "features.json"))
        else SourcePairs(name, max_bad_fraction=max_bad_fraction, **columns)
        for name in names
    }
    return Mixture(members, weights) if len(members) > 1 else members[names[0]]


class SourcePairs:
    """Shards of images and captions, with what this package uses of a TFDS builder. A
    faulty image is named, and the next sound one of its file stands in its place.
    """

    def __init__(
        self, name: str, *, max_bad_fraction: float = 0.1, **columns: str | None
    ) -> None:
        self.name = name
        kind, root, files = _find(name)
        if kind not in ("parquet", "arrow") and any(columns.values()):
            raise InputError(
                f"image_column and caption_column are of Parquet and Arrow, received "
                f"{columns} for {name!r}, a source of kind {kind}; leave them out."
            )
        indexes = index_files(kind, root, files, **columns)
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
        text = tfds.features.Text()
        features = {
            "id": text,
            "image": tfds.features.Image(shape=(None, None, 3)),
            "captions": tfds.features.Sequence(text),
        }
        self.info = types.SimpleNamespace(
            splits=_SourceSplits(splits),
            features=tfds.features.FeaturesDict(features),
            file_format=None,
            metadata={**counter.as_metadata(), "summary": counter.lines()},
        )

    def records(
        self, path: "tf.Tensor", skip: "tf.Tensor", take: "tf.Tensor"
    ) -> "tf.data.Dataset":
        """Reads `take` records of a file behind `skip`, serialized, in this process."""
        import tensorflow as tf  # Here, for naming a source must not load it.

        records = tf.data.Dataset.from_generator(
            self._read,
            output_signature=tf.TensorSpec((None,), tf.string),
            args=(path, skip, take),
        )
        # Ahead of what is asked for, so that the files' latencies overlap.
        return records.prefetch(2).unbatch()

    def captions(self, split: str) -> Iterator[str]:
        """Yields all captions of a split, without the images being read."""
        for part in self.info.splits[split].file_instructions:
            index = self._index(part.filename)
            for number in range(part.skip, part.skip + part.take):
                yield from (caption.decode() for caption in index.captions(number))

    def caption_counts(self, split: str) -> dict[str, np.ndarray]:
        """The number of captions of each record of a split's files."""
        parts = self.info.splits[split].file_instructions
        return {part.filename: self._index(part.filename).numbers for part in parts}

    def fingerprint(self, split: str) -> str:
        """Returns a fingerprint of a split's files: captions, image positions, sizes.

        It is made of the stored index, without the files being read.
        """
        digest = hashlib.blake2b(digest_size=16)
        for part in self.info.splits[split].file_instructions:
            index = self._index(part.filename)
            digest.update(f"{index.file_info['size']} {part.skip} {part.take}\n".encode())
            for array in index.arrays():
                digest.update(f"{array.dtype} {array.shape}\n".encode())
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def _index(self, path: str) -> RecordIndex:
        return open_record_index(self._indexed[path])

    def _read(self, path: bytes, skip: Any, take: Any) -> Iterator[np.ndarray]:
        index, batch = self._index(os.fsdecode(path)), []
        counts = index.numbers.tolist()
        rows = index.readable_images(int(skip), int(skip + take))
        for row, (number, image, faults) in enumerate(rows, int(skip)):
            for fault in faults:
                self._note(index, *fault)
            name = index.name(number).encode("utf-8", "surrogateescape")
            # The example has as many captions as the faulty record that it replaces.
            captions = list(islice(cycle(index.captions(number)), counts[row]))
            batch.append(_example(id=[name], image=[image], captions=captions))
            if len(batch) == _RECORDS_AT_ONCE:
                yield np.array(batch, object)
                batch = []
        if batch:
            yield np.array(batch, object)

    def _note(self, index: RecordIndex, number: int, fault: ImageError) -> None:
        name = index.name(number)
        if name in self._faults:  # The fault was reported in an earlier epoch.
            return
        self._faults.add(name)
        count = len(self._faults)
        if count <= _NAMED:
            say(f"{self.name}: skipped {name}, {fault}")
        elif count & (count - 1) == 0:
            say(f"{self.name}: skipped {count:,} faulty images, the last {name}")


def _example(**features: list[bytes]) -> bytes:
    example = tf_example_pb2.Example()
    for name, values in features.items():
        example.features.feature[name].bytes_list.value.extend(values)
    return example.SerializeToString()


class _SourceSplits(dict):
    """Split → its files; an item tells `num_examples` and what to read of them."""

    def __getitem__(self, split: str) -> types.SimpleNamespace:
        split = "+".join(self) if split == "all" else split
        whole = {
            name: types.SimpleNamespace(num_examples=sum(f["count"] for f in files))
            for name, files in self.items()
        }
        parts = []
        # Raises ValueError for a split that isn't there.
        for span in tfds.core.ReadInstruction.from_spec(split).to_absolute(whole):
            count = whole[span.splitname].num_examples
            stop = count if span.to is None else span.to
            parts += _parts(self.get(span.splitname, []), span.from_ or 0, stop)
        return types.SimpleNamespace(
            num_examples=sum(part.take for part in parts),
            num_shards=len(parts),
            file_instructions=parts,
        )


def _split_of(file: SourceFile) -> str:
    """The split that a file's name tells; any other file is for training."""
    match = _SPLIT.search(file.name.lower())
    split = match[1] if match else "train"
    return _SPLITS.get(split, split)


def _parts(
    files: list[dict[str, Any]], start: int, stop: int
) -> list[types.SimpleNamespace]:
    """Returns the parts of files that hold the records from `start` to `stop`."""
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


# === Finding files ===


def _find(name: str) -> tuple[str, str, list[SourceFile]]:
    """Returns a source's kind, the folder of its files and these."""
    named, _, named_path = name.partition(":")
    kind, path = (
        (named, named_path) if named in _SUFFIXES and named_path else (None, name)
    )
    path = path.rstrip("/") if is_url(path) else os.path.abspath(path)
    try:
        root, files = _listed(path)
    except OSError as error:
        raise _no_source(name, f"which can't be read ({error.strerror})") from None
    ends = _SUFFIXES[kind] if kind else tuple(_KIND_OF)
    if len(files) != 1 or not kind:
        files = [file for file in files if file.name.lower().endswith(ends)]
    shards = {
        os.path.splitext(file.name)[0] for file in files if _kind(file) in _LOGGED
    }
    files = [
        file
        for file in files
        # Leaves out the tables that img2dataset writes next to its shards, and the
        # caches of `datasets`.
        if not (_kind(file) == "parquet" and file.name[: -len(".parquet")] in shards)
        and not os.path.basename(file.name).startswith("cache-")
    ]
    kinds = {kind or _kind(file) or "" for file in files}
    if len(kinds) != 1:
        problem = (
            f"with files of {' and '.join(sorted(kinds))}" if kinds else "with none"
        )
        raise _no_source(name, problem)
    return kinds.pop(), root, files


def _kind(file: SourceFile) -> str | None:
    return _KIND_OF.get(os.path.splitext(file.name)[1].lower())


def _listed(path: str) -> tuple[str, list[SourceFile]]:
    """Returns a folder and the files that a path, a pattern or a folder means in it."""
    special = _PATTERN.search(path)
    if special is None:
        if is_folder(path):
            return path, list_files(path, tuple(_KIND_OF))
        file = one_file(path)
        return os.path.dirname(path), [file] if file else []
    root, paths = path[: special.start()].rpartition("/")[0], [path]
    while match := _RANGE.search(paths[0]):
        first, last = match[1], match[2]
        numbers = [f"{n:0{len(first)}}" for n in range(int(first), int(last) + 1)]
        paths = [
            _RANGE.sub(number, one, count=1) for one in paths for number in numbers
        ]
    if re.search(r"[*?[]", path):
        paths = sorted(match_path for one in paths for match_path in _glob(one))
    with ThreadPoolExecutor(16) as pool:  # A store is asked for each.
        found_files = list(pool.map(one_file, paths))
    files = []
    for path, file in zip(paths, found_files, strict=True):
        if file is None:
            raise OSError(errno.ENOENT, f"no such file: {path}", path)
        files.append(file._replace(name=path[len(root) + 1 :]))
    return root, files


def _glob(pattern: str) -> list[str]:
    if not is_url(pattern):
        return glob.glob(pattern, recursive=True)
    fs, path = file_system(pattern)
    scheme = pattern.partition("://")[0]
    return [f"{scheme}://{object_path.lstrip('/')}" for object_path in fs.glob(path)]


def _no_source(name: str, problem: str) -> InputError:
    return InputError(
        f"a source must be webdataset tars, TFRecord, Parquet or Arrow files "
        f"({', '.join(_KIND_OF)}), or a built corpus, received {name!r}, {problem}; "
        "check the path, or name the kind, as in webdataset:PATH."
    )
