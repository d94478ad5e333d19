"""Kinds `coco` and `karpathy`: captions in one JSON file, images in `?images=DIR`, else
in the first folder nearby that has one of the first ten: the file's, its subfolders,
the one above, its subfolders. Of Karpathy's the parts `val` and `test` are left out,
and are all that counts with the option `EVALUATION`.
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
from align_keras.corpus.sources.pair import Part, SourceKind, SourcePair
from align_keras.corpus.sources.source_files import (
    MAX_JSON_BYTES,
    SourceFile,
    one_file,
    read_range,
    record_ranges,
)
from align_keras.utils.errors import InputError
from align_keras.utils.files import read_regular
from align_keras.utils.remote import is_url, join_url

_EVALUATION = ("val", "test")
# Option of a source whose copies leave a corpus.
EVALUATION = ("splits", "evaluation")


class _Entry(NamedTuple):
    image: str
    captions: list
    page_url: str


def json_kind(path: str) -> str | None:
    """Says which of the two kinds a JSON file is, or None."""
    try:
        content = json.loads(read_regular(path, MAX_JSON_BYTES))
        images = content["images"]
        if "annotations" in content:
            return "coco" if "caption" in content["annotations"][0] else None
        return "karpathy" if "sentences" in images[0] else None
    except (OSError, ValueError, KeyError, IndexError, TypeError, RecursionError):
        return None


def _list_parts(whole: Part, files: list[SourceFile]) -> list[Part]:
    """Shares the images of each file out, 10,000 a part."""
    parts = []
    for file in files:
        path = os.path.join(whole.root, file.name)
        is_evaluation = EVALUATION in whole.options
        entries, _ = _entries(whole.kind, path, file.modified, is_evaluation)
        folder = dict(whole.options).get("images") or _find_images(path, entries)
        folder = folder if is_url(folder) else os.path.abspath(folder)
        options: tuple = (("images", folder),)
        if is_evaluation:
            options += (EVALUATION,)
        with_folder = dataclasses.replace(whole, options=options)
        parts += record_ranges(with_folder, file.name, len(entries))
    return parts


def _read_part(part: Part, counter: DropCounter) -> Iterator[SourcePair]:
    """Yields the pairs of a range of a file's images, in their order."""
    folder = dict(part.options)["images"]
    is_evaluation = EVALUATION in part.options
    load = functools.partial(_entries, part.kind, is_evaluation=is_evaluation)
    for entry in read_range(part, counter, load):
        if is_url(folder):
            image = join_url(folder, entry.image)
        else:
            image = path_location(os.path.normpath(os.path.join(folder, entry.image)))
        for caption in entry.captions:
            yield SourcePair(image, caption, page_url=entry.page_url)


# One: a process reads the parts of a file one after another.
@functools.lru_cache(maxsize=1)
def _entries(
    kind: str, path: str, modified: int | str, is_evaluation: bool = False
) -> tuple[list[_Entry], DropCounter]:
    """Returns `_Entry`s and what was dropped; `modified` tells a file from an older."""
    text = read_regular(path, MAX_JSON_BYTES)
    try:
        content = json.loads(text)
        for name in ("images", "annotations") if kind == "coco" else ("images",):
            if not isinstance(content[name], list):
                raise TypeError(f"{name} is no list")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{path} must be the JSON of kind {kind}, received something else "
            f"({error}); give its kind, or download it again."
        ) from None
    name, counter = os.path.basename(path), DropCounter()
    if kind == "coco":
        return _coco(content, name, counter), counter
    return _karpathy(content, name, counter, is_evaluation), counter


def _coco(content: Any, name: str, counter: DropCounter) -> list[_Entry]:
    entries, by_id = [], {}
    for number, row in enumerate(content["images"]):
        try:
            page = row.get("flickr_url") or row.get("coco_url") or ""
            entry = _Entry(file_name(row["file_name"]), [], text_value(page))
            by_id[row["id"]] = entry
            entries.append(entry)
        except (KeyError, TypeError, AttributeError) as error:
            counter.drop("broken record", f"images[{number}] of {name}", str(error))
    for number, row in enumerate(content["annotations"]):
        try:
            by_id[row["image_id"]].captions.append(text_value(row["caption"]))
        except (KeyError, TypeError) as error:
            position = f"annotations[{number}] of {name}"
            counter.drop("broken record", position, f"lacks {error}")
    return entries


def _karpathy(
    content: Any, name: str, counter: DropCounter, is_evaluation: bool
) -> list[_Entry]:
    entries = []
    for number, row in enumerate(content["images"]):
        position = f"images[{number}] of {name}"
        try:
            image = parse_karpathy_image(row)
            if (image.split in _EVALUATION) != is_evaluation:
                reason = "training set" if is_evaluation else "evaluation set"
                counter.filter(reason, position, image.split, count=len(image.captions))
            else:
                entries.append(_Entry(image.path, list(image.captions), ""))
        except (KeyError, TypeError, AttributeError) as error:
            counter.drop("broken record", position, str(error))
    return entries


def _find_images(path: str, entries: list[_Entry]) -> str:
    """Returns the folder that has one of the first images."""
    beside = os.path.dirname(path)
    near = (beside,) if is_url(path) else (beside, os.path.dirname(beside))
    places = [place for folder in near for place in _around(folder)]
    first = [entry.image for entry in entries[:10]]
    for place in places:
        if any(one_file(os.path.join(place, image)) for image in first):
            return place
    if not entries:
        return beside
    raise InputError(
        f"the images of {path}, such as {first[0][:200]!r}, must lie beside it or "
        "in a folder nearby, but none is there; give their folder by "
        f"--source '{path}?images=DIR'."
    )


def _around(folder: str) -> list[str]:
    """A folder, then its subfolders in the order of their names, of a local one."""
    if is_url(folder):
        return [folder]
    with os.scandir(folder) as entries:
        return [folder, *sorted(entry.path for entry in entries if entry.is_dir())]


CAPTION_JSON = SourceKind(
    suffixes=(".json",),
    list_parts=_list_parts,
    read=_read_part,
)
