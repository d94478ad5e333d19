"""Readers of SugarCrepe and Winoground, whose wrong captions differ in few words."""

import dataclasses
import json
import os
import pathlib
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

from align_keras.datasets.benchmarks.captioned_images import present_images, read_text
from align_keras.utils.errors import InputError, needs

# Numbers of image-caption pairs of SugarCrepe's categories.
SUGAR_CREPE_COUNTS = {
    "add_obj": 2062,
    "add_att": 692,
    "replace_obj": 1652,
    "replace_att": 788,
    "replace_rel": 1406,
    "swap_obj": 245,
    "swap_att": 666,
}
WINOGROUND_EXAMPLES = 400
_SUGAR_CREPE_REMEDY = "Clone github.com/RAIVNLab/sugar-crepe into that folder"
_WINOGROUND_REMEDY = "Download the data set facebook/winoground from Hugging Face again"
_TAGS = ("tag", "secondary_tag", "num_main_preds", "collapsed_tag")


@dataclasses.dataclass(frozen=True)
class CaptionChoices:
    """Images with a correct and a wrong caption each (SugarCrepe).

    Attributes:
        images: list of paths.
        captions: list of str, the correct caption of each image.
        negative_captions: list of str, the wrong caption of each image.
        image_ids: list of str, the file names. An image can occur several times.
        columns: dict with the column `category`, a list of str.
    """

    images: list[str]
    captions: list[str]
    negative_captions: list[str]
    image_ids: list[str]
    columns: dict[str, list]


@dataclasses.dataclass(frozen=True)
class CaptionedImagePairs:
    """Pairs of images with two captions of the same words (Winoground).

    Attributes:
        images: list of the first and the second image of each example, as paths or
            encoded images. It has twice as many entries as there are examples.
        captions: list of the captions of these images.
        image_ids: list of str, the number of each example.
        columns: dict from a tag, such as `collapsed_tag`, to a list with the value of
            each example.
    """

    images: list[Any]
    captions: list[str]
    image_ids: list[str]
    columns: dict[str, list]


def read_sugar_crepe(
    folder: str | os.PathLike,
    images_folder: str | os.PathLike,
    allow_missing: bool = False,
    check_counts: bool = True,
) -> CaptionChoices:
    """Reads the categories of SugarCrepe.

    Args:
        folder: clone of the repository, or folder of `add_obj.json`, `add_att.json`,
            `replace_obj.json`, `replace_att.json`, `replace_rel.json`, `swap_obj.json`
            and `swap_att.json`.
        images_folder: folder of COCO's images, `val2017`.
        allow_missing: bool, whether to report and leave out missing images.
        check_counts: bool, whether to check that all categories are complete. If False,
            the categories without a file are left out.

    Returns:
        `CaptionChoices`.

    Raises:
        InputError: if a file is missing, damaged or incomplete, or an image is missing
            and `allow_missing` is False.

    References:
        Hsieh et al. 2023, "SugarCrepe: Fixing Hackable Benchmarks for Vision-Language
        Compositionality".
    """
    folder = pathlib.Path(folder)
    if (folder / "data").is_dir():
        folder = folder / "data"
    images: list[str] = []
    captions: list[str] = []
    negative_captions: list[str] = []
    categories: list[str] = []
    for category, count in SUGAR_CREPE_COUNTS.items():
        path = folder / f"{category}.json"
        if not check_counts and not path.exists():
            continue
        entries = _sugar_crepe_entries(path)
        if check_counts and len(entries) != count:
            raise InputError(
                f"{path} must have {count:,} entries. Received: {len(entries):,} "
                f"entries. {_SUGAR_CREPE_REMEDY}."
            )
        for entry in entries:
            images.append(str(pathlib.Path(images_folder, entry["filename"])))
            captions.append(entry["caption"])
            negative_captions.append(entry["negative_caption"])
            categories.append(category)
    if not images:
        raise InputError(
            f"{folder} must contain files such as add_obj.json. Received: no such "
            f"file. {_SUGAR_CREPE_REMEDY}."
        )
    rows = present_images(images, "SugarCrepe", allow_missing)
    return CaptionChoices(
        images=[images[row] for row in rows],
        captions=[captions[row] for row in rows],
        negative_captions=[negative_captions[row] for row in rows],
        image_ids=[os.path.basename(images[row]) for row in rows],
        columns={"category": [categories[row] for row in rows]},
    )


def _sugar_crepe_entries(path: pathlib.Path) -> list[dict[str, str]]:
    keys = ("filename", "caption", "negative_caption")
    try:
        entries = list(json.loads(read_text(path, _SUGAR_CREPE_REMEDY)).values())
        for entry in entries:
            if not all(isinstance(entry[key], str) for key in keys):
                raise TypeError("a value is not a str")
        return entries
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path} must contain an object of entries with {', '.join(keys)}. "
            f"Received: {error}. {_SUGAR_CREPE_REMEDY}."
        ) from None


