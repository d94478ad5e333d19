"""The list of remote images that img2dataset takes."""

import csv
import itertools
import os
import pathlib
from collections.abc import Iterable

from align_keras.corpus.parquet_tables import arrow
from align_keras.corpus.sources.location import is_remote
from align_keras.corpus.sources.pair import SourcePair
from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_write

COLUMNS = ("url", "caption", "rule", "language", "page_url")
_ROWS_A_GROUP = 50_000
_DELIMITERS = {".csv": ",", ".tsv": "\t"}


def write_url_list(pairs: Iterable[SourcePair], path: str | os.PathLike) -> int:
    """Writes the remote images of pairs with their captions, for img2dataset, with
    which `--save_additional_columns '["rule", "language", "page_url"]'` makes shards of
    the kind `webdataset`. An image with several captions is fetched as many times.

    Args:
        pairs: iterable of `SourcePair`; those whose image isn't remote are left out.
        path: str or path that ends in `.parquet`, `.csv` or `.tsv`.

    Returns:
        int, the number of pairs written.

    Raises:
        InputError: another ending, or pyarrow isn't installed.

    Example:

    >>> import tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "urls.csv")
    >>> write_url_list([SourcePair("https://example.org/a.jpg", "A cat")], path)
    1
    """
    path = pathlib.Path(path)
    remote = (pair for pair in pairs if is_remote(pair.image))
    if path.suffix == ".parquet":
        return _write_parquet(remote, path)
    if path.suffix in _DELIMITERS:
        return _write_delimited(remote, path)
    raise InputError(
        f"the list must end in .parquet, .csv or .tsv, received {path.name!r}; rename "
        "it."
    )


def _write_delimited(pairs, path):
    count = 0
    with atomic_write(path) as file:
        delimiter = _DELIMITERS[path.suffix]
        rows = csv.writer(file, delimiter=delimiter, lineterminator="\n")
        rows.writerow(COLUMNS)
        for pair in pairs:
            rows.writerow(pair)
            count += 1
    return count


def _write_parquet(pairs, path):
    pyarrow = arrow(otherwise=", or write .csv")
    schema = pyarrow.schema([(name, pyarrow.string()) for name in COLUMNS])
    count = 0
    with atomic_write(path, "wb") as file:
        with pyarrow.parquet.ParquetWriter(file, schema, compression="zstd") as table:
            while rows := list(itertools.islice(pairs, _ROWS_A_GROUP)):
                columns = [list(column) for column in zip(*rows, strict=True)]
                table.write_table(pyarrow.table(columns, schema=schema))
                count += len(rows)
    return count
