"""The list of remote images that img2dataset takes."""

import contextlib
import csv
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from align_keras.corpus.parquet_tables import arrow, table_writer
from align_keras.corpus.sources.location import is_remote
from align_keras.corpus.sources.pair import SourcePair
from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_write

URL_COLUMNS = ("url", "caption", "rule", "language", "page_url")
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
    if path.suffix not in (".parquet", *_DELIMITERS):
        raise InputError(
            f"the list must end in .parquet, .csv or .tsv, received {path.name!r}; "
            "rename it."
        )
    count = 0
    with (_parquet if path.suffix == ".parquet" else _delimited)(path) as write:
        for pair in pairs:
            if is_remote(pair.image):
                write(pair[: len(URL_COLUMNS)])
                count += 1
    return count


@contextlib.contextmanager
def _delimited(path: pathlib.Path) -> Iterator[Callable[[Any], Any]]:
    with atomic_write(path) as file:
        delimiter = _DELIMITERS[path.suffix]
        rows = csv.writer(file, delimiter=delimiter, lineterminator="\n")
        rows.writerow(URL_COLUMNS)
        yield rows.writerow


@contextlib.contextmanager
def _parquet(path: pathlib.Path) -> Iterator[Callable[[Any], Any]]:
    pyarrow = arrow(otherwise=", or write .csv")
    schema = pyarrow.schema([(name, pyarrow.string()) for name in URL_COLUMNS])
    with table_writer(path, schema) as append:
        yield lambda pair: append([dict(zip(URL_COLUMNS, pair, strict=True))])
