"""The pipeline's tables of pairs, read in batches."""

from align_keras.corpus.parquet_pairs import arrow
from align_keras.utils.errors import InputError

# A batch's arrays stay in the processor's caches or near them.
_ROWS_AT_ONCE = 32_768


def open_table(path):
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


def read_columns(path, names):
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


def read_batches(path, names):
    """Yields `pyarrow.RecordBatch`es of all columns, of which `names` must exist.

    Raises:
        InputError: as `read_columns`.
    """
    with open_table(path) as table:
        check_columns(path, table, names)
        yield from table.iter_batches(_ROWS_AT_ONCE)


def check_columns(path, table, names):
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


def strings(column):
    """Returns a `pyarrow` string column as a list of str, `""` for nulls."""
    return column.fill_null("").to_pylist() if column.null_count else column.to_pylist()
