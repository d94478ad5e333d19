"""Sources of the kind `folder`: images NAME.jpg next to captions NAME.txt.

The format is the same as in `pair_files`, but several workers can read a folder. If
img2dataset wrote a file NAME.json, the original size of the image is read from it.
"""

import json
import os
from collections.abc import Iterator
from typing import Any

from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.sources.location import path_location
from align_keras.corpus.sources.pair import (
    EVALUATION,
    Part,
    SourceKind,
    SourcePair,
    pair_from_columns,
)
from align_keras.corpus.sources.source_files import (
    MAX_TEXT_BYTES,
    SourceFile,
    grouped_files,
    one_file,
    read_whole,
)
from align_keras.corpus.text_tables import decode, text_lines
from align_keras.utils.addresses import is_url
from align_keras.utils.errors import InputError
from align_keras.utils.files import read_regular
from align_keras.utils.pillow_images import IMAGE_SUFFIXES


def _list_parts(whole: Part, files: list[SourceFile]) -> list[Part]:
    """Divides the images into parts of up to 200."""
    images = [file for file in files if file.name.lower().endswith(IMAGE_SUFFIXES)]
    return grouped_files(whole, images)


def _read_part(part: Part, counter: DropCounter) -> Iterator[SourcePair]:
    """Yields the pairs of a part, image by image."""
    # Evaluation images have the caption "", and their caption files are not read.
    is_evaluation = EVALUATION in part.options
    for name in part.files:
        path = os.path.join(part.root, name)
        if is_evaluation:
            if _exists(path):
                yield SourcePair(path_location(path), "")
            else:
                counter.drop("vanished", path)
            continue
        stem = os.path.splitext(path)[0]
        texts = [stem + suffix for suffix in (".txt", ".TXT") if _exists(stem + suffix)]
        if not texts:
            counter.drop("no caption file" if _exists(path) else "vanished", path)
            continue
        text_path = texts[0]
        content = read_whole(text_path, counter)
        if content is None:
            continue
        try:
            text = decode(text_path, content, "utf-8")
        except InputError:
            counter.drop("wrong encoding", text_path, "not UTF-8")
            continue
        # Blank lines between captions are ignored. A file with nothing but blank lines
        # counts as an empty caption.
        lines = [line for line in text_lines(text) if line.strip()] or [""]
        image = path_location(path)
        original_size = pair_from_columns(image, _metadata(stem)).original_size
        for caption in dict.fromkeys(lines):
            yield SourcePair(image, caption, original_size=original_size)


def _metadata(stem: str) -> dict[str, Any]:
    """Returns the img2dataset metadata of an image, or {} if there is no metadata."""
    path = stem + ".json"
    if not _exists(path):
        return {}
    try:
        row = json.loads(read_regular(path, MAX_TEXT_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}  # Another program wrote the file.
    return row if isinstance(row, dict) else {}


def _exists(path: str) -> bool:
    return one_file(path) is not None if is_url(path) else os.path.lexists(path)


FOLDER_IMAGES = SourceKind(
    # The captions and the sizes in JSON files are part of the fingerprint of a source.
    suffixes=(*IMAGE_SUFFIXES, ".txt", ".json"),
    list_parts=_list_parts,
    read=_read_part,
)
