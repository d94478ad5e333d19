"""Tables between the stages: Parquet, written whole and read in batches."""

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

from align_keras.utils.errors import InputError, needs
from align_keras.utils.files import atomic_path

ROWS_PER_GROUP = 50_000
_TEXTS = ("image", "image_key", "caption", "rule", "language", "page_url", "source")
# A batch's arrays stay in the processor's caches or near them.
_ROWS_AT_ONCE = 32_768


def arrow(otherwise: str = "") -> Any:
    """Returns the module pyarrow; `otherwise` is as of `needs`."""
    with needs("corpus", "Parquet is read and written by pyarrow", otherwise):
        import pyarrow
        import pyarrow.parquet
    return pyarrow


def pair_schema() -> Any:
    """Returns the schema of a table of pairs; an unknown width and height are 0."""
    pa = arrow()
    fields = {name: pa.string() for name in _TEXTS}
    order = ("image", "image_key", "width", "height", *_TEXTS[2:])
    return pa.schema([(name, fields.get(name, pa.int32())) for name in order])


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

        def flush():
            table = to_table(waiting, schema)
            writer.write_table(table, row_group_size=rows_per_group)
            waiting.clear()

        def append(parts):
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
    with arrow().parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=2_000, columns=columns):
            yield from batch.to_pylist()


def open_table(path: str | os.PathLike) -> Any:
    """Opens a Parquet table of the corpus."""
    pyarrow = arrow()
    try:
        return pyarrow.parquet.ParquetFile(path)
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise InputError(
            f"a table of pairs must be a Parquet file, {path} can't be read "
            f"({' '.join(str(error).split())}); run the stage that wrote it again."
        ) from None


def read_batches(path: str | os.PathLike, columns: list[str] | None = None) -> Iterator:
    """Yields the `pyarrow.RecordBatch`es of a table."""
    with open_table(path) as table:
        yield from table.iter_batches(_ROWS_AT_ONCE, columns=columns)


def strings(column: Any) -> list[str]:
    """Returns a `pyarrow` string column as a list, "" for nulls."""
    return column.fill_null("").to_pylist() if column.null_count else column.to_pylist()
