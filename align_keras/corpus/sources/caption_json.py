"""Sources of the kinds `coco` and `karpathy`: a JSON file of captions.

The images are in the folder of the option `?images=DIR`. Without the option, these
folders are searched for one of the first ten images: the folder of the JSON file, its
subfolders, its parent folder, and the subfolders of the parent. The first folder with
such an image is used.

A `karpathy` source reads the training splits. With the option `EVALUATION` it reads the
splits `val` and `test` instead. With this option, images without captions have the
caption "".
"""

import dataclasses
import functools
import json
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.karpathy import file_name, parse_karpathy_image, text_value
from align_keras.corpus.sources.location import path_location
from align_keras.corpus.sources.pair import (
    EVALUATION,
    Part,
    SourceKind,
    SourcePair,
)
from align_keras.corpus.sources.source_files import (
    MAX_JSON_BYTES,
    SourceFile,
    one_file,
    read_range,
    record_ranges,
)
from align_keras.utils.addresses import is_url
from align_keras.utils.errors import InputError
from align_keras.utils.files import read_regular
from align_keras.utils.remote import absolute_path, join_url

_EVALUATION_SPLITS = ("val", "test")


class _Entry(NamedTuple):
    """Image of a JSON file.

    Attributes:
        image: path of the image relative to the image folder.
        page_url: address of the image or its page, or "".
    """

    image: str
    captions: list
    page_url: str


def json_kind(path: str) -> str | None:
    """Returns the kind of a JSON file, "coco" or "karpathy", or None."""
    try:
        content = json.loads(read_regular(path, MAX_JSON_BYTES))
        images = list(content["images"])
        if "annotations" in content:
            return "coco" if "caption" in content["annotations"][0] else None
        return "karpathy" if "sentences" in images[0] else None
    except (OSError, ValueError, KeyError, IndexError, TypeError, RecursionError):
        return None


def _list_parts(whole: Part, files: list[SourceFile]) -> list[Part]:
    """Divides the images of each file into parts of 10,000."""
    parts = []
    for file in files:
        path = os.path.join(whole.root, file.name)
        is_evaluation = EVALUATION in whole.options
        entries, _ = _entries(whole.kind, path, file.modified, is_evaluation)
        folder = dict(whole.options).get("images") or _find_image_folder(path, entries)
        options: tuple = (("images", absolute_path(folder)),)
        if is_evaluation:
            options += (EVALUATION,)
        whole_with_folder = dataclasses.replace(whole, options=options)
        parts += record_ranges(whole_with_folder, file.name, len(entries))
    return parts


def _read_part(part: Part, counter: DropCounter) -> Iterator[SourcePair]:
    """Yields the pairs of a range of images, in the order of the file."""
    folder = dict(part.options)["images"]
    is_evaluation = EVALUATION in part.options
    load = functools.partial(_entries, part.kind, is_evaluation=is_evaluation)
    for entry in read_range(part, counter, load):
        if is_url(folder):
            image = join_url(folder, entry.image)
        else:
            image = path_location(os.path.normpath(os.path.join(folder, entry.image)))
        captions = entry.captions
        if is_evaluation and not captions:
            captions = [""]
        for caption in captions:
            yield SourcePair(image, caption, page_url=entry.page_url)


# The cache has one entry, since a process reads the parts of a file one after another.
@functools.lru_cache(maxsize=1)
def _entries(
    kind: str, path: str, modified: int | str, is_evaluation: bool = False
) -> tuple[list[_Entry], DropCounter]:
    """Reads the entries of a JSON file, and counts the dropped entries."""
    # `modified` is part of the cache key.
    text = read_regular(path, MAX_JSON_BYTES)
    try:
        content = json.loads(text)
        images = list(content["images"])
        annotations = list(content["annotations"]) if kind == "coco" else []
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{path} must be a JSON file of kind {kind}. Received: another structure "
            f"({error}). Specify the kind of the file, or download it again."
        ) from None
    name, counter = os.path.basename(path), DropCounter()
    if kind == "coco":
        return _coco(images, annotations, name, counter), counter
    return _karpathy(images, name, counter, is_evaluation), counter


def _coco(
    images: list[Any], annotations: list[Any], name: str, counter: DropCounter
) -> list[_Entry]:
    entries, by_id = [], {}
    for number, row in enumerate(images):
        try:
            page = row.get("flickr_url") or row.get("coco_url") or ""
            entry = _Entry(file_name(row["file_name"]), [], text_value(page))
            by_id[row["id"]] = entry
            entries.append(entry)
        except (KeyError, TypeError, AttributeError) as error:
            counter.drop("broken record", f"images[{number}] of {name}", str(error))
    for number, row in enumerate(annotations):
        try:
            by_id[row["image_id"]].captions.append(text_value(row["caption"]))
        except (KeyError, TypeError) as error:
            position = f"annotations[{number}] of {name}"
            counter.drop("broken record", position, f"missing or invalid: {error}")
    return entries


def _karpathy(
    images: list[Any], name: str, counter: DropCounter, is_evaluation: bool
) -> list[_Entry]:
    entries = []
    for number, row in enumerate(images):
        position = f"images[{number}] of {name}"
        try:
            image = parse_karpathy_image(row)
            if (image.split in _EVALUATION_SPLITS) != is_evaluation:
                reason = "training set" if is_evaluation else "evaluation set"
                counter.filter(reason, position, image.split, count=len(image.captions))
            else:
                entries.append(_Entry(image.path, list(image.captions), ""))
        except (KeyError, TypeError, AttributeError) as error:
            counter.drop("broken record", position, str(error))
    return entries


def _find_image_folder(path: str, entries: list[_Entry]) -> str:
    """Returns the first nearby folder that contains one of the first ten images."""
    json_folder = os.path.dirname(path)
    parents = [json_folder]
    if not is_url(path):
        parents.append(os.path.dirname(json_folder))
    candidates = [folder for parent in parents for folder in _with_subfolders(parent)]
    first_images = [entry.image for entry in entries[:10]]
    for folder in candidates:
        if any(one_file(os.path.join(folder, image)) for image in first_images):
            return folder
    if not entries:
        return json_folder
    raise InputError(
        f"The images of {path} must be next to it, in a subfolder, or in a folder next "
        f"to its folder. Received: no such folder has {first_images[0][:200]!r}. Set "
        f"the image folder with --source '{path}?images=DIR'."
    )


def _with_subfolders(folder: str) -> list[str]:
    """Returns a folder and, if it is local, its subfolders in the order of names."""
    if is_url(folder):
        return [folder]
    with os.scandir(folder) as entries:
        return [folder, *sorted(entry.path for entry in entries if entry.is_dir())]


CAPTION_JSON = SourceKind(
    suffixes=(".json",),
    list_parts=_list_parts,
    read=_read_part,
)
