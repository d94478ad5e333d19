"""Reader of the test set of Multi30k from 2016."""

import os
import pathlib

from align_keras.datasets.benchmarks.benchmark_files import read_text
from align_keras.datasets.benchmarks.captioned_images import (
    MultilingualCaptions,
    present_images,
)
from align_keras.utils.errors import InputError

IMAGES = 1000
_LIST = "task1/image_splits/test_2016_flickr.txt"
# Files of each language. Each line is a caption of one image. Task 2 has five
# independent captions per image, and task 1 has one translated caption.
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
) -> MultilingualCaptions:
    """Reads the test set of 2016 with captions in four languages.

    Each image has five captions in English and in German, and one caption in French and
    in Czech.

    Args:
        folder: clone of `github.com/multi30k/dataset`, or its folder `data`.
        images_folder: folder of the images of Flickr30K.
        allow_missing: whether to report and leave out missing images.

    Returns:
        `MultilingualCaptions`.

    Raises:
        InputError: If a file is missing or damaged, or an image is missing and
            `allow_missing` is False.

    References:
        Elliott et al. 2016.
        Jia et al. 2021, section 8 and table 11.
    """
    folder = pathlib.Path(folder)
    data = folder / "data" if (folder / "data").is_dir() else folder
    names = _lines(data / _LIST)
    captions = {}
    for language, files in _FILES.items():
        columns = [_lines(data / file) for file in files]
        captions[language] = [list(texts) for texts in zip(*columns, strict=True)]
    paths = [str(pathlib.Path(images_folder, name)) for name in names]
    rows = present_images(paths, _LIST.rpartition("/")[2], allow_missing)
    return MultilingualCaptions(paths, captions, names).select_rows(rows)


def _lines(path: pathlib.Path) -> list[str]:
    """Returns the stripped lines of a file or its `.gz`, one for each image."""
    text = read_text(path)
    # `splitlines` would also split at Unicode line separators within captions.
    lines = [line.strip() for line in text.rstrip("\n").split("\n")]
    # The recall on a subset isn't comparable.
    if len(lines) != IMAGES:
        raise InputError(
            f"{path} must have {IMAGES:,} lines, one per image. Received: "
            f"{len(lines):,} lines."
        )
    return lines
