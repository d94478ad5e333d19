"""Indexing of the images and captions in shards (tar, TFRecord, Parquet, Arrow).

Each file is indexed once. With the index, training can start at any record of the file.
"""

import hashlib
import itertools
import json
import operator
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from align_keras.corpus.caption_cleaning import clean_caption, is_usable
from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.parquet_tables import arrow
from align_keras.corpus.record_index import (
    TABLES,
    arrow_batches,
    parquet_batches,
    read_schema,
)
from align_keras.corpus.sources.pair import CAPTION_SOURCES, Part, columns_of
from align_keras.corpus.sources.parquet_files import image_column_of
from align_keras.corpus.sources.source import read_part
from align_keras.corpus.sources.source_files import SourceFile
from align_keras.utils.addresses import is_url
from align_keras.utils.errors import InputError
from align_keras.utils.files import MAX_FILE_BYTES, atomic_write
from align_keras.utils.progress import say
from align_keras.utils.remote import join_url
from align_keras.utils.tasks import run_tasks

RECORD_KINDS = ("webdataset", "tfrecord", "parquet", "arrow")
# Version of the stored format. The name of an index file depends on it.
_VERSION = 1
# Number of records in a stretch, the part of a file that training reads in order. A
# stretch of a table ends with a row group.
RECORDS_PER_STRETCH = 10_000
# Bytes. Smaller sources are indexed in this process, since starting other processes
# takes longer than reading.
_MIN_PARALLEL_BYTES = 1_000_000_000
# Position and captions of a record. The position is (offset, bytes) in a tar or
# TFRecord file, and (row group, row) or (offset of the batch, row) in a table. Each
# caption has the number of its source, which is 0 for files with one source.
_Row = tuple[tuple[int, int], list[tuple[str, int]]]


