"""Files of a bulk embedding job: the rows of the source, and the shards of the output.

Parquet files keep the types of the columns and need pyarrow. NumPy files are written
with JSON lines for the columns, and need no further package.
"""

import dataclasses
import importlib.util
import itertools
import json
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from align_keras.corpus.parquet_tables import arrow
from align_keras.utils.files import atomic_path, atomic_write

EMBEDDING_FORMATS = ("parquet", "npy")
# Column of the stored rows with the path or the text to embed, as bytes. It is not in
# the output.
INPUT_COLUMN = "align_keras:embedded"


@dataclasses.dataclass(frozen=True)
class SourceRows:
    """Rows of a source.

    Attributes:
        columns: dict from the name of a column to its values, a list or an Arrow
            column.
        inputs: list of bytes, the path or the text to embed of each row. A row without
            a value is None.
    """

    columns: Mapping[str, Any]
    inputs: list[bytes | None]


@dataclasses.dataclass(frozen=True)
class RowResult:
    """Result for a row: its embedding, float32 (d,), or the reason for its absence."""

    vector: np.ndarray | None = None
    problem: str | None = None


class ShardFiles(Protocol):
    """Files of a job in one format. A chunk is some consecutive rows of a shard."""

    # Stored rows of the source, a file or a folder.
    rows_path: pathlib.Path

    def store_rows(self, rows: SourceRows, rows_per_shard: int) -> None:
        """Stores the rows of the source, so that a resumed job has the same rows."""

    def read_chunks(
        self, shard: int, size: int
    ) -> Iterator[tuple[Any, list[bytes | None]]]:
        """Yields the columns and the inputs of the stored rows of a shard.

        Args:
            shard: int, number of the shard.
            size: int, largest number of rows in a chunk.
        """

    def write(
        self, path: pathlib.Path, chunks: Sequence[Any], results: Sequence[RowResult]
    ) -> None:
        """Writes a shard.

        Args:
            path: path of the shard.
            chunks: columns of its chunks, from `read_chunks`.
            results: `RowResult` of each row.
        """

    def remove_rows(self) -> None:
        """Removes the stored rows."""


class ParquetFiles(ShardFiles):
    """Shards as Parquet files.

    Args:
        folder: folder of the job.
    """

    ROWS = "rows.parquet"

    def __init__(self, folder: pathlib.Path) -> None:
        self.rows_path = folder / self.ROWS

    def store_rows(self, rows: SourceRows, rows_per_shard: int) -> None:
        pa = arrow()
        columns = {name: _arrow_column(rows.columns[name]) for name in rows.columns}
        table = pa.table({**columns, INPUT_COLUMN: pa.array(rows.inputs, pa.binary())})
        with atomic_path(self.rows_path) as temporary:
            # Each row group of the file contains the rows of one shard.
            pa.parquet.write_table(table, temporary, row_group_size=rows_per_shard)

    def read_chunks(
        self, shard: int, size: int
    ) -> Iterator[tuple[Any, list[bytes | None]]]:
        with arrow().parquet.ParquetFile(self.rows_path) as file:
            for batch in file.iter_batches(size, row_groups=[shard]):
                names = [name for name in batch.schema.names if name != INPUT_COLUMN]
                yield batch.select(names), batch.column(INPUT_COLUMN).to_pylist()

    def write(
        self, path: pathlib.Path, chunks: Sequence[Any], results: Sequence[RowResult]
    ) -> None:
        pa = arrow()
        table = pa.Table.from_batches(chunks)
        vectors = [result.vector for result in results]
        problems = [result.problem for result in results]
        # The lists have a variable size, because Arrow cannot read null values back
        # from lists of a fixed size.
        vector_type = pa.list_(pa.float32())
        table = table.append_column("embedding", pa.array(vectors, vector_type))
        table = table.append_column("problem", pa.array(problems, pa.string()))
        with atomic_path(path) as temporary:
            pa.parquet.write_table(table, temporary, compression="zstd")

    def remove_rows(self) -> None:
        self.rows_path.unlink(missing_ok=True)


