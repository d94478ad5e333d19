"""Kind `folder`: NAME.jpg beside NAME.txt as `pair_files` has it, for many workers.
The sizes in a NAME.json by img2dataset count.
"""

import json
import os
from collections.abc import Iterator
from typing import Any

from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.pair_files import IMAGE_SUFFIXES, decode
from align_keras.corpus.sources.location import path_location
from align_keras.corpus.sources.pair import (
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
from align_keras.utils.errors import InputError
from align_keras.utils.files import read_regular
from align_keras.utils.remote import is_url

# The texts and the sizes count for the fingerprint.


def _list_parts(whole: Part, files: list[SourceFile]) -> list[Part]:
    """Shares the images out, up to 200 a part."""
    images = [file for file in files if file.name.lower().endswith(IMAGE_SUFFIXES)]
    return grouped_files(whole, images)


def _read_part(part: Part, counter: DropCounter) -> Iterator[SourcePair]:
    """Yields the pairs of a part's images, those of one image together."""
    for name in part.files:
        path = os.path.join(part.root, name)
        stem = os.path.splitext(path)[0]
        texts = [stem + end for end in (".txt", ".TXT") if _is_there(stem + end)]
        if not texts:
            counter.drop("no caption file" if _is_there(path) else "vanished", path)
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
        # Blank lines between captions are layout, a file of nothing else is bad.
        lines = [line for line in text.splitlines() if line.strip()] or [""]
        image = path_location(path)
        original_size = pair_from_columns(image, _metadata(stem)).original_size
        for caption in dict.fromkeys(lines):
            yield SourcePair(image, caption, original_size=original_size)


def _metadata(stem: str) -> dict[str, Any]:
    """Returns what img2dataset wrote about an image, or {} without such a file."""
    path = stem + ".json"
    if not _is_there(path):
        return {}
    try:
        row = json.loads(read_regular(path, MAX_TEXT_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}  # Another program's file, which no pair depends on.
    return row if isinstance(row, dict) else {}


def _is_there(path: str) -> bool:
    return one_file(path) is not None if is_url(path) else os.path.lexists(path)


FOLDER_IMAGES = SourceKind(
    suffixes=(*IMAGE_SUFFIXES, ".txt", ".json"),
    list_parts=_list_parts,
    read=_read_part,
)
