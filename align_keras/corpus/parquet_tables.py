"""Parquet files, and the tables between the stages: written whole, read in batches."""

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from typing import Any

from align_keras.utils.errors import InputError, needs
from align_keras.utils.files import atomic_path, is_special
from align_keras.utils.remote import is_url, open_url

ROWS_PER_GROUP = 50_000
TEXTS = ("caption", "rule", "language", "page_url", "source")
# Rows. The arrays of a batch of this size fit in the caches of the processor.
ROWS_PER_BATCH = 32_768


def arrow(otherwise: str = "") -> Any:
    """Returns the module pyarrow; `otherwise` is as of `needs`."""
    with needs("corpus", "Parquet is read and written by pyarrow", otherwise):
        import pyarrow
        import pyarrow.parquet
    return pyarrow


def pair_schema() -> Any:
    """Returns the schema of a table of pairs.

    `width` and `height` are those of the image on the web where the source records
    them, otherwise those of the stored file, and 0 until the image is fetched.
    `is_resized` is true if only the size after resizing is known.
    """
    pa = arrow()
    kinds = dict.fromkeys(("image", "image_key"), pa.string())
    kinds |= dict.fromkeys(("width", "height"), pa.int32())
    kinds["is_resized"] = pa.bool_()
    return pa.schema(kinds | dict.fromkeys(TEXTS, pa.string()))


@contextlib.contextmanager
def table_writer(
    path: str | os.PathLike,
    schema: Any,
    rows_per_group: int = ROWS_PER_GROUP,
    *,
    batches: bool = False,
) -> Iterator[Callable]:
    """Yields a function that appends a list of dict, or of batches, to a new file."""
    pa = arrow()
    to_table = pa.Table.from_batches if batches else pa.Table.from_pylist
    waiting: list = []
    with (
        atomic_path(path) as temporary,
        pa.parquet.ParquetWriter(temporary, schema, compression="zstd") as writer,
    ):

        def flush() -> None:
            table = to_table(waiting, schema)
            writer.write_table(table, row_group_size=rows_per_group)
            waiting.clear()

        def append(parts: list) -> None:
            waiting.extend(parts)
            rows = sum(map(len, waiting)) if batches else len(waiting)
            if rows >= rows_per_group:
                flush()

        yield append
        flush()


def read_rows(
    path: str | os.PathLike, columns: list[str] | None = None
) -> Iterator[dict]:
    """Yields the rows of a Parquet file as dict, a group at a time."""
    for batch in read_batches(path, columns, 2_000):
        yield from batch.to_pylist()


def open_parquet(path: str) -> Any:
    """Opens a `pyarrow.parquet.ParquetFile`; what is broken raises OSError."""
    pyarrow = arrow()
    if is_special(path):
        raise OSError(errno.EINVAL, "not a regular file", path)
    with faults_of_arrow():
        return pyarrow.parquet.ParquetFile(open_url(path) if is_url(path) else path)


@contextlib.contextmanager
def faults_of_arrow() -> Iterator[None]:
    """Raises as OSError without a number what broken files lead to."""
    try:
        yield
    except (OSError, InputError):
        raise
    except Exception as error:  # Arrow's own, and Python's of broken names and texts.
        raise OSError(" ".join(str(error).split())) from error


def open_table(path: str | os.PathLike) -> Any:
    """Opens a Parquet table of the corpus."""
    try:
        return open_parquet(os.fspath(path))
    except OSError as error:
        raise InputError(
            f"a table of pairs must be a Parquet file, {path} can't be read "
            f"({' '.join(str(error).split())}); run the stage that wrote it again."
        ) from None


def read_batches(
    path: str | os.PathLike, columns: list[str] | None = None, rows: int | None = None
) -> Iterator:
    """Yields the `pyarrow.RecordBatch`es of a table."""
    with open_table(path) as table:
        yield from table.iter_batches(rows or ROWS_PER_BATCH, columns=columns)


def string_list(column: Any) -> list[str]:
    """Returns a `pyarrow` string column as a list, "" for nulls."""
    return column.fill_null("").to_pylist() if column.null_count else column.to_pylist()
