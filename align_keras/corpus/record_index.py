"""Index of the images and captions in shards (tar, TFRecord, Parquet, Arrow).

Each file is indexed once. With the index, training can start at any record of the file.
"""

import collections
import contextlib
import functools
import hashlib
import itertools
import json
import operator
import os
import pathlib
import struct
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from align_keras.corpus.caption_cleaning import clean_caption, is_usable
from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.parquet_tables import arrow, open_parquet
from align_keras.corpus.sources.location import image_of_cell
from align_keras.corpus.sources.pair import CAPTION_SOURCES, Part, columns_of
from align_keras.corpus.sources.parquet_files import image_column_of
from align_keras.corpus.sources.source import read_part
from align_keras.corpus.sources.source_files import SourceFile, one_file
from align_keras.utils.errors import ImageError, InputError
from align_keras.utils.files import (
    MAX_FILE_BYTES,
    MAX_PIXELS,
    atomic_write,
    open_regular,
)
from align_keras.utils.pillow_images import decode_rgb, open_image
from align_keras.utils.progress import say
from align_keras.utils.remote import is_url, join_url, read_url
from align_keras.utils.tasks import run_tasks

RECORD_KINDS = ("webdataset", "tfrecord", "parquet", "arrow")
_TABLES = ("parquet", "arrow")
# Version of the stored format. The name of an index file depends on it.
_VERSION = 1
# Number of records in a stretch, the part of a file that training reads in order. A
# stretch of a table ends with a row group.
RECORDS_PER_STRETCH = 10_000
# Bytes. Smaller sources are indexed in this process, since starting other processes
# takes longer than reading.
_MIN_PARALLEL_BYTES = 1_000_000_000
# Limits of one read request: bytes, and number of records.
_READ_BYTES, _READ_RECORDS = 4_000_000, 64
# Bytes. A gap of at most this size between two images is read with them, because a
# second request would take longer.
_MAX_GAP = 65_536
# Rows per batch if single rows of a table are read.
_ROWS_PER_BATCH = 32
_END_OF_JPEG = b"\xff\xd9"
# Position and captions of a record. The position is (offset, bytes) in a tar or
# TFRecord file, and (row group, row) or (offset of the batch, row) in a table. Each
# caption has the number of its source, which is 0 for files with one source.
_Row = tuple[tuple[int, int], list[tuple[str, int]]]


# === Building ===


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
        InputError: if the cache folder is not writable, a file vanished, or a table
            lacks a column of images, or has no column of captions.
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
    try:
        folder.mkdir(parents=True, exist_ok=True)
        results = run_tasks(_index_file, tasks, folder, workers=1 if is_small else None)
    except PermissionError as error:
        raise InputError(
            f"The cache folder for the index of {root} must be writable. Received: "
            f"{folder} ({error.strerror}). Set XDG_CACHE_HOME to another folder."
        ) from None
    keys = ("path", "size", "modified")
    return [
        {**{key: task[key] for key in keys}, **value, "kind": kind}
        for task, value in zip(tasks, results, strict=True)
    ]


def _index_file(task: dict[str, Any]) -> dict[str, Any]:
    """Indexes one file and writes its index file, as a task of `index_files`."""
    say(f"indexing {task['path']}")
    counter, kind = DropCounter(), task["kind"]
    if kind in _TABLES:
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
    if kind not in _TABLES:
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
        schema = _schema(path, task["kind"])
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
    batches = _parquet_batches if task["kind"] == "parquet" else _arrow_batches
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


# === Tables ===


def _schema(path: str, kind: str) -> Any:
    if kind == "parquet":
        with open_parquet(path) as table:
            return table.schema_arrow
    with _open_arrow(path) as file:
        return arrow().ipc.open_stream(file).schema


def _parquet_batches(
    path: str, columns: list[str], groups: Iterable[int] | None = None
) -> Iterator[tuple[int, int, Any]]:
    """Yields (row group, first row, batch)."""
    with open_parquet(path) as table:
        for group in range(table.num_row_groups) if groups is None else groups:
            first = 0
            for batch in table.iter_batches(
                _ROWS_PER_BATCH if groups else 4096, row_groups=[group], columns=columns
            ):
                yield group, first, batch
                first += batch.num_rows


