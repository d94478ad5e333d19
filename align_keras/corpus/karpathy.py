"""Entries of Karpathy's JSON files of Flickr30K and COCO.

References:
    Karpathy and Fei-Fei 2015, "Deep Visual-Semantic Alignments for Generating Image
    Descriptions".
"""

import dataclasses
import os
from typing import Any


@dataclasses.dataclass(frozen=True)
class KarpathyImage:
    """One entry of the list "images".

    Attributes:
        name: str, file name of the image.
        path: str, path of the image in the folder of the images. COCO's images are in
            its subfolders train2014 and val2014.
        split: str, such as `"train"`, `"restval"`, `"val"` or `"test"`.
        captions: tuple of str, as they are in the file.
        caption_ids: tuple of str, the `sentid` of each caption, "" without one.
    """

    name: str
    path: str
    split: str
    captions: tuple[str, ...]
    caption_ids: tuple[str, ...]


def parse_karpathy_image(row: Any) -> KarpathyImage:
    """Reads one entry of the list "images".

    Raises:
        KeyError: if the entry lacks a key.
        TypeError: if a value has another type, or can't name a file.
        AttributeError: if the entry or one of its sentences is no JSON object.
    """
    sentences = row["sentences"]
    captions = tuple(text_value(sentence["raw"]) for sentence in sentences)
    folder = file_name(row.get("filepath", ""))
    name = file_name(row["filename"])
    return KarpathyImage(
        name=name,
        path=os.path.join(folder, name),
        split=row["split"],
        captions=captions,
        caption_ids=tuple(str(sentence.get("sentid", "")) for sentence in sentences),
    )


def text_value(value: object) -> str:
    """Returns a value that must be a text, or raises TypeError."""
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def file_name(value: object) -> str:
    """Returns a text that can name a file, or raises TypeError."""
    name = text_value(value)
    try:
        is_name = b"\0" not in os.fsencode(name)
    except UnicodeEncodeError:  # Halves of surrogate pairs.
        is_name = False
    if not is_name:
        raise TypeError(f"{value!r:.200} can't name a file")
    return name
