"""Multi30k's test of 2016, as its repository holds it."""

import os
import pathlib

from align_keras.datasets.benchmarks.captioned_images import (
    MultilingualCaptions,
    present_images,
    read_text,
)
from align_keras.utils.errors import InputError

IMAGES = 1000
_LIST = "task1/image_splits/test_2016_flickr.txt"
# Files by language, each with one caption per image: five by people who saw only the
# image (task 2), or a translation (task 1).
_FILES = {
    "en": [f"task2/raw/test_2016.{number}.en" for number in range(1, 6)],
    "de": [f"task2/raw/test_2016.{number}.de" for number in range(1, 6)],
    "fr": ["task1/raw/test_2016_flickr.fr"],
    "cs": ["task1/raw/test_2016_flickr.cs"],
}


def read_multi30k(
    folder: str | os.PathLike,
    images_folder: str | os.PathLike,
    allow_missing: bool = False,
    check_counts: bool = True,
) -> MultilingualCaptions:
    """Reads the images of Flickr30K's test with five captions an image in English and
    German, one in French and Czech, of `github.com/multi30k/dataset` or its `data`.

    References:
        Elliott et al. 2016; Jia et al. 2021, section 8 and table 11.
    """
    folder = pathlib.Path(folder)
    data = folder / "data" if (folder / "data").is_dir() else folder
    names = _lines(data / _LIST)
    if check_counts and len(names) != IMAGES:
        raise InputError(
            f"{data / _LIST} must name {IMAGES:,} images, received {len(names):,}; "
            "clone the repository again, or pass check_counts=False for a subset, "
            "whose recall isn't comparable."
        )
    captions = {}
    for language, files in _FILES.items():
        columns = [_captions(data / file, len(names)) for file in files]
        captions[language] = [list(texts) for texts in zip(*columns, strict=True)]
    paths = [str(pathlib.Path(images_folder, name)) for name in names]
    rows = present_images(paths, _LIST.rpartition("/")[2], allow_missing)
    return MultilingualCaptions(paths, captions, names).of_rows(rows)


def _captions(path: pathlib.Path, expected: int) -> list[str]:
    lines = _lines(path)
    if len(lines) != expected:
        raise InputError(
            f"{path} must have one line an image, {expected:,}, received "
            f"{len(lines):,}; clone the repository again."
        )
    return lines


def _lines(path: pathlib.Path) -> list[str]:
    """The stripped lines of a file or of its `.gz`; none may be empty."""
    text = read_text(path, "clone github.com/multi30k/dataset there")
    # `splitlines` would also split at characters within captions.
    lines = [line.strip() for line in text.rstrip("\n").split("\n")]
    if "" in lines:
        raise InputError(
            f"{path} line {lines.index('') + 1} must not be empty; clone the "
            "repository again."
        )
    return lines
