"""Tables of image metadata, joined to evaluation data by the ids of the images."""

import dataclasses
import os
import pathlib
from collections.abc import Iterable, Sequence

from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.text_tables import read_table
from align_keras.utils.errors import InputError
from align_keras.utils.progress import say

_SUFFIXES = (".csv", ".tsv")


@dataclasses.dataclass(frozen=True)
class Metadata:
    """Table of image metadata.

    Attributes:
        path: path of the table.
        rows: dict from an image id to a dict from the name of a column to a str.
        names: tuple of str, names of the columns without the ids.
    """

    path: pathlib.Path
    rows: dict
    names: tuple


def read_metadata_table(path: str | os.PathLike) -> Metadata:
    """Reads a table of image metadata in UTF-8.

    The first line contains the names of the columns, and the first column contains the
    ids of the images.

    Args:
        path: `.csv` table, separated by commas or semicolons, or `.tsv` table.

    Returns:
        `Metadata`.

    Raises:
        InputError: If the file can't be read, a column has no distinct name, or a row
            is incomplete or repeated.

    References:
        Jia et al. 2021, section 10 (analysis by groups before any use).
    """
    path = pathlib.Path(path)
    if path.suffix.lower() not in _SUFFIXES:
        raise InputError(
            f"--metadata must end in .csv or .tsv. Received: {path}. Convert the file."
        )
    malformed = DropCounter()
    columns, lines = read_table(path, "utf-8", malformed)
    id_column, *names = columns or [""]
    if not names:
        raise InputError(
            "--metadata must have a first column of image ids and at least one other "
            f"column. Received: {path} with {columns}. Put the names of the columns "
            "into the first line."
        )
    if not all(names) or len(set(columns)) < len(columns):
        raise InputError(
            f"--metadata must have a distinct name for each column. Received: {path} "
            f"with {', '.join(map(repr, columns))}. Name all columns, and rename or "
            "remove repeated ones."
        )
    if malformed.examples:
        raise _wrong_line(path, next(iter(malformed.examples.values())))
    rows: dict[str, dict[str, str]] = {}
    for line, position in lines:
        values = {name: cell.strip() for name, cell in line.items()}
        image_id = values.pop(id_column)
        if not image_id:
            raise _wrong_line(path, f"{position}: no id")
        if image_id in rows:
            raise _wrong_line(path, f"{position}: {image_id!r} again")
        rows[image_id] = values
    return Metadata(path, rows, tuple(names))


def _wrong_line(path: pathlib.Path, problem: str) -> InputError:
    return InputError(
        f"--metadata must have one row per image. Received: {path} ({problem}). "
        "Correct the line."
    )


def join_metadata(
    metadata: Metadata, image_ids: Sequence[str], data_columns: Iterable[str] = ()
) -> dict[str, list[str]]:
    """Returns the metadata of images by column.

    The value of an image without a row is "". The number of such images is reported on
    stderr.

    Args:
        metadata: `Metadata`.
        image_ids: str of each image.
        data_columns: names of the columns that the data already has.

    Returns:
        dict from the name of a column to a list with a value for each image.

    Raises:
        InputError: If the data has a column of the same name, or no image has a row.
    """
    path, rows, names = metadata.path, metadata.rows, metadata.names
    repeated = [name for name in names if name in data_columns]
    if repeated:
        raise InputError(
            "--metadata must not have a column that the data already has. Received: "
            f"{path} with {repeated[0]!r}. Rename the column."
        )
    missing = sum(image_id not in rows for image_id in image_ids)
    if missing == len(image_ids):
        data_id = repr(image_ids[0]) if len(image_ids) else "none"
        table_id = next(map(repr, rows), "none")
        raise InputError(
            "--metadata must have the ids of the images in its first column. Received: "
            f"{path} with ids such as {table_id}, but the data has ids such "
            f"as {data_id}. Use the ids of the data."
        )
    if missing:
        say(
            f"{missing} of {len(image_ids)} images have no row in {path}. They form "
            "the group (none)."
        )
    return {
        name: [
            rows[image_id][name] if image_id in rows else "" for image_id in image_ids
        ]
        for name in names
    }