def _arrow_batches(
    path: str, columns: list[str], offsets: Iterator[int] | None = None
) -> Iterator[tuple[int, int, Any]]:
    """Yields (offset, 0, batch) of the record batches of an Arrow stream."""
    ipc = arrow().ipc
    with _open_arrow(path) as file:
        schema = ipc.open_stream(file).schema
        while offsets is None or (offset := next(offsets, None)) is not None:
            if offsets is not None:
                file.seek(offset)
            start = file.tell()
            try:
                message = ipc.read_message(file)
            except EOFError:
                return
            batch = ipc.read_record_batch(message, schema)
            yield start, 0, batch.select(columns)


def _open_arrow(path: str) -> Any:
    pyarrow = arrow()
    if is_url(path):
        return pyarrow.PythonFile(open_regular(path), "r")
    return pyarrow.memory_map(path)


# === Reading ===


class RecordIndex:
    """Images and captions of an indexed file.

    Args:
        file_info: element of the result of `index_files`.

    Attributes:
        file_info: the argument.
        path: path or address of the file.
        kind: one of `RECORD_KINDS`.
        positions: int64 array (records, 2), position of each record in the file.
        numbers: int64 array (records,), number of captions of each record.

    Raises:
        InputError: if the index file is missing or damaged.
    """

    def __init__(self, file_info: dict[str, Any]) -> None:
        self.file_info = file_info
        self.path = file_info["path"]
        self.kind = file_info["kind"]
        try:
            with np.load(file_info["index"]) as stored:
                self.positions, self.numbers = stored["places"], stored["numbers"]
                self._text_bounds = np.append(0, stored["ends"])
                self._texts = stored["texts"].tobytes()
                self._column = str(stored["column"])
                # Only the index of a file with several sources of captions has it.
                self._sources = stored.get("sources")
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise InputError(
                f"The index of {self.path} must be undamaged. Received: "
                f"{file_info['index']} ({error}). Remove the folder of the index to "
                "build it again."
            ) from None
        self._first_caption = np.cumsum(self.numbers) - self.numbers

    def __len__(self) -> int:
        return len(self.positions)

    def arrays(self) -> list[np.ndarray]:
        """Returns all arrays of the index, for a fingerprint of its content."""
        texts = np.frombuffer(self._texts, np.uint8)
        arrays = [self.positions, self.numbers, self._text_bounds, texts]
        return arrays if self._sources is None else [*arrays, self._sources]

    def captions(self, number: int) -> list[bytes]:
        """Returns the captions of a record in UTF-8."""
        first = self._first_caption[number]
        bounds = self._text_bounds[first : first + self.numbers[number] + 1].tolist()
        return [self._texts[slice(*span)] for span in itertools.pairwise(bounds)]

    def caption_sources(self, number: int) -> list[bytes]:
        """Returns the source of each caption of a record in UTF-8.

        The list is empty if the file was indexed without sources.
        """
        if self._sources is None:
            return []
        names = self.file_info["caption_sources"]
        first = self._first_caption[number]
        numbers = self._sources[first : first + self.numbers[number]].tolist()
        return [names[source].encode() for source in numbers]

    def name(self, number: int) -> str:
        """Returns the name of a record, which has its file name and position."""
        group, row = self.positions[number]
        return f"{os.path.basename(self.path)}@{group},{row}"

    def check_unchanged(self) -> None:
        """Raises `InputError` if the file has changed since it was indexed."""
        file = one_file(self.path)
        state = None if file is None else (file.size, file.modified)
        if state != (self.file_info["size"], self.file_info["modified"]):
            problem = "was removed" if file is None else "has changed"
            raise InputError(
                f"A source must not change while it is read. {self.path} {problem} "
                "after it was indexed. Run again to index it again, or restore the "
                "file."
            )

    def readable_images(
        self, start: int, stop: int
    ) -> Iterator[tuple[int, bytes, list]]:
        """Yields one readable image for each record of a range.

        An unreadable image is replaced with the next readable one of the file. After
        the last record, the search continues at the first one.

        Args:
            start: number of the first record.
            stop: number after the last record.

        Yields:
            Tuple (number of the record, bytes of the image, faults). The faults are
            tuples (number, `ImageError`) of the unreadable images that were skipped
            since the previous tuple.

        Raises:
            InputError: if the file has no readable image, or has changed.
        """
        numbers = itertools.chain(range(start, len(self)), range(len(self)))
        ranges = ((start, stop), (stop, None), (0, None))
        images = (self._images(*bounds) for bounds in ranges)
        faults: list[tuple[int, ImageError]] = []
        read_count = yielded_count = 0
        all_images = itertools.chain.from_iterable(images)
        for number, image in zip(numbers, all_images, strict=True):
            read_count += 1
            fault = image_fault(image)
            if fault is not None:
                faults.append((number, fault))
                continue
            for _ in range(min(read_count, stop - start) - yielded_count):
                yield number, image, faults
                faults = []
            yielded_count = min(read_count, stop - start)
            if yielded_count == stop - start:
                return
        raise InputError(
            f"{self.path} must hold an image that can be read. Received: {len(self)} "
            f"images, all of them unreadable ({faults[-1][1]}). Remove the file from "
            "the source."
        )

    def _images(self, start: int, stop: int | None) -> Iterator[bytes]:
        """Yields the image bytes of a range of records, or b"" for a missing image."""
        self.check_unchanged()
        read = self._cells if self.kind in _TABLES else self._spans
        return read(self.positions[start:stop].tolist())

    def _spans(self, positions: list[list[int]]) -> Iterator[bytes]:
        """Yields the images at positions (offset, bytes) of a file."""
        for chunk in _chunks(positions):
            start = chunk[0][0]
            content = self._read(start, sum(chunk[-1]) - start)
            for offset, size in chunk:
                yield content[offset - start : offset - start + size]

    def _read(self, offset: int, size: int) -> bytes:
        if is_url(self.path):
            content = read_url(self.path, offset, size)
        else:
            self.check_unchanged()
            with open_regular(self.path) as file:
                file.seek(offset)
                content = file.read(size)
        if len(content) < size:
            self.check_unchanged()
            raise OSError(f"{self.path} ends {size - len(content):,} bytes early")
        return content

    def _cells(self, positions: list[list[int]]) -> Iterator[bytes]:
        """Yields the images at positions (row group or offset, row) of a table."""
        rows_of_groups = {
            group: collections.deque(row for _, row in rows)
            for group, rows in itertools.groupby(positions, operator.itemgetter(0))
        }
        batches = _parquet_batches if self.kind == "parquet" else _arrow_batches
        for group, first_row, batch in batches(
            self.path, [self._column], iter(rows_of_groups)
        ):
            column, rows = batch.column(0), rows_of_groups[group]
            while rows and rows[0] < first_row + len(column):
                value = column[rows.popleft() - first_row].as_py()
                try:
                    image = image_of_cell(value, self.path)
                except (ImageError, OSError):
                    image = None
                yield image if isinstance(image, bytes) else b""


