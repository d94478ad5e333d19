"""Readers of the text files and tables of public benchmarks."""

import gzip
import pathlib
import zlib

from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.text_tables import Table, parse_table
from align_keras.utils.errors import InputError


def read_text(path: pathlib.Path, remedy: str) -> str:
    """Reads a UTF-8 text file or, if it doesn't exist, its compressed `.gz` file.

    Args:
        path: path of the uncompressed file.
        remedy: sentence of the error message that describes how to get the file,
            without its period.

    Raises:
        InputError: If neither file can be read.
    """
    packed = path.with_name(f"{path.name}.gz")
    try:
        if path.exists():
            return path.read_bytes().decode("utf-8-sig")
        return gzip.decompress(packed.read_bytes()).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        problem = getattr(error, "strerror", None) or str(error)
    raise InputError(
        f"{path} or {packed.name} must be readable. Received: {problem}. {remedy}."
    )


def read_benchmark_table(path: pathlib.Path, suffix: str, remedy: str) -> Table:
    """Reads a table like `read_text`. Unlike tables of users, no line may be malformed.

    Args:
        path: path of the uncompressed file.
        suffix: `".csv"` or `".tsv"`.
        remedy: sentence of the error message for a file that can't be read.

    Raises:
        InputError: If the table can't be read, or a line is malformed.
    """
    counter = DropCounter()
    table = parse_table(read_text(path, remedy), path.name, suffix, counter)
    if counter.examples:
        problem = next(iter(counter.examples.values()))
        raise InputError(
            f"{path} must be an unchanged table. Received: {problem}. Download the "
            "file again."
        )
    return table
