"""Reading of indexed shards (tar, TFRecord, Parquet, Arrow) from any record."""

import collections
import contextlib
import functools
import itertools
import json
import operator
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from align_keras.corpus.parquet_tables import arrow, open_parquet
from align_keras.corpus.sources.location import image_of_cell
from align_keras.corpus.sources.source_files import one_file
from align_keras.utils.addresses import is_url
from align_keras.utils.errors import ImageError, InputError
from align_keras.utils.files import MAX_PIXELS, open_regular
from align_keras.utils.pillow_images import decode_rgb, open_image
from align_keras.utils.remote import read_url

TABLES = ("parquet", "arrow")
# Limits of one read request: bytes, and number of records.
_READ_BYTES, _READ_RECORDS = 4_000_000, 64
# Bytes. A gap of at most this size between two images is read with them, because a
# second request would take longer.
_MAX_GAP = 65_536
# Rows per batch if single rows of a table are read.
_ROWS_PER_BATCH = 32
_END_OF_JPEG = b"\xff\xd9"


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
    """

    def __init__(self, file_info: dict[str, Any]) -> None:
        self.file_info = file_info
        self.path = file_info["path"]
        self.kind = file_info["kind"]
        with np.load(file_info["index"]) as stored:
            self.positions, self.numbers = stored["places"], stored["numbers"]
            self._text_bounds = np.append(0, stored["ends"])
            self._texts = stored["texts"].tobytes()
            self._column = str(stored["column"])
            # Only the index of a file with several sources of captions has it.
            self._sources = stored.get("sources")
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
        read = self._cells if self.kind in TABLES else self._spans
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
            return read_url(self.path, offset, size)
        self.check_unchanged()
        with open_regular(self.path) as file:
            file.seek(offset)
            return file.read(size)

    def _cells(self, positions: list[list[int]]) -> Iterator[bytes]:
        """Yields the images at positions (row group or offset, row) of a table."""
        rows_of_groups = {
            group: collections.deque(row for _, row in rows)
            for group, rows in itertools.groupby(positions, operator.itemgetter(0))
        }
        batches = parquet_batches if self.kind == "parquet" else arrow_batches
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


def read_schema(path: str, kind: str) -> Any:
    """Returns the `pyarrow.Schema` of a table."""
    if kind == "parquet":
        with open_parquet(path) as table:
            return table.schema_arrow
    with _open_arrow(path) as file:
        return arrow().ipc.open_stream(file).schema


def parquet_batches(
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


def arrow_batches(
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
