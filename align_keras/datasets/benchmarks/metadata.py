"""Tables of image metadata, joined to evaluation data by the ids of the images."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence

from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.text_tables import read_table
from align_keras.utils.errors import InputError
from align_keras.utils.progress import say


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
        InputError: If the file can't be read, or if a row is incomplete or repeated.

    References:
        Jia et al. 2021, section 10 (analysis by groups before any use).
    """
    path = pathlib.Path(path)
    malformed = DropCounter()
    columns, lines = read_table(path, "utf-8", malformed)
    id_column, *names = columns or [""]
    problems = list(malformed.examples.values())
    rows: dict[str, dict[str, str]] = {}
    for line, position in lines:
        values = {name: cell.strip() for name, cell in line.items()}
        image_id = values.pop(id_column)
        if image_id in rows:
            problems.append(f"{position}: {image_id!r} again")
        rows[image_id] = values
    if problems:
        raise InputError(
            f"--metadata must have one row per image. Received: {path} ({problems[0]})."
        )
    return Metadata(path, rows, tuple(names))


def join_metadata(metadata: Metadata, image_ids: Sequence[str]) -> dict[str, list[str]]:
    """Returns the metadata of images by column.

    The value of an image without a row is "". The number of such images is reported on
    stderr.

    Args:
        metadata: `Metadata`.
        image_ids: str of each image.

    Returns:
        dict from the name of a column to a list with a value for each image.

    Raises:
        InputError: If no image has a row.
    """
    path, rows, names = metadata.path, metadata.rows, metadata.names
    missing = sum(image_id not in rows for image_id in image_ids)
    if missing == len(image_ids):
        data_id = repr(image_ids[0]) if len(image_ids) else "none"
        table_id = next(map(repr, rows), "none")
        raise InputError(
            "--metadata must have the ids of the images in its first column. Received: "
            f"{path} with ids such as {table_id}, but the data has ids such as "
            f"{data_id}."
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
