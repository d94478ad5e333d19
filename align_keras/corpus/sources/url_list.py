"""Writer of lists of remote images for img2dataset."""

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
    """Writes the addresses and captions of remote images to a table for img2dataset.

    Run img2dataset with `--save_additional_columns '["rule", "language", "page_url"]'`
    to write shards of the kind `webdataset`. An image with several captions is
    downloaded once per caption.

    Args:
        pairs: iterable of `SourcePair`. Pairs without a remote image are skipped.
        path: str or path that ends in `.parquet`, `.csv` or `.tsv`.

    Returns:
        Number of written pairs.

    Raises:
        InputError: if `path` has another suffix, or pyarrow is not installed.

    Example:

    >>> import tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "urls.csv")
    >>> write_url_list([SourcePair("https://example.org/a.jpg", "A cat")], path)
    1
    """
    path = pathlib.Path(path)
    if path.suffix not in (".parquet", *_DELIMITERS):
        raise InputError(
            "The list of images must end in .parquet, .csv or .tsv. Received: "
            f"{path.name!r}. Rename it."
        )
    count = 0
    open_writer = _parquet_writer if path.suffix == ".parquet" else _csv_writer
    with open_writer(path) as write:
        for pair in pairs:
            if is_remote(pair.image):
                write(pair[: len(URL_COLUMNS)])
                count += 1
    return count


@contextlib.contextmanager
def _csv_writer(path: pathlib.Path) -> Iterator[Callable[[Any], Any]]:
    """Yields a function that writes a row to a CSV or TSV file."""
    with atomic_write(path) as file:
        delimiter = _DELIMITERS[path.suffix]
        rows = csv.writer(file, delimiter=delimiter, lineterminator="\n")
        rows.writerow(URL_COLUMNS)
        yield rows.writerow


@contextlib.contextmanager
def _parquet_writer(path: pathlib.Path) -> Iterator[Callable[[Any], Any]]:
    """Yields a function that writes a row to a Parquet file."""
    pyarrow = arrow(alternative=", or write .csv")
    schema = pyarrow.schema([(name, pyarrow.string()) for name in URL_COLUMNS])
    with table_writer(path, schema) as append:
        yield lambda pair: append([dict(zip(URL_COLUMNS, pair, strict=True))])
