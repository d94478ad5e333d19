"""Index of the images of shards with their cleaned captions: an index per file, built
once, by which training begins at any record of tars, TFRecord, Parquet and Arrow files.
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
from align_keras.corpus.image import ImageError, normalize_image, open_image
from align_keras.corpus.parquet_tables import arrow, open_parquet
from align_keras.corpus.sources.pair import Part, columns_of
from align_keras.corpus.sources.parquet_files import image_column_of
from align_keras.corpus.sources.source import read_part
from align_keras.corpus.sources.source_files import SourceFile, one_file
from align_keras.utils.errors import InputError
from align_keras.utils.files import (
    MAX_FILE_BYTES,
    MAX_PIXELS,
    atomic_write,
    open_regular,
)
from align_keras.utils.progress import say
from align_keras.utils.remote import is_url, join_url, read_url
from align_keras.utils.tasks import run_tasks

RECORD_KINDS = ("webdataset", "tfrecord", "parquet", "arrow")
_TABLES = ("parquet", "arrow")
# Part of every index's name: another form is another version.
_VERSION = 1
# Records of a stretch, the part of a file that training reads in order. A stretch of a
# table ends with a row group.
RECORDS_PER_STRETCH = 10_000
# Below this, starting processes takes longer than reading.
_BYTES_ALONE = 1_000_000_000
# Limits of one read: bytes, records, and bytes between two images that are read instead
# of sent as a second request.
_READ_BYTES, _READ_RECORDS, _GAP = 4_000_000, 64, 65_536
_ROWS_AT_ONCE = 32
_END_OF_JPEG = b"\xff\xd9"
# Position of a record, as two numbers, and its captions.
_Row = tuple[tuple[int, int], list[str]]


# === Building ===


def index_files(
    kind: str,
    root: str,
    files: list[SourceFile],
    image_column: str | None = None,
    caption_column: str | None = None,
) -> list[dict[str, Any]]:
    """Indexes the records of files.

    A file is indexed again if its name, size or time of change is another.

    Args:
        kind: str, one of `RECORD_KINDS`.
        root: str, folder or address of the files.
        files: list of `SourceFile`.
        image_column: str, column of images in tables, or None to find it.
        caption_column: str, column of captions in tables, or None to find it.

    Returns:
        list with a dict per file: `path`, `size`, `modified`, `kind`, `count` (number
        of records), `stretches` (first records of the parts that training reads at
        once), `counts` (of a `DropCounter`) and `index` (path for `RecordIndex`).
    """
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    folder = pathlib.Path(home, "align_keras", "source_indexes")
    join = join_url if is_url(root) else os.path.join
    common = {"kind": kind, "version": _VERSION, "folder": os.fspath(folder)}
    columns = {"image_column": image_column, "caption_column": caption_column}
    tasks = [
        {**common, **columns, "path": join(root, file.name), **file._asdict()}
        for file in files
    ]
    alone = sum(file.size for file in files) < _BYTES_ALONE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        results = run_tasks(_index_file, tasks, folder, workers=1 if alone else None)
    except PermissionError as error:
        raise InputError(
            f"the cache {folder} must be writable for the index of {root}, but isn't "
            f"({error.strerror}); set XDG_CACHE_HOME to another folder."
        ) from None
    keys = ("path", "size", "modified")
    return [
        {**{key: task[key] for key in keys}, **value, "kind": kind}
        for task, value in zip(tasks, results, strict=True)
    ]


def _index_file(task: dict[str, Any]) -> dict[str, Any]:
    """A task of `index_files`."""
    say(f"indexing {task['path']}")
    counter, kind = DropCounter(), task["kind"]
    if kind in _TABLES:
        rows, column = _table_rows(task, counter)
    else:
        rows, column = _span_rows(task, counter), ""
    places, texts, numbers = [], [], []
    for place, captions in rows:
        places.append(place)
        numbers.append(len(captions))
        texts += [caption.encode() for caption in captions]
        counter.keep()
    if counter.bad["vanished"]:
        raise InputError(f"{counter.examples['vanished']}; put it back and run again.")
    table = np.array(places, "int64").reshape(-1, 2)
    name = hashlib.blake2b(json.dumps(task, sort_keys=True).encode(), digest_size=16)
    index = pathlib.Path(task["folder"], f"{name.hexdigest()}.npz")
    with atomic_write(index, "wb") as file:
        np.savez(
            file,
            places=table,
            numbers=np.array(numbers, "int64"),
            ends=np.cumsum([len(text) for text in texts], dtype="int64"),
            texts=np.frombuffer(b"".join(texts), "uint8"),
            column=np.array(column),
        )
    return {
        "count": len(places),
        "stretches": _stretches(table, kind),
        "counts": counter.as_metadata(),
        "index": os.fspath(index),
    }


def _stretches(places: np.ndarray, kind: str) -> list[int]:
    """The first records of the stretches into which a file is parted."""
    if kind not in _TABLES:
        return list(range(0, len(places), RECORDS_PER_STRETCH))
    begins = [0]
    for begin in np.flatnonzero(np.diff(places[:, 0])) + 1:
        if begin - begins[-1] >= RECORDS_PER_STRETCH:
            begins.append(int(begin))
    return begins if len(places) else []


def _span_rows(task: dict[str, Any], counter: DropCounter) -> Iterator[_Row]:
    """Yields ((offset, bytes), [caption]) of a tar or TFRecord file."""
    root, name = os.path.split(task["path"])
    for pair in read_part(Part(task["kind"], root, (name,)), counter):
        offset, size = map(int, pair.image.split(":", 2)[1].split(","))
        if size > MAX_FILE_BYTES or not size:
            reason = "oversized" if size else "empty"
            counter.drop(reason, pair.image, f"{size:,} bytes")
        else:
            yield (offset, size), [pair.caption]


def _table_rows(
    task: dict[str, Any], counter: DropCounter
) -> tuple[Iterator[_Row], str]:
    """Returns ((place of the batch, row), captions), and the column of images."""
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
        "jpg, png, webp or image with the files' bytes, or Hugging Face's",
    )
    caption = _checked_column(
        path,
        names,
        "caption",
        task["caption_column"] or columns_of_parts.get("caption"),
        "caption, text, alt_text and others",
    )
    columns = [caption, *{"status", "error_message"}.intersection(names)]
    return _rows_of_tables(task, columns, caption, counter), image


def _checked_column(
    path: str, names: list[str], part: str, column: str | None, examples: str
) -> str:
    """Returns the column of a part of a pair. Raises if the table has no such one."""
    if column is None or column not in names:
        raise InputError(
            f"{path} must have a column of {part}s ({examples}), received "
            f"{column or 'none'} among {', '.join(names)}; name it as "
            f"task.train_data.{part}_column."
        )
    return column


def _rows_of_tables(
    task: dict[str, Any], columns: list[str], caption: str, counter: DropCounter
) -> Iterator[_Row]:
    batches = _parquet_batches if task["kind"] == "parquet" else _arrow_batches
    path, place, row = task["path"], 0, -1
    try:
        for place, first, batch in batches(path, columns):
            for row, values in enumerate(batch.to_pylist(), first):
                where = f"{path} row {place},{row}"
                if values.get("status") not in (None, "success"):
                    detail = str(values.get("error_message", ""))
                    counter.filter("not downloaded", where, detail)
                elif captions := _usable(values[caption], counter, where):
                    yield (place, row), captions
    except (OSError, arrow().ArrowException) as error:
        detail = " ".join(str(error).split())
        counter.drop("broken record", f"{path} behind row {place},{row}", detail)


def _usable(value: object, counter: DropCounter, where: str) -> list[str]:
    texts = value if isinstance(value, list) and value else [value]
    cleaned = [clean_caption(text) if isinstance(text, str) else "" for text in texts]
    counts = DropCounter()
    usable = [text for text in cleaned if is_usable(text, counts, where, "")]
    if not usable:  # A row counts once, whatever its captions lack.
        is_usable(cleaned[0], counter, where, "")
    return [text.encode("utf-8", "replace").decode() for text in usable]


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
                _ROWS_AT_ONCE if groups else 4096, row_groups=[group], columns=columns
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
            place = file.tell()
            try:
                message = ipc.read_message(file)
            except EOFError:
                return
            batch = ipc.read_record_batch(message, schema)
            yield place, 0, batch.select(columns)


def _open_arrow(path: str) -> Any:
    pyarrow = arrow()
    if is_url(path):
        return pyarrow.PythonFile(open_regular(path), "r")
    return pyarrow.memory_map(path)


# === Reading ===


class RecordIndex:
    """The records of an indexed file; `about` is what `index_files` returned of it."""

    def __init__(self, about: dict[str, Any]) -> None:
        self.about, self.path, self.kind = about, about["path"], about["kind"]
        try:
            with np.load(about["index"]) as kept:
                self.places, self.numbers = kept["places"], kept["numbers"]
                self._bounds = np.append(0, kept["ends"])
                self._texts, self._column = kept["texts"].tobytes(), str(kept["column"])
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise InputError(
                f"the index {about['index']} of {self.path} must be whole, but isn't "
                f"({error}); remove its folder, and it is built anew."
            ) from None
        self._first = np.cumsum(self.numbers) - self.numbers

    def __len__(self) -> int:
        return len(self.places)

    def arrays(self) -> list[np.ndarray]:
        """The places of the images, and the captions of all records."""
        texts = np.frombuffer(self._texts, np.uint8)
        return [self.places, self.numbers, self._bounds, texts]

    def captions(self, number: int) -> list[bytes]:
        """The captions of a record."""
        first = self._first[number]
        bounds = self._bounds[first : first + self.numbers[number] + 1].tolist()
        return [self._texts[slice(*span)] for span in itertools.pairwise(bounds)]

    def name(self, number: int) -> str:
        """Names a record by its file and place."""
        place, row = self.places[number]
        return f"{os.path.basename(self.path)}@{place},{row}"

    def check_unchanged(self) -> None:
        """Raises if the file isn't the one that was indexed."""
        file, about = one_file(self.path), self.about
        state = None if file is None else (file.size, file.modified)
        if state != (about["size"], about["modified"]):
            problem = "has gone" if file is None else "has changed"
            raise InputError(
                f"a source must stay as it is while it is read, but {self.path} "
                f"{problem}; run again, which indexes it anew, or put it back."
            )

    def sound_images(self, start: int, stop: int) -> Iterator[tuple[int, bytes, list]]:
        """Yields (number of the record, image, faults) of a range. For a faulty image
        stands the file's next sound one, with (number, `ImageError`) of each left out.
        """
        numbers = itertools.chain(range(start, len(self)), range(len(self)))
        images = (self._images(*r) for r in ((start, stop), (stop, None), (0, None)))
        faults: list[tuple[int, ImageError]] = []
        seen = done = 0
        read = itertools.chain.from_iterable(images)
        for number, image in zip(numbers, read, strict=True):
            seen += 1
            fault = image_fault(image)
            if fault is not None:
                faults.append((number, fault))
                continue
            for _ in range(min(seen, stop - start) - done):
                yield number, image, faults
                faults = []
            done = min(seen, stop - start)
            if done == stop - start:
                return
        raise InputError(
            f"{self.path} must hold an image that can be read, but none of its "
            f"{len(self)} can ({faults[-1][1]}); leave it out."
        )

    def _images(self, start: int, stop: int | None) -> Iterator[bytes]:
        """Yields the images' bytes of a range of records; b"" where one lacks."""
        self.check_unchanged()
        read = self._cells if self.kind in _TABLES else self._spans
        return read(self.places[start:stop].tolist())

    def _spans(self, places: list[list[int]]) -> Iterator[bytes]:
        for chunk in _chunks(places):
            begin = chunk[0][0]
            content = self._read(begin, sum(chunk[-1]) - begin)
            for offset, size in chunk:
                yield content[offset - begin : offset - begin + size]

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

    def _cells(self, places: list[list[int]]) -> Iterator[bytes]:
        rows_of = {
            place: collections.deque(row for _, row in rows)
            for place, rows in itertools.groupby(places, operator.itemgetter(0))
        }
        batches = _parquet_batches if self.kind == "parquet" else _arrow_batches
        for place, first, batch in batches(self.path, [self._column], iter(rows_of)):
            column, rows = batch.column(0), rows_of[place]
            while rows and rows[0] < first + len(column):
                value = column[rows.popleft() - first].as_py()
                value = value.get("bytes") if isinstance(value, dict) else value
                yield value if isinstance(value, bytes) else b""