def _chunks(positions: Iterable[Sequence[int]]) -> Iterator[list[tuple[int, int]]]:
    """Divides positions (offset, bytes) into lists that are read in one request."""
    chunk: list = []
    for offset, size in positions:
        if chunk:
            end = sum(chunk[-1])
            is_near = end <= offset <= end + _MAX_GAP
            total_size = offset + size - chunk[0][0]
            if not is_near or total_size > _READ_BYTES or len(chunk) == _READ_RECORDS:
                yield chunk
                chunk = []
        chunk.append((offset, size))
    if chunk:
        yield chunk


def image_fault(content: bytes) -> ImageError | None:
    """Returns the reason why training cannot decode an image, or None.

    A JPEG with a valid header and an end marker is not decoded, to save time.
    """
    if _END_OF_JPEG in content[-64:] and _is_jpeg(content):
        return None
    try:
        if not content:
            raise ImageError("missing", "no bytes")
        # Raises for SVG drawings, which training does not decode.
        open_image(content)
        decode_rgb(content)
    except ImageError as error:
        return error
    return None


def _is_jpeg(content: bytes) -> bool:
    """Returns True for the header of a common JPEG that is not too large."""
    position = 2
    with contextlib.suppress(struct.error):  # The header is truncated.
        while content.startswith(b"\xff\xd8"):
            marker, length = struct.unpack_from(">HH", content, position)
            # Start of a baseline, extended sequential or progressive frame.
            if 0xFFC0 <= marker <= 0xFFC2:
                header = struct.unpack_from(">BHHB", content, position + 4)
                bits, height, width, channels = header
                fits = 0 < height * width <= MAX_PIXELS
                return bits == 8 and channels in (1, 3, 4) and fits
            if marker < 0xFFC4 or marker == 0xFFDA:
                return False
            position += 2 + length
    return False


@functools.lru_cache(maxsize=64)
def open_record_index(file_info: str) -> RecordIndex:
    """Opens an index, or returns it from a cache.

    Args:
        file_info: element of the result of `index_files` as JSON.
    """
    return RecordIndex(json.loads(file_info))