def read_winoground(
    folder: str | os.PathLike, check_counts: bool = True
) -> CaptionedImagePairs:
    """Reads the examples of Winoground in the layouts of Hugging Face.

    Args:
        folder: folder of the data set, or its folder `data`. It contains Parquet files
            with the columns `image_0`, `image_1`, `caption_0` and `caption_1`, or
            `examples.jsonl` and the images in `images.zip` or `images/`.
        check_counts: bool, whether to check that there are 400 examples.

    Returns:
        `CaptionedImagePairs`.

    Raises:
        InputError: if a file is missing, damaged or incomplete.

    References:
        Thrush et al. 2022, "Winoground: Probing Vision and Language Models for
        Visio-Linguistic Compositionality".
    """
    folder = pathlib.Path(folder)
    if (folder / "data").is_dir():
        folder = folder / "data"
    tables = sorted(folder.rglob("*.parquet"))
    if tables:
        examples = [row for path in tables for row in _parquet_rows(path)]
    else:
        examples = list(_jsonl_rows(folder))
    if check_counts and len(examples) != WINOGROUND_EXAMPLES:
        raise InputError(
            f"{folder} must have {WINOGROUND_EXAMPLES} examples. Received: "
            f"{len(examples)} examples. {_WINOGROUND_REMEDY}."
        )
    return CaptionedImagePairs(
        images=[row[f"image_{number}"] for row in examples for number in (0, 1)],
        captions=[
            str(row[f"caption_{number}"]) for row in examples for number in (0, 1)
        ],
        image_ids=[str(row.get("id", number)) for number, row in enumerate(examples)],
        columns={
            tag: [str(row[tag]) for row in examples]
            for tag in _TAGS
            if all(tag in row for row in examples)
        },
    )


def _parquet_rows(path: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the rows of a Parquet file with the images as bytes."""
    with needs("parquet", "The Parquet files of Winoground need pyarrow"):
        import pyarrow
        import pyarrow.parquet
    columns = ["image_0", "image_1", "caption_0", "caption_1"]
    try:
        names = pyarrow.parquet.read_schema(path).names
        columns += [tag for tag in ("id", *_TAGS) if tag in names]
        rows = pyarrow.parquet.read_table(path, columns=columns).to_pylist()
        for row in rows:
            for name in ("image_0", "image_1"):
                row[name] = row[name]["bytes"]
        return rows
    except (pyarrow.ArrowException, OSError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} must be a table with the columns {', '.join(columns)}. Received: "
            f"{' '.join(str(error).split()):.120}. {_WINOGROUND_REMEDY}."
        ) from None


def _jsonl_rows(folder: pathlib.Path) -> Iterator[dict[str, Any]]:
    """Yields the lines of `examples.jsonl` with the images as paths or bytes."""
    path = folder / "examples.jsonl"
    text = read_text(path, _WINOGROUND_REMEDY)
    images = _winoground_images(folder)
    for number, line in enumerate(text.rstrip("\n").split("\n"), start=1):
        try:
            row = dict(json.loads(line))
            for name in ("image_0", "image_1"):
                # The file has the names of the images without their suffix.
                stem = str(row[name]).removesuffix(".png")
                image = images[stem]
                is_file = isinstance(image, pathlib.Path)
                row[name] = str(image) if is_file else image.read_bytes()
            for name in ("caption_0", "caption_1"):
                row[name] = str(row[name])
        except (ValueError, KeyError, TypeError, OSError, zipfile.BadZipFile) as error:
            raise InputError(
                f"{path} line {number} must name two captions and two images of "
                f"images.zip or images/. Received: {line[:60]!r} ({error!r:.80}). "
                f"{_WINOGROUND_REMEDY}."
            ) from None
        yield row


def _winoground_images(folder: pathlib.Path) -> Mapping[str, Any]:
    """Returns the paths of the images, in a folder or a ZIP file, by their stems."""
    archive = folder / "images.zip"
    root: Any = folder / "images"
    if not root.is_dir() and archive.is_file():
        try:
            root = zipfile.Path(zipfile.ZipFile(archive))
        except (OSError, zipfile.BadZipFile) as error:
            raise InputError(
                f"{archive} must be a ZIP file. Received: {error}. "
                f"{_WINOGROUND_REMEDY}."
            ) from None
        if (root / "images").is_dir():
            root = root / "images"
    elif not root.is_dir():
        raise InputError(
            f"{folder} must contain images/ or images.zip. Received: neither of them. "
            f"{_WINOGROUND_REMEDY}."
        )
    return {path.name.rpartition(".")[0]: path for path in root.iterdir()}
