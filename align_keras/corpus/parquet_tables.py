"""Reading and writing of Parquet files, such as the tables between corpus stages."""

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

from align_keras.utils.addresses import is_url
from align_keras.utils.errors import InputError, needs
from align_keras.utils.files import atomic_path
from align_keras.utils.remote import open_url

ROWS_PER_GROUP = 50_000
# String columns of a pair that describe its caption.
TEXTS = ("caption", "rule", "language", "page_url", "source")
# Rows. The arrays of a batch of this size fit in the caches of the processor.
ROWS_PER_BATCH = 32_768


def arrow(alternative: str = "") -> Any:
    """Imports pyarrow and returns the module.

    Args:
        alternative: alternative to the installation for the error message.

    Raises:
        InputError: if pyarrow is not installed.
    """
    with needs("parquet", "Parquet files need pyarrow", alternative):
        import pyarrow
        import pyarrow.parquet
    return pyarrow


def pair_schema() -> Any:
    """Returns the schema of a table of pairs.

    `width` and `height` are the size of the image on the web if the source records it.
    Otherwise they are the size of the image file, or 0 for an image that is not
    downloaded. `is_resized` is true if only the size after resizing is known.
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
    """Creates a Parquet file as a context manager.

    The file appears under its name when the context ends without an error.

    Args:
        path: path of the file.
        schema: `pyarrow.Schema`.
        rows_per_group: least number of rows that are written as a row group.
        batches: True if `pyarrow.RecordBatch`es are appended instead of dicts.

    Yields:
        Function that appends a list of rows (dict) or of batches.
    """
    pa = arrow()
    to_table = pa.Table.from_batches if batches else pa.Table.from_pylist
    buffer: list = []
    with (
        atomic_path(path) as temporary,
        pa.parquet.ParquetWriter(temporary, schema, compression="zstd") as writer,
    ):

        def flush() -> None:
            table = to_table(buffer, schema)
            writer.write_table(table, row_group_size=rows_per_group)
            buffer.clear()

        def append(parts: list) -> None:
            buffer.extend(parts)
            row_count = sum(map(len, buffer)) if batches else len(buffer)
            if row_count >= rows_per_group:
                flush()

        yield append
        flush()


def read_rows(
    path: str | os.PathLike, columns: list[str] | None = None
) -> Iterator[dict]:
    """Yields the rows of a Parquet file as dicts."""
    for batch in read_batches(path, columns, 2_000):
        yield from batch.to_pylist()


def open_parquet(path: str) -> Any:
    """Opens a Parquet file.

    Args:
        path: path or address.

    Returns:
        `pyarrow.parquet.ParquetFile`.

    Raises:
        OSError: if the file cannot be read or is damaged.
    """
    pyarrow = arrow()
    with arrow_errors_as_os_errors():
        return pyarrow.parquet.ParquetFile(open_url(path) if is_url(path) else path)


@contextlib.contextmanager
def arrow_errors_as_os_errors() -> Iterator[None]:
    """Converts the errors that damaged files raise to an `OSError` without `errno`."""
    try:
        yield
    except (OSError, InputError):
        raise
    except (
        Exception
    ) as error:  # Damaged names and texts raise errors of Python instead of pyarrow.
        raise OSError(" ".join(str(error).split())) from error


def read_batches(
    path: str | os.PathLike, columns: list[str] | None = None, rows: int | None = None
) -> Iterator:
    """Yields the rows of a table as `pyarrow.RecordBatch`es.

    Args:
        path: path of a Parquet file.
        columns: names of columns, or None for all.
        rows: rows per batch, by default `ROWS_PER_BATCH`.
    """
    with open_parquet(os.fspath(path)) as table:
        yield from table.iter_batches(rows or ROWS_PER_BATCH, columns=columns)


def string_list(column: Any) -> list[str]:
    """Converts a `pyarrow` string column to a list, with "" for nulls."""
    return column.fill_null("").to_pylist() if column.null_count else column.to_pylist()
