"""Tables between the stages: Parquet, written whole and read in batches."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from align_keras.utils.errors import InputError, needs
from align_keras.utils.files import atomic_path

ROWS_PER_GROUP = 50_000
_TEXTS = ("image", "image_key", "caption", "rule", "language", "page_url", "source")


def arrow(otherwise: str = "") -> Any:
    """Returns the module pyarrow.

    Args:
        otherwise: str, another way out than to install it, as `needs`.

    Raises:
        InputError: if it isn't installed.
    """
    with needs("corpus", "Parquet is read and written by pyarrow", otherwise):
        import pyarrow
        import pyarrow.parquet
    return pyarrow


def pair_schema() -> Any:
    """Returns the schema of a table of pairs, a `pyarrow.Schema`.

    `image` says where the image is, `image_key` names it by its bytes (an image
    that isn't here yet by its URL), `width` and `height` are in pixels and 0 where
    unknown, `rule` says where the caption stood, `page_url` and `source` where the
    pair came from.
    """
    pa = arrow()
    fields = {name: pa.string() for name in _TEXTS}
    order = ("image", "image_key", "width", "height", *_TEXTS[2:])
    return pa.schema([(name, fields.get(name, pa.int32())) for name in order])


@contextlib.contextmanager
def table_writer(
    path: str | os.PathLike, schema: Any, rows_per_group: int = ROWS_PER_GROUP
) -> Iterator[Callable]:
    """Yields a function that appends a list of dict to a new Parquet file.

    The file has its name when the block ends without an error, whole. Equal rows make
    equal bytes.

    Args:
        path: str or `pathlib.Path`.
        schema: `pyarrow.Schema`.
        rows_per_group: int >= 1, rows that wait in memory: few where they are large.
    """
    pa = arrow()
    waiting: list[dict] = []
    with (
        atomic_path(path) as temporary,
        pa.parquet.ParquetWriter(temporary, schema, compression="zstd") as writer,
    ):

        def flush():
            table = pa.Table.from_pylist(waiting, schema)
            writer.write_table(table, row_group_size=rows_per_group)
            waiting.clear()

        def append(rows):
            waiting.extend(rows)
            if len(waiting) >= rows_per_group:
                flush()

        yield append
        flush()


def read_rows(
    path: str | os.PathLike, columns: list[str] | None = None
) -> Iterator[dict]:
    """Yields the rows of a Parquet file as dict, a group at a time.

    Args:
        path: str or `pathlib.Path`.
        columns: list of str, or None for all.
    """
    with arrow().parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=2_000, columns=columns):
            yield from batch.to_pylist()


# A batch's arrays stay in the processor's caches or near them.
_ROWS_AT_ONCE = 32_768


def open_table(path: str | os.PathLike) -> Any:
    """Opens a Parquet table.

    Args:
        path: str or path.

    Returns:
        `pyarrow.parquet.ParquetFile`.

    Raises:
        InputError: if pyarrow isn't installed, or the file is missing or no table.
    """
    pyarrow = arrow()
    try:
        return pyarrow.parquet.ParquetFile(path)
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise InputError(
            f"a table of pairs must be a Parquet file, {path} can't be read "
            f"({' '.join(str(error).split())}); run the stage that wrote it again."
        ) from None


def read_columns(
    path: str | os.PathLike, names: Sequence[str]
) -> Iterator[dict[str, list[str]]]:
    """Yields batches of a table's columns.

    Args:
        path: str or path of a Parquet table.
        names: sequence of str, the columns.

    Yields:
        dict by name: list of str, `""` for nulls.

    Raises:
        InputError: as `open_table`, or if a column is missing.
    """
    with open_table(path) as table:
        check_columns(path, table, names)
        for batch in table.iter_batches(_ROWS_AT_ONCE, columns=list(names)):
            yield {name: strings(batch.column(name)) for name in names}


def read_batches(path: str | os.PathLike, names: Sequence[str]) -> Iterator:
    """Yields `pyarrow.RecordBatch`es of all columns, of which `names` must exist.

    Raises:
        InputError: as `read_columns`.
    """
    with open_table(path) as table:
        check_columns(path, table, names)
        yield from table.iter_batches(_ROWS_AT_ONCE)


def check_columns(path: str | os.PathLike, table: Any, names: Sequence[str]) -> None:
    """Stops on a table without a column.

    Raises:
        InputError: naming the first that is missing.
    """
    known = table.schema_arrow.names
    for name in names:
        if name not in known:
            raise InputError(
                f"{path} must have the column {name!r}, it has "
                f"{', '.join(map(repr, known))}; run the stage that wrote it again."
            )


def strings(column: Any) -> list[str]:
    """Returns a `pyarrow` string column as a list of str, `""` for nulls."""
    return column.fill_null("").to_pylist() if column.null_count else column.to_pylist()
