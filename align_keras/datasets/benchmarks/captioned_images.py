"""Images with captions, and the readers of files that hold some."""

import dataclasses
import gzip
import json
import math
import os
import pathlib
import zlib
from collections.abc import Sequence
from typing import Any, ClassVar, Self

from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.karpathy import KarpathyImage, parse_karpathy_image
from align_keras.corpus.pair_files import (
    CAPTION_COLUMNS,
    IMAGE_COLUMNS,
    PairRecord,
    find_column,
    read_pairs,
    read_table,
)
from align_keras.datasets.benchmarks.labeled_images import read_stored_images
from align_keras.datasets.build import open_corpus
from align_keras.datasets.stamps import LANGUAGES
from align_keras.utils.arguments import check_choice, check_number
from align_keras.utils.errors import InputError
from align_keras.utils.progress import say

# Number of missing images that a message names.
_NAMED = 5
# Numbers of images and captions in the splits of the paper. Recall on fewer images is
# not comparable, since it rises as the gallery shrinks.
KARPATHY_COUNTS = {
    ("flickr30k", "test"): (1000, 5000),
    ("coco", "test"): (5000, 25_010),
}


class _ByImage:
    """Base of dataclasses whose lists, also those in dicts, have an entry per image."""

    images: list
    missing: int
    # mypy knows by this field that the subclasses are dataclasses.
    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field]]

    def __len__(self) -> int:
        return len(self.images)

    def of_rows(self, rows: Sequence[int]) -> Self:
        """Returns some of the images and counts the other ones as missing."""

        def select(values: Any) -> Any:
            if isinstance(values, dict):
                return {name: select(part) for name, part in values.items()}
            return [values[row] for row in rows]

        lists = {**vars(self)}
        missing = lists.pop("missing") + len(self) - len(rows)
        return dataclasses.replace(self, **select(lists), missing=missing)


@dataclasses.dataclass(frozen=True)
class CaptionedImages(_ByImage):
    """Images, paths or bytes, the captions of each, and columns of values."""

    images: list
    captions: list
    image_ids: list
    caption_ids: list
    columns: dict = dataclasses.field(default_factory=dict)
    missing: int = 0


@dataclasses.dataclass(frozen=True)
class MultilingualCaptions(_ByImage):
    """Images, paths or bytes, and the captions of each by language."""

    images: list
    captions: dict
    image_ids: list
    columns: dict = dataclasses.field(default_factory=dict)
    missing: int = 0


def read_text(path: pathlib.Path, remedy: str) -> str:
    """Reads a text file, or its `.gz`; an error ends in the remedy, how to get it."""
    packed = path.with_name(f"{path.name}.gz")
    try:
        if path.exists():
            return path.read_bytes().decode("utf-8-sig")
        return gzip.decompress(packed.read_bytes()).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        problem = getattr(error, "strerror", None) or str(error)
    raise InputError(f"no readable {path} or {packed.name} ({problem}); {remedy}.")


def present_images(paths: Sequence[str], source: str, allow_missing: bool) -> list[int]:
    """The rows of the images that are there; raises for missing ones, or says so."""
    rows = [row for row, path in enumerate(paths) if os.path.isfile(path)]
    if len(rows) == len(paths):
        return rows
    missing = [path for path in paths if not os.path.isfile(path)]
    named = ", ".join(missing[:_NAMED]) + (", …" if len(missing) > _NAMED else "")
    problem = f"{len(missing)} of {len(paths)} images of {source} are missing: {named}"
    if not rows:
        raise InputError(f"{problem}; check the folder of the images.")
    if not allow_missing:
        raise InputError(
            f"{problem}; fetch them, or leave them out with --allow-missing."
        )
    say(f"{problem}; left out")
    return rows


