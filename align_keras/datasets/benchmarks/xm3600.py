"""Reader of Crossmodal-3600 (XM3600), images with captions in 36 languages."""

import json
import os
import pathlib
from typing import Any, NamedTuple

from align_keras.datasets.benchmarks.captioned_images import (
    MultilingualCaptions,
    present_images,
    read_text,
)
from align_keras.utils.errors import InputError

XM3600_IMAGES = 3600
_REMEDY = "Unpack captions.zip of google.github.io/crossmodal-3600 into that folder"


class _Entry(NamedTuple):
    """Line of `captions.jsonl`.

    Attributes:
        key: str, name of the image without its suffix.
        locale: str, language for which the image was chosen.
        captions: dict from a language to a list of captions.
    """

    key: str
    locale: str
    captions: dict[str, list[str]]


def read_xm3600(
    folder: str | os.PathLike, allow_missing: bool = False, check_counts: bool = True
) -> MultilingualCaptions:
    """Reads the images of XM3600 and all their captions in each language.

    Args:
        folder: folder with `captions.jsonl` and the images, `images/KEY.jpg`.
        allow_missing: bool, whether to report and leave out missing images.
        check_counts: bool, whether to check that there are 3,600 images.

    Returns:
        `MultilingualCaptions` with the column `locale`, the language for which an image
        was chosen. An image without captions in a language has an empty list there.

    Raises:
        InputError: if the file is missing, damaged or incomplete, or an image is
            missing and `allow_missing` is False.

    References:
        Thapliyal et al. 2022, "Crossmodal-3600: A Massively Multilingual Multimodal
        Evaluation Dataset".
    """
    folder = pathlib.Path(folder)
    path = folder / "captions.jsonl"
    # `splitlines` would also split at Unicode line separators within captions.
    lines = read_text(path, _REMEDY).rstrip("\n").split("\n")
    entries = [_entry(path, number, line) for number, line in enumerate(lines, start=1)]
    if check_counts and len(entries) != XM3600_IMAGES:
        raise InputError(
            f"{path} must have {XM3600_IMAGES:,} images. Received: {len(entries):,} "
            f"images. {_REMEDY}."
        )
    languages = sorted({language for entry in entries for language in entry.captions})
    data = MultilingualCaptions(
        images=[str(folder / "images" / f"{entry.key}.jpg") for entry in entries],
        captions={
            language: [entry.captions.get(language, []) for entry in entries]
            for language in languages
        },
        image_ids=[entry.key for entry in entries],
        columns={"locale": [entry.locale for entry in entries]},
    )
    rows = present_images(data.images, "XM3600", allow_missing)
    return data.select_rows(rows)


def _entry(path: pathlib.Path, number: int, line: str) -> _Entry:
    """Parses a line. An `InputError` names the line."""
    try:
        entry = json.loads(line)
        key = entry["image/key"]
        captions = {
            name: _texts(value["caption"])
            for name, value in entry.items()
            if isinstance(value, dict) and "caption" in value
        }
        if not isinstance(key, str) or os.path.basename(key) != key or not captions:
            raise ValueError("the key is no file name, or there is no caption")
        return _Entry(key, str(entry.get("image/locale", "")), captions)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} line {number} must be an object with image/key and, for each "
            f"language, a list named caption. Received: {line[:40]!r} ({error}). "
            f"{_REMEDY}."
        ) from None


def _texts(values: Any) -> list[str]:
    if not isinstance(values, list) or not all(
        isinstance(text, str) for text in values
    ):
        raise ValueError("caption must be a list of str")
    return [" ".join(text.split()) for text in values]
