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
    """Returns the module pyarrow; `otherwise` is as of `needs`."""
    with needs("corpus", "Parquet is read and written by pyarrow", otherwise):
        import pyarrow
        import pyarrow.parquet
    return pyarrow


def pair_schema() -> Any:
    """Returns the schema of a table of pairs.

    `image` says where the image is, `image_key` names it by its bytes (an image that
    isn't here yet by its URL), `width` and `height` are in pixels and 0 where unknown,
    `rule` says where the caption stood, `page_url` and `source` where the pair came
    from.
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
    equal bytes. `rows_per_group` rows wait in memory.
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
    """Yields the rows of a Parquet file as dict, a group at a time."""
    with arrow().parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=2_000, columns=columns):
            yield from batch.to_pylist()


# A batch's arrays stay in the processor's caches or near them.
_ROWS_AT_ONCE = 32_768


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


def read_columns(
    path: str | os.PathLike, names: Sequence[str]
) -> Iterator[dict[str, list[str]]]:
    """Yields batches of a table's columns, lists by name with "" for nulls."""
    with open_table(path) as table:
        check_columns(path, table, names)
        for batch in table.iter_batches(_ROWS_AT_ONCE, columns=list(names)):
            yield {name: strings(batch.column(name)) for name in names}


def read_batches(path: str | os.PathLike, names: Sequence[str]) -> Iterator:
    """Yields `pyarrow.RecordBatch`es of all columns, of which `names` must exist."""
    with open_table(path) as table:
        check_columns(path, table, names)
        yield from table.iter_batches(_ROWS_AT_ONCE)


def check_columns(path: str | os.PathLike, table: Any, names: Sequence[str]) -> None:
    """Raises `InputError` on a table without one of the columns."""
    known = table.schema_arrow.names
    for name in names:
        if name not in known:
            raise InputError(
                f"{path} must have the column {name!r}, it has "
                f"{', '.join(map(repr, known))}; run the stage that wrote it again."
            )


def strings(column: Any) -> list[str]:
    """Returns a `pyarrow` string column as a list, "" for nulls."""
    return column.fill_null("").to_pylist() if column.null_count else column.to_pylist()