def read_caption_files(
    path: str | os.PathLike,
    allow_missing: bool = False,
    *,
    image_column: str | None = None,
    caption_column: str | None = None,
    encoding: str = "utf-8",
) -> CaptionedImages:
    """Reads a table or a folder of captioned images, as `read_pairs`, whose other
    columns become `columns`. Unusable rows are told on stderr, and so are missing
    images, which otherwise raise.
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
        raise InputError(
            f"{path} must hold at least one image with a caption, received none: "
            f"{'; '.join(dropped_lines) or 'add rows below the header'}."
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
    return data.of_rows(present_images(data.images, path.name, allow_missing))


def _other_columns(
    path: pathlib.Path,
    records: list[PairRecord],
    encoding: str,
    image_column: str | None,
    caption_column: str | None,
) -> dict[str, list[str]]:
    """Reads the columns that hold neither images nor captions nor ids."""
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
    check_counts: bool = True,
) -> CaptionedImages:
    """Reads a split of `dataset_flickr30k.json` or `dataset_coco.json`.

    Of each image the first `captions_per_image` count: 5 is the protocol, also of COCO,
    some of whose images have more; None takes all, as CxC does. `check_counts` holds
    the test splits to their numbers of images and captions. Caption ids are `sentid`.

    References:
        Karpathy and Fei-Fei 2015; Jia et al. 2021, section 5.1.
    """
    if captions_per_image is not None:
        name, remedy = "captions_per_image", "None takes all"
        check_number(name, captions_per_image, 1, math.inf, True, remedy)
    path = pathlib.Path(json_path)
    content = _read(path)
    entries = [_entry(path, row, value) for row, value in enumerate(content["images"])]
    splits = sorted({entry.split for entry in entries})
    check_choice("split", split, splits, f"name one that {path.name} has")
    entries = [entry for entry in entries if entry.split == split]
    if check_counts:
        _check_counts(path, content.get("dataset"), split, entries)
    if captions_per_image is not None:
        for entry in entries:
            _check_captions(path, entry, captions_per_image)
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
    return data.of_rows(present_images(data.images, source, allow_missing))


def _read(path: pathlib.Path) -> dict[str, Any]:
    text = read_text(path, "unpack Karpathy's caption_datasets.zip there")
    try:
        content = json.loads(text)
    except ValueError as error:
        raise InputError(f"{path} isn't JSON: {error}; download it again.") from None
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise InputError(
            f'{path} must hold an object with the list "images"; download it again.'
        )
    return content


def _entry(path: pathlib.Path, row: int, value: object) -> KarpathyImage:
    """Reads one entry of the file. Raises `InputError` that names the entry."""
    try:
        entry = parse_karpathy_image(value)
        if "" in entry.caption_ids:
            raise KeyError("sentid")
        return entry
    except KeyError as error:
        problem = f"lacks {error}"
    except (TypeError, AttributeError) as error:
        problem = f"has another form ({error})"
    raise InputError(
        f"images[{row}] of {path} {problem}; an entry has filename, split and "
        "sentences with raw and sentid; download the file again."
    )


def _check_counts(
    path: pathlib.Path, dataset: str | None, split: str, entries: list[KarpathyImage]
) -> None:
    expected = KARPATHY_COUNTS.get((dataset or "", split))
    counts = (len(entries), sum(len(entry.captions) for entry in entries))
    if expected is not None and counts != expected:
        raise InputError(
            f"the {split} split of {dataset} must have {expected[0]:,} images and "
            f"{expected[1]:,} captions, but {path} has {counts[0]:,} and "
            f"{counts[1]:,}; download the file again, or pass check_counts=False for "
            "a subset, whose recall isn't comparable."
        )


def _check_captions(path: pathlib.Path, entry: KarpathyImage, count: int) -> None:
    """Raises if an image has fewer captions than the protocol takes."""
    captions = entry.captions
    if len(captions) < count:
        raise InputError(
            f"{entry.name} of {path.name} has {len(captions)} captions, fewer than "
            f"the {count} of captions_per_image; pass {len(captions)}, or None for all."
        )


def stamps_captions_by_language(
    data_dir: str | os.PathLike | None = None,
) -> MultilingualCaptions:
    """Reads the stamps that have captions in English, German, French and Czech."""
    by_language = {}
    for language in LANGUAGES:
        builder = open_corpus(f"stamps/{language}", data_dir=data_dir)
        by_language[language] = {
            image.id: image for image in read_stored_images(builder, "test")
        }
    english, *translations = by_language.values()
    ids = [name for name in english if all(name in images for images in translations)]
    if not ids:
        raise InputError(
            f"no stamp has captions in all of {', '.join(LANGUAGES)}; install "
            "tuxpaint-stamps-default as a whole."
        )
    return MultilingualCaptions(
        images=[english[name].image for name in ids],
        captions={
            language: [list(images[name].captions) for name in ids]
            for language, images in by_language.items()
        },
        image_ids=ids,
        columns={"category": [english[name].category for name in ids]},
    )
