"""Crisscrossed Captions: ratings, and the pairs that they rate (Parekh et al. 2021)."""

import collections
import csv
import dataclasses
import itertools
import os
import pathlib
import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from align_keras.datasets.benchmarks.captioned_images import (
    CaptionedImages,
    read_text,
)
from align_keras.utils.arguments import check_choice
from align_keras.utils.errors import InputError

_REMEDY = "clone github.com/google-research-datasets/Crisscrossed-Captions there"
# The columns that a file begins with, by task.
_COLUMNS = {
    "sts": ("caption1", "caption2", "agg_score"),
    "sis": ("image1", "image2", "agg_score"),
    "sits": ("caption", "image", "agg_score"),
}
_CAPTION_ID = re.compile(r"COCO_\w+:sentid:(\d+)")
_IMAGE_ID = re.compile(r"COCO_\w+_\d{12}\.jpg")
# Pairs that are rated at least so are right answers to each other.
POSITIVE_SCORE = 3.0


class RatedPair(NamedTuple):
    """Two captions or images that people compared; of `sits` the caption is `first`."""

    first: str
    second: str
    score: float


@dataclasses.dataclass(frozen=True)
class CxcRatings:
    """A split's `RatedPair`s: `sts` of captions, `sis` of images, `sits` of both."""

    split: str
    sts: list
    sis: list
    sits: list

    def image_ids(self) -> set[str]:
        """Returns the rated images."""
        both = {name for pair in self.sis for name in (pair.first, pair.second)}
        return both | {pair.second for pair in self.sits}

    def caption_ids(self) -> set[str]:
        """Returns the rated captions."""
        both = {name for pair in self.sts for name in (pair.first, pair.second)}
        return both | {pair.first for pair in self.sits}


def read_cxc(folder: str | os.PathLike, split: str = "test") -> CxcRatings:
    """Reads the ratings of `"test"` or `"val"`, of the repository as cloned or its
    `data`.
    """
    check_choice("split", split, ("test", "val"))
    folder = pathlib.Path(folder)
    data = folder / "data" if (folder / "data").is_dir() else folder
    return CxcRatings(
        split, *(_read(data / f"{task}_{split}.csv", task) for task in _COLUMNS)
    )


def _read(path: pathlib.Path, task: str) -> list[RatedPair]:
    lines = csv.reader(read_text(path, _REMEDY).splitlines())
    header = tuple(next(lines, ()))
    columns = _COLUMNS[task]
    if header[: len(columns)] != columns:
        raise InputError(
            f"{path} must begin with the columns {', '.join(columns)}, received "
            f"{', '.join(header) or 'nothing'}; download it again."
        )
    patterns = [
        _CAPTION_ID if name.startswith("caption") else _IMAGE_ID for name in columns[:2]
    ]
    pairs = [
        _pair(path, number, patterns, len(header), cells)
        for number, cells in enumerate(lines, start=2)
    ]
    if not pairs:
        raise InputError(f"{path} must hold ratings, received none; download it again.")
    return pairs


def _pair(
    path: pathlib.Path,
    number: int,
    patterns: list[re.Pattern[str]],
    width: int,
    cells: list[str],
) -> RatedPair:
    names = []
    for pattern, cell in zip(patterns, cells, strict=False):
        match = pattern.fullmatch(cell)
        if match is not None:
            # The id of a caption is the number, as in Karpathy's file.
            names.append(match.group(pattern.groups))
    try:
        score = float(cells[2])
    except (IndexError, ValueError):
        score = -1.0
    if len(cells) != width or len(names) != len(patterns) or not 0 <= score <= 5:
        raise InputError(
            f"{path} line {number} must have two ids of COCO and a rating in [0, 5] "
            f"in {width} columns, received {','.join(cells)!r}; download it again."
        )
    return RatedPair(names[0], names[1], score)


class CxcPositives(NamedTuple):
    """The right answers of the four tasks: for each query an int64 array of rows."""

    image_to_text: list
    text_to_image: list
    text_to_text: list
    image_to_image: list