def _chunks(places: Iterable[Sequence[int]]) -> Iterator[list[tuple[int, int]]]:
    """Shares places out, what lies close together at a time."""
    chunk: list = []
    for offset, size in places:
        if chunk:
            end = sum(chunk[-1])
            is_near = end <= offset <= end + _GAP
            total = offset + size - chunk[0][0]
            if not is_near or total > _READ_BYTES or len(chunk) == _READ_RECORDS:
                yield chunk
                chunk = []
        chunk.append((offset, size))
    if chunk:
        yield chunk


def image_fault(content: bytes) -> ImageError | None:
    """Says what keeps training from decoding an image; believes whole JPEGs."""
    if _END_OF_JPEG in content[-64:] and _is_jpeg(content):
        return None
    try:
        if not content:
            raise ImageError("missing", "no bytes")
        open_image(content)  # Raises for SVG drawings, which training does not decode.
        normalize_image(content)
    except ImageError as error:
        return error
    return None


def _is_jpeg(content: bytes) -> bool:
    """Returns True for the start of a usual JPEG that is not too large."""
    position = 2
    with contextlib.suppress(struct.error):  # It ends before.
        while content.startswith(b"\xff\xd8"):
            marker, length = struct.unpack_from(">HH", content, position)
            if 0xFFC0 <= marker <= 0xFFC2:  # Baseline, extended, progressive.
                header = struct.unpack_from(">BHHB", content, position + 4)
                bits, height, width, channels = header
                fits = 0 < height * width <= MAX_PIXELS
                return bits == 8 and channels in (1, 3, 4) and fits
            if marker < 0xFFC4 or marker == 0xFFDA:
                return False
            position += 2 + length
    return False


@functools.lru_cache(maxsize=64)
def open_record_index(about: str) -> RecordIndex:
    """Opens an index, or finds it opened; `about` is JSON."""
    return RecordIndex(json.loads(about))
