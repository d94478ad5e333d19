"""Reader of Crisscrossed Captions, similarity ratings for COCO (Parekh et al. 2021)."""

import collections
import dataclasses
import itertools
import os
import pathlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from align_keras.datasets.benchmarks.benchmark_files import read_benchmark_table
from align_keras.datasets.benchmarks.captioned_images import CaptionedImages
from align_keras.utils.arguments import check_choice
from align_keras.utils.errors import InputError

# First columns of the file of each task.
_COLUMNS = {
    "sts": ("caption1", "caption2", "agg_score"),
    "sis": ("image1", "image2", "agg_score"),
    "sits": ("caption", "image", "agg_score"),
}
# Rating from which the two items of a pair count as correct answers to each other.
POSITIVE_SCORE = 3.0


class RatedPair(NamedTuple):
    """Two items that people rated for similarity.

    Attributes:
        first: id of a caption or an image. In the task `sits` it is a caption.
        second: id of a caption or an image. In the task `sits` it is an image.
        score: in [0, 5], mean rating.
    """

    first: str
    second: str
    score: float


@dataclasses.dataclass(frozen=True)
class CxcRatings:
    """Ratings of a split.

    Attributes:
        split: `"test"` or `"val"`.
        sts: list of `RatedPair`, pairs of captions.
        sis: list of `RatedPair`, pairs of images.
        sits: list of `RatedPair`, pairs of a caption and an image.
    """

    split: str
    sts: list
    sis: list
    sits: list

    def image_ids(self) -> set[str]:
        """Returns the ids of the rated images."""
        both = {name for pair in self.sis for name in (pair.first, pair.second)}
        return both | {pair.second for pair in self.sits}

    def caption_ids(self) -> set[str]:
        """Returns the ids of the rated captions."""
        both = {name for pair in self.sts for name in (pair.first, pair.second)}
        return both | {pair.first for pair in self.sits}


def read_cxc(folder: str | os.PathLike, split: str = "test") -> CxcRatings:
    """Reads the ratings of a split.

    Args:
        folder: clone of the repository Crisscrossed-Captions, or its folder `data`.
        split: `"test"` or `"val"`.

    Returns:
        `CxcRatings`.

    Raises:
        InputError: If a file is missing or damaged.
    """
    check_choice("split", split, ("test", "val"))
    folder = pathlib.Path(folder)
    data = folder / "data" if (folder / "data").is_dir() else folder
    return CxcRatings(
        split, *(_read(data / f"{task}_{split}.csv", task) for task in _COLUMNS)
    )


def _read(path: pathlib.Path, task: str) -> list[RatedPair]:
    first, second, score = _COLUMNS[task]
    _, rows = read_benchmark_table(path, ".csv", _COLUMNS[task])
    return [
        RatedPair(_coco_id(row[first]), _coco_id(row[second]), float(row[score]))
        for row, _ in rows
    ]


def _coco_id(name: str) -> str:
    """Returns the number of a caption id, as in Karpathy's file, or an image id."""
    return name.rpartition(":sentid:")[2]


class CxcPositives(NamedTuple):
    """Correct answers of the four retrieval tasks.

    Each field is a list with an int64 array of rows for each query.
    """

    image_to_text: list
    text_to_image: list
    text_to_text: list
    image_to_image: list


def cxc_captioned_images(
    ratings: CxcRatings, coco: CaptionedImages, allow_missing: bool = False
) -> CaptionedImages:
    """Returns a split of COCO with only its rated captions.

    In the test split, 25,000 of 25,010 captions are rated.

    Args:
        ratings: `CxcRatings` of the split.
        coco: the same split of COCO with all captions.
        allow_missing: whether ratings of missing images and captions are allowed.

    Returns:
        `CaptionedImages`.

    Raises:
        InputError: If a rated image or caption is missing and `allow_missing` is False,
            or if all are missing.

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
                f"The {ratings.split} split of COCO must contain all rated {kind}, but "
                f"{len(missing)} of {len(rated)} are missing, such as {missing[0]}."
            )
    rated_captions = ratings.caption_ids()
    rows = [
        [row for row, name in enumerate(names) if name in rated_captions]
        for names in coco.caption_ids
    ]

    def select_rated(values: list[list[str]]) -> list[list[str]]:
        return [
            [image_values[row] for row in image_rows]
            for image_values, image_rows in zip(values, rows, strict=True)
        ]

    return dataclasses.replace(
        coco,
        captions=select_rated(coco.captions),
        caption_ids=select_rated(coco.caption_ids),
    )


def cxc_positives(ratings: CxcRatings, data: CaptionedImages) -> CxcPositives:
    """Returns the correct answers of the four retrieval tasks.

    Two items are correct answers to each other if their pair is rated 3 or more. An
    image's own caption is not a correct answer if its rating is lower.

    Args:
        ratings: `CxcRatings`.
        data: result of `cxc_captioned_images`.

    Returns:
        `CxcPositives`.

    References:
        Parekh et al. 2021, section 5.
    """
    positives = {
        name: [pair[:2] for pair in pairs if pair[2] >= POSITIVE_SCORE]
        for name, pairs in _by_rows(ratings, data).items()
    }
    reversed_positives = {
        name: [pair[::-1] for pair in pairs] for name, pairs in positives.items()
    }
    caption_pairs = positives["sts"] + reversed_positives["sts"]
    image_pairs = positives["sis"] + reversed_positives["sis"]
    images, captions = len(data), sum(map(len, data.caption_ids))
    return CxcPositives(
        image_to_text=_by_query(reversed_positives["sits"], images),
        text_to_image=_by_query(positives["sits"], captions),
        text_to_text=_by_query(caption_pairs, captions, False),
        image_to_image=_by_query(image_pairs, images, False),
    )


def cxc_rated_rows(ratings: CxcRatings, data: CaptionedImages) -> dict[str, tuple]:
    """Returns the rated pairs of each task as arrays.

    Args:
        ratings: `CxcRatings`.
        data: result of `cxc_captioned_images`.

    Returns:
        dict from the task to `(query rows, item rows, ratings)`, arrays of int64, int64
        and float64. The queries of `sits` are images. The pairs of `sts` and `sis`
        occur in both directions.
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
    """Returns the rated pairs in the data by task, as (row, row, rating)."""
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
    """Returns the sorted item rows of each query, int64."""
    rows_of_queries = collections.defaultdict(set)
    for query, row in pairs:
        if with_self or query != row:
            rows_of_queries[query].add(row)
    return [
        np.array(sorted(rows_of_queries[query]), np.int64) for query in range(queries)
    ]
