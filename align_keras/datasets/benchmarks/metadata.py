"""A table of metadata on images, joined to any data by the images' ids."""

import csv
import dataclasses
import io
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence

from align_keras.utils.errors import InputError
from align_keras.utils.progress import say

_SUFFIXES = (".csv", ".tsv")


@dataclasses.dataclass(frozen=True)
class Metadata:
    """A table's `rows`, image id → dict from a column's name to a str."""

    path: pathlib.Path
    rows: dict
    names: tuple


def read_metadata_table(path: str | os.PathLike) -> Metadata:
    """Reads a `.csv` (commas or semicolons) or `.tsv` table in UTF-8, whose first line
    names the columns, and whose first column is the images' ids.

    References:
        Jia et al. 2021, section 10 (analysis by groups before any use).
    """
    path = pathlib.Path(path)
    if path.suffix.lower() not in _SUFFIXES:
        raise InputError(
            f"--metadata must end in .csv or .tsv, received {path}; convert it."
        )
    lines = _lines(path)
    header: list[str] = next((cells for _, cells in lines), [])
    _, *names = header or [""]
    if not names:
        raise InputError(
            "--metadata must have a first column of image ids and at least one "
            f"more, received {path} with {header or 'no columns'}; name the columns in "
            "the first line."
        )
    if not all(names) or len(set(names)) < len(names):
        raise InputError(
            f"--metadata must name each column, and differently, received {path} with "
            f"{', '.join(map(repr, names))}; rename or remove what is there twice."
        )
    rows = {}
    for number, (image_id, *values) in lines:
        if len(values) != len(names) or not image_id or image_id in rows:
            problem = "an id that stands above" if image_id in rows else "no id"
            if len(values) != len(names):
                problem = f"{1 + len(values)} cells under {1 + len(names)} columns"
            raise InputError(
                f"--metadata must have one row an image, received {path} whose line "
                f"{number} has {problem} ({image_id!r}); correct it."
            )
        rows[image_id] = dict(zip(names, values, strict=True))
    if not rows:
        raise InputError(
            f"--metadata must have a row for images, received {path} with the header "
            "alone; add rows."
        )
    return Metadata(path, rows, tuple(names))


def _lines(path: pathlib.Path) -> Iterator[tuple[int, list[str]]]:
    """Yields (line number, stripped cells) of the lines that aren't blank."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
        header = text.lstrip().partition("\n")[0]
        separator = ";" if "," not in header and ";" in header else ","
        if path.suffix.lower() == ".tsv":
            separator = "\t"
        reader = csv.reader(
            io.StringIO(text, newline=""), delimiter=separator, strict=True
        )
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if any(cells):
                yield reader.line_num, cells
    except OSError as error:
        problem = error.strerror or str(error)
    except UnicodeDecodeError as error:
        problem = f"not UTF-8: {error.reason} at byte {error.start}"
    except csv.Error as error:
        problem = f"line {reader.line_num}: {error}"
    else:
        return
    raise InputError(
        f"--metadata must be a readable table, received {path} ({problem}); check it."
    )


def join_metadata(
    metadata: Metadata, image_ids: Sequence[str], taken: Iterable[str] = ()
) -> dict[str, list[str]]:
    """Gives each image its values by column, "" without a row, which is told on stderr;
    `taken` are columns that the data already has.
    """
    path, rows, names = metadata.path, metadata.rows, metadata.names
    twice = [name for name in names if name in taken]
    if twice:
        raise InputError(
            f"--metadata must not have a column that the data has, received {path} "
            f"with {twice[0]!r}; rename it."
        )
    lacking = sum(image_id not in rows for image_id in image_ids)
    if lacking == len(image_ids):
        of_data = repr(image_ids[0]) if len(image_ids) else "none"
        raise InputError(
            "--metadata must have the images' ids in its first column, received "
            f"{path} with ids such as {next(iter(rows))!r} where the data has such as "
            f"{of_data}; write them as the data does."
        )
    if lacking:
        say(
            f"{lacking} of {len(image_ids)} images have no row in {path}; they are "
            "the group (none)"
        )
    return {
        name: [
            rows[image_id][name] if image_id in rows else "" for image_id in image_ids
        ]
        for name in names
    }