class NumpyFiles(ShardFiles):
    """Shards as NumPy files with the embeddings, and JSON lines with the columns.

    Args:
        folder: folder of the job.
        dimension: int, width of the embeddings.
    """

    ROWS = "rows"

    def __init__(self, folder: pathlib.Path, dimension: int) -> None:
        self.rows_path = folder / self.ROWS
        self._dimension = dimension

    def store_rows(self, rows: SourceRows, rows_per_shard: int) -> None:
        shutil.rmtree(self.rows_path, ignore_errors=True)
        self.rows_path.mkdir()
        starts = range(0, len(rows.inputs), rows_per_shard)
        for shard, start in enumerate(starts):
            stop = min(start + rows_per_shard, len(rows.inputs))
            columns = {
                name: _as_list(values[start:stop])
                for name, values in rows.columns.items()
            }
            with atomic_write(self._rows_of(shard)) as file:
                for row in range(stop - start):
                    content = {name: values[row] for name, values in columns.items()}
                    path_or_text = rows.inputs[start + row]
                    if path_or_text is not None:
                        content[INPUT_COLUMN] = os.fsdecode(path_or_text)
                    # Names of files that are not UTF-8 are stored as ASCII.
                    file.write(json.dumps(content, default=str) + "\n")

    def read_chunks(
        self, shard: int, size: int
    ) -> Iterator[tuple[Any, list[bytes | None]]]:
        with open(self._rows_of(shard), encoding="utf-8") as lines:
            while chunk := list(itertools.islice(lines, size)):
                rows = [json.loads(line) for line in chunk]
                inputs = [row.pop(INPUT_COLUMN, None) for row in rows]
                yield rows, [None if i is None else os.fsencode(i) for i in inputs]

    def write(
        self, path: pathlib.Path, chunks: Sequence[Any], results: Sequence[RowResult]
    ) -> None:
        rows = [row for chunk in chunks for row in chunk]
        with atomic_write(path.with_suffix(".jsonl")) as lines:
            for row, result in zip(rows, results, strict=True):
                if result.problem is not None:
                    row["problem"] = result.problem
                lines.write(_json_line(row))
        missing = np.full(self._dimension, np.nan, np.float32)
        vectors = [result.vector for result in results]
        array = np.stack([missing if v is None else v for v in vectors])
        # The NPY file is written last, because its existence marks the shard as
        # complete.
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.save(file, array)

    def remove_rows(self) -> None:
        shutil.rmtree(self.rows_path, ignore_errors=True)

    def _rows_of(self, shard: int) -> pathlib.Path:
        return self.rows_path / f"{shard:05}.jsonl"


# Names of the stored rows of all formats.
ROWS_NAMES = (ParquetFiles.ROWS, NumpyFiles.ROWS)


def open_shard_files(folder: pathlib.Path, format: str, dimension: int) -> ShardFiles:
    """Returns the files of a job.

    Args:
        folder: folder of the job.
        format: one of `EMBEDDING_FORMATS`.
        dimension: int, width of the embeddings.
    """
    if format == "parquet":
        return ParquetFiles(folder)
    return NumpyFiles(folder, dimension)


def default_format() -> str:
    """Returns `"parquet"` if pyarrow is installed, and `"npy"` otherwise."""
    return "npy" if importlib.util.find_spec("pyarrow") is None else "parquet"


def _arrow_column(values: Any) -> Any:
    """Returns an Arrow column. Values of mixed types are converted to JSON."""
    pa = arrow()
    if not isinstance(values, list):
        return values
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeEncodeError):
        return pa.array([None if v is None else json.dumps(v) for v in values])


def _as_list(values: Any) -> list[Any]:
    """Returns the values of a list or of an Arrow column."""
    return values if isinstance(values, list) else values.to_pylist()


def _json_line(row: dict[str, Any]) -> str:
    """Returns a row as a line of JSON in UTF-8."""
    line = json.dumps(row, ensure_ascii=False)
    try:
        line.encode()
    except UnicodeEncodeError:
        # A text within a list or an object has half of a surrogate pair.
        line = json.dumps(row)
    return line + "\n"
