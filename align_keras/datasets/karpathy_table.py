"""Converter of Karpathy's splits of COCO or Flickr30K to a table for corpus `pairs`."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence

from align_keras.datasets.benchmarks import read_karpathy
from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_write


@dataclasses.dataclass(frozen=True)
class KarpathyCounts:
    """Numbers of images and captions in a table of one or more splits."""

    images: int
    captions: int


def write_karpathy_table(
    json_file: str | os.PathLike,
    images: str | os.PathLike,
    splits: Sequence[str],
    out: str | os.PathLike,
    allow_missing: bool = False,
) -> KarpathyCounts:
    """Writes a table with a row for each caption of some splits.

    A row contains the path of an image and one of its captions. Runs of white space in
    captions become one space. The path is relative if the image is below the folder of
    the table, so that both can be moved together. The reader of the table drops and
    counts empty captions and captions of more than 2,000 characters.

    Args:
        json_file: `dataset_coco.json` or `dataset_flickr30k.json`.
        images: Folder of the images. For COCO it contains `train2014/` and `val2014/`.
        splits: Names of splits: `train`, `restval` (COCO), `val` or `test`.
        out: Table to write, a `.tsv` file.
        allow_missing: Whether to leave out images that are not in the folder.

    Returns:
        Numbers of images and captions.

    Raises:
        InputError: If `out` has another suffix, a split is unknown, or images
            are missing.
    """
    table = pathlib.Path(os.path.abspath(out))
    if table.suffix.lower() != ".tsv":
        raise InputError(f"`out` must end in .tsv. Received: {table.name}. Rename it.")
    lines = ["image\tcaption"]
    image_count = 0
    for split in dict.fromkeys(splits):
        data = read_karpathy(
            json_file,
            os.path.abspath(images),
            split,
            captions_per_image=None,
            allow_missing=allow_missing,
        )
        image_count += len(data)
        for image, captions in zip(data.images, data.captions, strict=True):
            cell = _quote_cell(_path_in_table(table.parent, image))
            lines += [f"{cell}\t{_quote_cell(caption)}" for caption in captions]
    with atomic_write(table) as file:
        file.write("\n".join(lines) + "\n")
    return KarpathyCounts(images=image_count, captions=len(lines) - 1)


def _path_in_table(folder: pathlib.Path, image: str | os.PathLike) -> str:
    """Returns the path of an image, relative to the folder if it is below it."""
    path = pathlib.Path(image)
    if path.is_relative_to(folder):
        path = path.relative_to(folder)
    return str(path)


def _quote_cell(text: str) -> str:
    """Quotes a text whose own quotes the reader of tables would remove."""
    if len(text) > 1 and text[0] == text[-1] == '"':
        return '"' + text.replace('"', '""') + '"'
    return text