def index_files(
    kind: str,
    root: str,
    files: list[SourceFile],
    image_column: str | None = None,
    caption_column: str | None = None,
    caption_sources: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Indexes the records of files.

    Files that are indexed already are skipped. A file is indexed again if its name,
    size or modification time has changed.

    Args:
        kind: one of `RECORD_KINDS`.
        root: folder or address of the files.
        files: files with their sizes and modification times.
        image_column: column of images in tables, or None to recognize it.
        caption_column: column of captions in tables, or None to recognize it.
        caption_sources: columns or JSON keys of captions, each of which is a source.
            The files may lack some of them. An empty list reads one caption column or
            key.

    Returns:
        list with a dict per file: `path`, `size`, `modified`, `kind`, `count` (number
        of records), `stretches` (first record of each stretch), `counts` (metadata of a
        `DropCounter`) and `index` (path of the index file). With `caption_sources`, it
        also has `caption_sources` and `source_counts`, the number of captions of each
        source. `RecordIndex` takes this dict.

    Raises:
        InputError: if a file vanished, or a table lacks a column of images or captions.
    """
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    folder = pathlib.Path(home, "align_keras", "source_indexes")
    join = join_url if is_url(root) else os.path.join
    common = {"kind": kind, "version": _VERSION, "folder": os.fspath(folder)}
    columns: dict[str, Any] = {
        "image_column": image_column,
        "caption_column": caption_column,
        "caption_sources": list(caption_sources),
    }
    tasks = [
        {**common, **columns, "path": join(root, file.name), **file._asdict()}
        for file in files
    ]
    is_small = sum(file.size for file in files) < _MIN_PARALLEL_BYTES
    results = run_tasks(_index_file, tasks, folder, workers=1 if is_small else None)
    keys = ("path", "size", "modified")
    return [
        {**{key: task[key] for key in keys}, **value, "kind": kind}
        for task, value in zip(tasks, results, strict=True)
    ]


def _index_file(task: dict[str, Any]) -> dict[str, Any]:
    """Indexes one file and writes its index file, as a task of `index_files`."""
    say(f"indexing {task['path']}")
    counter, kind = DropCounter(), task["kind"]
    if kind in TABLES:
        rows, column = _table_rows(task, counter)
    else:
        rows, column = _span_rows(task, counter), ""
    positions, texts, source_numbers, caption_counts = [], [], [], []
    for position, captions in rows:
        positions.append(position)
        caption_counts.append(len(captions))
        texts += [caption.encode() for caption, _ in captions]
        source_numbers += [number for _, number in captions]
        counter.keep()
    if counter.bad["vanished"]:
        raise InputError(
            "A source must not change while it is indexed. Received: "
            f"{counter.examples['vanished']}. Restore the file and run again."
        )
    position_array = np.array(positions, "int64").reshape(-1, 2)
    name = hashlib.blake2b(json.dumps(task, sort_keys=True).encode(), digest_size=16)
    index = pathlib.Path(task["folder"], f"{name.hexdigest()}.npz")
    arrays_of_sources: dict[str, Any] = {}
    values_of_sources: dict[str, Any] = {}
    if sources := task["caption_sources"]:
        numbers = np.array(source_numbers, "int16")
        arrays_of_sources["sources"] = numbers
        values_of_sources["caption_sources"] = sources
        counts = np.bincount(numbers, minlength=len(sources))
        values_of_sources["source_counts"] = counts.tolist()
    with atomic_write(index, "wb") as file:
        # The names of the arrays are part of the stored format.
        np.savez(
            file,
            places=position_array,
            numbers=np.array(caption_counts, "int64"),
            ends=np.cumsum([len(text) for text in texts], dtype="int64"),
            texts=np.frombuffer(b"".join(texts), "uint8"),
            column=np.array(column),
            **arrays_of_sources,
        )
    return {
        "count": len(positions),
        "stretches": _stretches(position_array, kind),
        "counts": counter.as_metadata(),
        "index": os.fspath(index),
        **values_of_sources,
    }


def _stretches(positions: np.ndarray, kind: str) -> list[int]:
    """Returns the number of the first record of each stretch of a file."""
    if kind not in TABLES:
        return list(range(0, len(positions), RECORDS_PER_STRETCH))
    starts = [0]
    for start in np.flatnonzero(np.diff(positions[:, 0])) + 1:
        if start - starts[-1] >= RECORDS_PER_STRETCH:
            starts.append(int(start))
    return starts if len(positions) else []


def _span_rows(task: dict[str, Any], counter: DropCounter) -> Iterator[_Row]:
    """Yields the records of a tar or TFRecord file that have usable captions."""
    root, name = os.path.split(task["path"])
    sources = task["caption_sources"]
    options = ((CAPTION_SOURCES, tuple(sources)),) if sources else ()
    pairs = read_part(Part(task["kind"], root, (name,), options=options), counter)
    # Successive pairs have the captions of the same image.
    for image, pairs_of_image in itertools.groupby(pairs, operator.attrgetter("image")):
        offset, size = map(int, image.split(":", 2)[1].split(","))
        captions = [
            (pair.caption, sources.index(pair.source) if sources else 0)
            for pair in pairs_of_image
        ]
        if size > MAX_FILE_BYTES or not size:
            reason = "oversized" if size else "empty"
            counter.drop(reason, image, f"{size:,} bytes")
        else:
            yield (offset, size), captions


def _table_rows(
    task: dict[str, Any], counter: DropCounter
) -> tuple[Iterator[_Row], str]:
    """Returns an iterator of the rows of a table, and the name of its image column."""
    path = task["path"]
    try:
        schema = read_schema(path, task["kind"])
    except (OSError, arrow().ArrowInvalid) as error:
        counter.drop("truncated shard", path, " ".join(str(error).split()))
        return iter(()), ""
    names = schema.names
    columns_of_parts = columns_of(names)
    image = _checked_column(
        path,
        names,
        "image",
        task["image_column"] or image_column_of(schema),
        "jpg, png, webp or image with the files' bytes, or a Hugging Face image",
    )
    if sources := task["caption_sources"]:
        caption_columns = _source_columns(path, names, sources)
    else:
        caption = _checked_column(
            path,
            names,
            "caption",
            task["caption_column"] or columns_of_parts.get("caption"),
            "caption, text, alt_text and others",
        )
        caption_columns = {caption: 0}
    columns = [*caption_columns, *{"status", "error_message"}.intersection(names)]
    return _rows_of_tables(task, columns, caption_columns, counter), image


def _source_columns(
    path: str, names: list[str], caption_sources: list[str]
) -> dict[str, int]:
    """Returns a dict from the columns of sources in a table to the sources' numbers."""
    columns = {
        source: number
        for number, source in enumerate(caption_sources)
        if source in names
    }
    if not columns:
        raise InputError(
            f"{path} must have a column for at least one of the caption sources "
            f"{', '.join(caption_sources)}. Received: the columns {', '.join(names)}. "
            "Correct task.train_data.caption_sources."
        )
    return columns


def _checked_column(
    path: str, names: list[str], part: str, column: str | None, examples: str
) -> str:
    """Checks that a table has the column of images or captions and returns its name."""
    if column is None or column not in names:
        raise InputError(
            f"{path} must have a column of {part}s ({examples}). Received: "
            f"{column or 'none'} among the columns {', '.join(names)}. Set its name as "
            f"task.train_data.{part}_column."
        )
    return column


def _rows_of_tables(
    task: dict[str, Any],
    columns: list[str],
    caption_columns: dict[str, int],
    counter: DropCounter,
) -> Iterator[_Row]:
    """Yields the rows that have usable captions, and counts the other rows."""
    batches = parquet_batches if task["kind"] == "parquet" else arrow_batches
    path, group, row = task["path"], 0, -1
    try:
        for group, first_row, batch in batches(path, columns):
            for row, values in enumerate(batch.to_pylist(), first_row):
                position = f"{path} row {group},{row}"
                if values.get("status") not in (None, "success"):
                    detail = str(values.get("error_message", ""))
                    counter.filter("not downloaded", position, detail)
                    continue
                captions = [
                    (caption, number)
                    for column, number in caption_columns.items()
                    for caption in _usable_captions(values[column], position)
                ]
                if captions:
                    yield (group, row), captions
                else:
                    cells = [values[column] for column in caption_columns]
                    _count_unusable(cells, counter, position)
    except (OSError, arrow().ArrowException) as error:
        detail = " ".join(str(error).split())
        counter.drop("broken record", f"{path} after row {group},{row}", detail)


def _usable_captions(value: object, position: str) -> list[str]:
    """Returns the usable captions of a cell."""
    ignored_counter = DropCounter()
    return [
        text.encode("utf-8", "replace").decode()
        for text in _cell_captions(value)
        if is_usable(text, ignored_counter, position, "")
    ]


def _count_unusable(cells: list[object], counter: DropCounter, position: str) -> None:
    """Counts a row under the drop reason of its first caption that isn't empty."""
    captions = [text for cell in cells for text in _cell_captions(cell)]
    first = next((text for text in captions if text), "")
    is_usable(first, counter, position, "")


def _cell_captions(value: object) -> list[str]:
    """Returns the cleaned captions of a cell."""
    texts = value if isinstance(value, list) and value else [value]
    return [clean_caption(text) if isinstance(text, str) else "" for text in texts]