def cxc_captioned_images(
    ratings: CxcRatings, coco: CaptionedImages, allow_missing: bool = False
) -> CaptionedImages:
    """Returns COCO's split with the rated captions, 25,000 of 25,010 in the test split.

    Args:
        ratings: `CxcRatings` of the split.
        coco: `CaptionedImages`, the same split of COCO with all captions.
        allow_missing: bool, True to leave out ratings of missing images and captions.

    Returns:
        `CaptionedImages`.

    Raises:
        InputError: if a rated image or caption is missing.

    References:
        Parekh et al. 2021, section 3: five captions of each image are rated.
    """
    captions = {name for names in coco.caption_ids for name in names}
    for kind, rated, available in (
        ("images", ratings.image_ids(), set(coco.image_ids)),
        ("captions", ratings.caption_ids(), captions),
    ):
        missing = sorted(rated - available)
        if missing and not (allow_missing and len(missing) < len(rated)):
            raise InputError(
                f"COCO's {ratings.split} split must have all rated {kind}, but lacks "
                f"{len(missing)} of {len(rated)}, such as {missing[0]}; read the same "
                "split with all its captions and images."
            )
    rated_captions = ratings.caption_ids()
    rows = [
        [row for row, name in enumerate(names) if name in rated_captions]
        for names in coco.caption_ids
    ]

    def of_rated(values: list[list[str]]) -> list[list[str]]:
        return [
            [of_image[row] for row in of_rows]
            for of_image, of_rows in zip(values, rows, strict=True)
        ]

    return dataclasses.replace(
        coco,
        captions=of_rated(coco.captions),
        caption_ids=of_rated(coco.caption_ids),
    )


def cxc_positives(ratings: CxcRatings, data: CaptionedImages) -> CxcPositives:
    """Finds the right answers of the four retrieval tasks: what was rated 3 or more
    together, and nothing else, also no caption of the image itself rated lower.

    References:
        Parekh et al. 2021, section 5.
    """
    right = {
        name: [pair[:2] for pair in pairs if pair[2] >= POSITIVE_SCORE]
        for name, pairs in _by_rows(ratings, data).items()
    }
    turned = {name: [pair[::-1] for pair in pairs] for name, pairs in right.items()}
    images, captions = len(data), sum(map(len, data.caption_ids))
    return CxcPositives(
        image_to_text=_by_query(turned["sits"], images),
        text_to_image=_by_query(right["sits"], captions),
        text_to_text=_by_query(right["sts"] + turned["sts"], captions, False),
        image_to_image=_by_query(right["sis"] + turned["sis"], images, False),
    )


def cxc_rated_rows(ratings: CxcRatings, data: CaptionedImages) -> dict[str, tuple]:
    """Lists the rated pairs by task: (query rows, rows found, ratings), int64, int64
    and float64. Queries of `sits` are its images; others stand in both directions.
    """
    rated = {}
    for name, pairs in _by_rows(ratings, data).items():
        columns = np.array(pairs, float).reshape(-1, 3).T
        first_rows, second_rows = columns[:2].astype(np.int64)
        if name == "sits":
            rated[name] = (second_rows, first_rows, columns[2])
        else:
            rated[name] = (
                np.concatenate([first_rows, second_rows]),
                np.concatenate([second_rows, first_rows]),
                np.tile(columns[2], 2),
            )
    return rated


def _by_rows(
    ratings: CxcRatings, data: CaptionedImages
) -> dict[str, list[tuple[int, int, float]]]:
    """Returns (row, row, score) of the rated pairs that the data have, by task."""
    ids = itertools.chain.from_iterable(data.caption_ids)
    images = {name: row for row, name in enumerate(data.image_ids)}
    captions = {name: row for row, name in enumerate(ids)}
    return {
        name: [
            (first[pair.first], second[pair.second], pair.score)
            for pair in getattr(ratings, name)
            if pair.first in first and pair.second in second
        ]
        for name, first, second in (
            ("sts", captions, captions),
            ("sis", images, images),
            ("sits", captions, images),
        )
    }


def _by_query(
    pairs: Iterable[tuple[int, int]], queries: int, with_self: bool = True
) -> list[np.ndarray]:
    rows_of_queries = collections.defaultdict(set)
    for query, row in pairs:
        if with_self or query != row:
            rows_of_queries[query].add(row)
    return [
        np.array(sorted(rows_of_queries[query]), np.int64) for query in range(queries)
    ]
