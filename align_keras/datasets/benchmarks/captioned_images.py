"""Images with captions and their readers: tables, folders, Karpathy's splits."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any, ClassVar, Self

from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.karpathy import KarpathyImage, parse_karpathy_image
from align_keras.corpus.pair_files import (
    CAPTION_COLUMNS,
    IMAGE_COLUMNS,
    PairRecord,
    read_pairs,
)
from align_keras.corpus.text_tables import find_column, read_table
from align_keras.datasets.benchmarks.benchmark_files import read_text
from align_keras.datasets.benchmarks.shard_images import ShardImages
from align_keras.utils.arguments import check_choice
from align_keras.utils.errors import InputError
from align_keras.utils.progress import say

# Number of missing images that a message lists.
_MAX_NAMED_IMAGES = 5
# Numbers of images and captions in the test splits of the paper. Recall on a subset is
# not comparable, because recall is higher among fewer images.
KARPATHY_COUNTS = {
    ("flickr30k", "test"): (1000, 5000),
    ("coco", "test"): (5000, 25_010),
}


class _ByImage:
    """Base class of dataclasses whose lists have one entry per image.

    All fields are lists with one entry per image, or dicts of such lists.
    """

    images: Any
    missing: int
    # This annotation shows mypy that the subclasses are dataclasses.
    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field]]

    def __len__(self) -> int:
        return len(self.images)

    def select_rows(self, rows: Sequence[int]) -> Self:
        """Returns the images in `rows` and counts all other images as missing."""

        def select(values: Any) -> Any:
            if isinstance(values, dict):
                return {name: select(part) for name, part in values.items()}
            if isinstance(values, ShardImages):
                return values.select_rows(rows)
            return [values[row] for row in rows]

        lists = {**vars(self)}
        missing = lists.pop("missing") + len(self) - len(rows)
        return dataclasses.replace(self, **select(lists), missing=missing)


@dataclasses.dataclass(frozen=True)
class CaptionedImages(_ByImage):
    """Images with their captions.

    Attributes:
        images: list of paths or of encoded images as bytes, or `ShardImages`.
        captions: list of the captions of each image.
        caption_ids: list of the ids of each image's captions.
        columns: dict from the name of a column to a list with a value per image.
        missing: number of images that were left out.
    """

    images: Any
    captions: list
    image_ids: list
    caption_ids: list
    columns: dict = dataclasses.field(default_factory=dict)
    missing: int = 0


@dataclasses.dataclass(frozen=True)
class MultilingualCaptions(_ByImage):
    """Images with their captions in several languages.

    Attributes:
        images: list of paths, or of encoded images as bytes.
        captions: dict from a language to a list of the captions of each image.
        columns: dict from the name of a column to a list with a value per image.
        missing: number of images that were left out.
    """

    images: list
    captions: dict
    image_ids: list
    columns: dict = dataclasses.field(default_factory=dict)
    missing: int = 0


def present_images(paths: Sequence[str], source: str, allow_missing: bool) -> list[int]:
    """Returns the rows of the images that exist.

    Args:
        paths: paths of the images.
        source: name of the data for messages.
        allow_missing: whether to report missing images instead of raising.

    Raises:
        InputError: If an image is missing and `allow_missing` is False, or if all
            images are missing.
    """
    rows = [row for row, path in enumerate(paths) if os.path.isfile(path)]
    if len(rows) == len(paths):
        return rows
    missing = [path for path in paths if not os.path.isfile(path)]
    examples = ", ".join(missing[:_MAX_NAMED_IMAGES])
    if len(missing) > _MAX_NAMED_IMAGES:
        examples += ", …"
    problem = (
        f"{len(missing)} of {len(paths)} images of {source} are missing: {examples}"
    )
    if not rows or not allow_missing:
        raise InputError(
            f"{problem}. Check the folder, or use --allow-missing to leave them out."
        )
    say(f"{problem}. They are left out.")
    return rows


def read_caption_files(
    path: str | os.PathLike,
    allow_missing: bool = False,
    *,
    image_column: str | None = None,
    caption_column: str | None = None,
    encoding: str = "utf-8",
) -> CaptionedImages:
    """Reads a table or a folder of captioned images.

    The formats are those of `align_keras.corpus.pair_files.read_pairs`. All other
    columns of a table become `columns`. Unusable rows are reported on stderr and left
    out.

    Args:
        path: table or folder.
        allow_missing: whether to report and leave out missing images.
        image_column: column of the image paths. By default it is detected by its
            name.
        caption_column: column of the captions. By default it is detected by its
            name.
        encoding: encoding of the table or of the caption files.

    Returns:
        `CaptionedImages`.

    Raises:
        InputError: If there is no usable row, or an image is missing and
            `allow_missing` is False.
    """
    path = pathlib.Path(path)
    counter = DropCounter()
    records = list(
        read_pairs(
            path,
            image_column=image_column,
            caption_column=caption_column,
            encoding=encoding,
            counter=counter,
        )
    )
    dropped_lines = counter.lines()[1:]
    if not records:
        problem = f" ({' and '.join(dropped_lines)})" if dropped_lines else ""
        raise InputError(
            f"{path} must contain at least one image with a caption. Received: no "
            f"usable row{problem}."
        )
    for line in dropped_lines:
        say(line)
    columns: dict[str, list[str]] = {}
    if not path.is_dir():
        columns = _other_columns(path, records, encoding, image_column, caption_column)
    data = CaptionedImages(
        images=[str(record.image_path) for record in records],
        captions=[record.captions for record in records],
        image_ids=[record.id for record in records],
        caption_ids=[
            [f"{record.id}#{number}" for number in range(len(record.captions))]
            for record in records
        ],
        columns=columns,
    )
    return data.select_rows(present_images(data.images, path.name, allow_missing))


def _other_columns(
    path: pathlib.Path,
    records: list[PairRecord],
    encoding: str,
    image_column: str | None,
    caption_column: str | None,
) -> dict[str, list[str]]:
    """Reads the columns of a table other than images, captions and ids."""
    names, rows = read_table(path, encoding, DropCounter())
    rows_by_position = {where: row for row, where in rows}
    used_columns = {
        find_column(names, ["id"]),
        image_column or find_column(names, IMAGE_COLUMNS),
        caption_column or find_column(names, CAPTION_COLUMNS),
    }
    return {
        name: [rows_by_position[record.position].get(name, "") for record in records]
        for name in names
        if name not in used_columns
    }


def read_karpathy(
    json_path: str | os.PathLike,
    image_folder: str | os.PathLike,
    split: str,
    captions_per_image: int | None = 5,
    allow_missing: bool = False,
) -> CaptionedImages:
    """Reads one of Karpathy's splits of Flickr30K or COCO.

    Args:
        json_path: `dataset_flickr30k.json` or `dataset_coco.json`.
        image_folder: folder of the images. For COCO it contains `train2014/` and
            `val2014/`.
        split: for example `"test"`.
        captions_per_image: number of captions to read for each image, in the order
            of the file. The protocol uses 5, although some images of COCO have more. If
            None, all captions are read, as Crisscrossed Captions requires.
        allow_missing: whether to report and leave out missing images.

    Returns:
        `CaptionedImages`. The caption ids are the `sentid` of the file.

    Raises:
        InputError: If the file is damaged or has other numbers of images, the split is
            unknown, or an image is missing.

    References:
        Karpathy and Fei-Fei 2015.
        Jia et al. 2021, section 5.1.
    """
    path = pathlib.Path(json_path)
    try:
        content = json.loads(read_text(path))
        entries = [parse_karpathy_image(value) for value in content["images"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} must be a file of Karpathy's caption_datasets.zip, such as "
            f"dataset_coco.json. Received: {error!r}."
        ) from None
    splits = sorted({entry.split for entry in entries})
    check_choice("split", split, splits, f"Use a split of {path.name}.")
    entries = [entry for entry in entries if entry.split == split]
    _check_counts(path, content.get("dataset"), split, entries)
    data = CaptionedImages(
        images=[str(pathlib.Path(image_folder, entry.path)) for entry in entries],
        captions=[
            [" ".join(text.split()) for text in entry.captions[:captions_per_image]]
            for entry in entries
        ],
        image_ids=[entry.name for entry in entries],
        caption_ids=[list(entry.caption_ids[:captions_per_image]) for entry in entries],
    )
    source = f"{path.name}'s {split} split"
    return data.select_rows(present_images(data.images, source, allow_missing))


def _check_counts(
    path: pathlib.Path, dataset: str | None, split: str, entries: list[KarpathyImage]
) -> None:
    expected = KARPATHY_COUNTS.get((dataset or "", split))
    counts = (len(entries), sum(len(entry.captions) for entry in entries))
    if expected is not None and counts != expected:
        raise InputError(
            f"The {split} split of {dataset} must have {expected[0]:,} images and "
            f"{expected[1]:,} captions, but {path} has {counts[0]:,} and "
            f"{counts[1]:,}. The recall on a subset isn't comparable."
        )


def stamps_captions_by_language() -> MultilingualCaptions:
    """Reads the stamps that have captions in English, German, French and Czech.

    Returns:
        `MultilingualCaptions` with the column `category`.
    """
    # These modules import TFDS, which the other readers don't need.
    from align_keras.datasets.benchmarks.tfds_images import read_stored_images
    from align_keras.datasets.named_corpora import open_corpus
    from align_keras.datasets.stamps import LANGUAGES

    by_language = {}
    for language in LANGUAGES:
        builder = open_corpus(f"stamps/{language}")
        by_language[language] = {
            image.id: image for image in read_stored_images(builder, "test")
        }
    english, *translations = by_language.values()
    ids = [name for name in english if all(name in images for images in translations)]
    return MultilingualCaptions(
        images=[english[name].image for name in ids],
        captions={
            language: [list(images[name].captions) for name in ids]
            for language, images in by_language.items()
        },
        image_ids=ids,
        columns={"category": [english[name].category for name in ids]},
    )
