"""A user's own captioned pictures, any number of captions each."""

import pathlib

from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.pair_files import (
    CAPTION_COLUMNS,
    IMAGE_COLUMNS,
    read_pairs,
    read_table,
)
from align_keras.datasets.benchmarks.captioned_images import CaptionedImages
from align_keras.datasets.benchmarks.present_pictures import present_pictures
from align_keras.utils.errors import InputError
from align_keras.utils.progress import say


def read_caption_files(
    path,
    allow_missing=False,
    *,
    image_column=None,
    caption_column=None,
    encoding="utf-8",
):
    """Reads a table or a folder of captioned pictures.

    The formats are those of `align_keras.corpus.pair_files.read_pairs`. Rows of
    one picture make one picture with several captions; the table's other columns
    become `columns`, with the value of the picture's first row. Unusable rows are
    left out and told on stderr.

    Args:
        path: str or path.
        allow_missing: bool, leave missing pictures out and say so.
        image_column: str, the table's column of paths, guessed by default.
        caption_column: str, the table's column of captions, guessed by default.
        encoding: str, of the table or of the caption files.

    Returns:
        `CaptionedImages`; images are paths.

    Raises:
        InputError: as `read_pairs`, when nothing usable is left, and for missing
            pictures.

    Example:

    >>> import tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> _ = (folder / "a.png").write_bytes(b"")
    >>> _ = (folder / "a.csv").write_text(
    ...     "image,caption,style\\na.png,A cat,ink\\na.png,A pet,ink\\n")
    >>> data = read_caption_files(folder / "a.csv")
    >>> data.image_ids, data.captions, data.columns
    (['a.png'], [['A cat', 'A pet']], {'style': ['ink']})
    """
    path = pathlib.Path(path)
    counter = DropCounter()
    own = {"image_column": image_column, "caption_column": caption_column}
    records = list(read_pairs(path, **own, encoding=encoding, counter=counter))
    left_out = counter.lines()[1:]
    if not records:
        raise InputError(
            f"{path} must hold at least one picture with a caption, received none: "
            f"{'; '.join(left_out) or 'add rows below the header'}."
        )
    for line in left_out:
        say(line)
    columns = {} if path.is_dir() else _other_columns(path, records, encoding, own)
    paths = [str(record.image_path) for record in records]
    rows = present_pictures(paths, path.name, allow_missing)
    records = [records[row] for row in rows]
    return CaptionedImages(
        images=[paths[row] for row in rows],
        captions=[record.captions for record in records],
        image_ids=[record.id for record in records],
        caption_ids=[
            [f"{record.id}#{number}" for number in range(len(record.captions))]
            for record in records
        ],
        columns={
            name: [values[row] for row in rows] for name, values in columns.items()
        },
        missing=len(paths) - len(rows),
    )


def _other_columns(path, records, encoding, given):
    """Columns that are neither the pictures' nor the captions' nor ids."""
    names, rows = read_table(path, encoding, DropCounter())
    by_place = {where: row for row, where in rows}
    lower = {name.lower(): name for name in reversed(names)}
    taken = {lower.get("id")}
    for kind, guesses in (
        ("image_column", IMAGE_COLUMNS),
        ("caption_column", CAPTION_COLUMNS),
    ):
        guessed = (lower[name] for name in guesses if name in lower)
        taken.add(given[kind] or next(guessed))
    return {
        name: [by_place[record.where].get(name, "") for record in records]
        for name in names
        if name not in taken
    }
