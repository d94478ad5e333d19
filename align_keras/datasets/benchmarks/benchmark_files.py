"""Readers of the text files and tables of public benchmarks."""

import gzip
import pathlib
import zlib
from collections.abc import Sequence

from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.text_tables import Table, decode, parse_table
from align_keras.utils.errors import InputError


def read_text(path: pathlib.Path) -> str:
    """Reads a UTF-8 text file or, if it doesn't exist, its compressed `.gz` file."""
    packed = path.with_name(f"{path.name}.gz")
    if packed.exists() and not path.exists():
        try:
            content = gzip.decompress(packed.read_bytes())
        except (EOFError, zlib.error):
            raise InputError(
                f"{packed} must be a complete file. Download it again."
            ) from None
        return decode(packed, content, "utf-8")
    return decode(path, path.read_bytes(), "utf-8")


def read_benchmark_table(
    path: pathlib.Path, suffix: str, columns: Sequence[str]
) -> Table:
    """Reads a table like `read_text`. Unlike tables of users, no line may be malformed.

    Args:
        path: path of the uncompressed file.
        suffix: `".csv"` or `".tsv"`.
        columns: names of the first columns.

    Raises:
        InputError: If the first columns differ, or a line is malformed.
    """
    counter = DropCounter()
    header, rows = parse_table(read_text(path), path.name, suffix, counter)
    problems = list(counter.examples.values())
    if header[: len(columns)] != list(columns):
        problems.append(f"the columns {', '.join(header)}")
    if problems:
        raise InputError(
            f"{path} must be a table that begins with the columns "
            f"{', '.join(columns)}. Received: {problems[0]}."
        )
    return header, rows
