"""Parser of Karpathy's JSON files, which split Flickr30K and COCO.

References:
    Karpathy and Fei-Fei 2015, "Deep Visual-Semantic Alignments for Generating Image
    Descriptions".
"""

import dataclasses
import os
from typing import Any


@dataclasses.dataclass(frozen=True)
class KarpathyImage:
    """Entry of the list "images".

    Attributes:
        name: file name of the image.
        path: path of the image relative to the image folder. COCO's images are in the
            subfolders train2014 and val2014.
        split: such as `"train"`, `"restval"`, `"val"` or `"test"`.
        captions: unchanged from the file.
        caption_ids: the `sentid` of each caption, or "" for a caption without a
            `sentid`.
    """

    name: str
    path: str
    split: str
    captions: tuple[str, ...]
    caption_ids: tuple[str, ...]


def parse_karpathy_image(row: Any) -> KarpathyImage:
    """Parses an entry of the list "images".

    Args:
        row: the entry.

    Raises:
        KeyError: if the entry lacks a key.
        TypeError: if a value has a wrong type, or cannot be a file name.
        AttributeError: if the entry or one of its sentences is not a JSON object.
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
    """Returns the value if it is a string. Otherwise raises TypeError."""
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a string")
    return value


def file_name(value: object) -> str:
    """Returns the value if it can be a file name. Otherwise raises TypeError."""
    name = text_value(value)
    try:
        is_valid = b"\0" not in os.fsencode(name)
    except UnicodeEncodeError:  # Unpaired surrogates.
        is_valid = False
    if not is_valid:
        raise TypeError(f"{value!r:.200} cannot be a file name")
    return name
