"""CxC's ratings as rows of pictures and captions."""

import collections
from typing import NamedTuple

import numpy as np

from align_keras.utils.errors import InputError

# Pairs that are rated at least so are right answers to each other.
POSITIVE_SCORE = 3.0


class CxcPositives(NamedTuple):
    """The right answers of the four retrieval tasks.

    Each is a list with, for each query, an int64 array of rows. Captions are
    counted through, picture by picture.
    """

    image_to_text: list
    text_to_image: list
    text_to_text: list
    image_to_image: list


def cxc_captioned_images(ratings, coco, allow_missing=False):
    """Checks that COCO's split has everything that was rated.

    Args:
        ratings: `CxcRatings`.
        coco: `CaptionedImages` of the same split with all captions of each
            picture, as `read_karpathy` reads them with `captions_per_image=None`.
        allow_missing: bool, whether ratings of what `coco` hasn't got are left
            out by `cxc_positives` and `cxc_rated_rows`.

    Returns:
        `coco`: the gallery is the whole split, 5,000 pictures and 25,010 captions.

    Raises:
        InputError: if something that was rated lacks.

    References:
        Parekh et al. 2021, section 5.
    """
    captions = {name for own in coco.caption_ids for name in own}
    for kind, rated, there in (
        ("pictures", ratings.image_ids(), set(coco.image_ids)),
        ("captions", ratings.caption_ids(), captions),
    ):
        missing = sorted(rated - there)
        if missing and not (allow_missing and len(missing) < len(rated)):
            raise InputError(
                f"COCO's {ratings.split} split must have all rated {kind}, but lacks "
                f"{len(missing)} of {len(rated)}, such as {missing[0]}; read the same "
                "split with all its captions and pictures."
            )
    return coco


def cxc_positives(ratings, data):
    """Finds the right answers of the four retrieval tasks.

    Pictures and captions that were rated 3 or more together are right answers,
    and no others: a caption of the picture itself that people rated lower is
    wrong. Captions, and pictures, rated so are right answers to each other.

    Args:
        ratings: `CxcRatings`.
        data: `CaptionedImages` of `cxc_captioned_images`.

    Returns:
        `CxcPositives`.

    References:
        Parekh et al. 2021, section 5.

    Example:

    >>> from align_keras.datasets.benchmarks.captioned_images import CaptionedImages
    >>> from align_keras.datasets.benchmarks.cxc import CxcRatings, RatedPair
    >>> coco = CaptionedImages(["a", "b"], [["x"], ["y"]], ["A", "B"], [["1"], ["2"]])
    >>> sits = [RatedPair("1", "A", 5.0), RatedPair("2", "A", 3.0)]
    >>> ratings = CxcRatings("test", [RatedPair("1", "2", 2.5)], [], sits)
    >>> right = cxc_positives(ratings, cxc_captioned_images(ratings, coco))
    >>> right.image_to_text, right.text_to_text
    ([array([0, 1]), array([], dtype=int64)], [array([], ...), array([], ...)])
    """
    images, captions = _rows(data)
    right = {
        name: [
            (first[pair.first], second[pair.second])
            for pair in pairs
            if pair.score >= POSITIVE_SCORE
            and pair.first in first
            and pair.second in second
        ]
        for name, pairs, first, second in (
            ("sts", ratings.sts, captions, captions),
            ("sis", ratings.sis, images, images),
            ("sits", ratings.sits, captions, images),
        )
    }
    turned = {name: [pair[::-1] for pair in pairs] for name, pairs in right.items()}
    return CxcPositives(
        image_to_text=_by_query(turned["sits"], len(images)),
        text_to_image=_by_query(right["sits"], len(captions)),
        text_to_text=_by_query(right["sts"] + turned["sts"], len(captions), False),
        image_to_image=_by_query(right["sis"] + turned["sis"], len(images), False),
    )


def cxc_rated_rows(ratings, data):
    """Lists the rated pairs by rows, for correlation.

    Args:
        ratings: `CxcRatings`.
        data: `CaptionedImages` of `cxc_captioned_images`.

    Returns:
        dict from `"sts"`, `"sis"` and `"sits"` to (query rows, item rows, ratings),
        int64, int64 and float64 arrays. The queries of `sits` are its pictures, and
        each pair of `sts` and of `sis` stands there in both directions.

    Example:

    >>> from align_keras.datasets.benchmarks.captioned_images import CaptionedImages
    >>> from align_keras.datasets.benchmarks.cxc import CxcRatings, RatedPair
    >>> coco = CaptionedImages(["a", "b"], [["x"], ["y"]], ["A", "B"], [["1"], ["2"]])
    >>> sits = [RatedPair("1", "A", 5.0), RatedPair("2", "A", 3.0)]
    >>> ratings = CxcRatings("test", [RatedPair("1", "2", 2.5)], [], sits)
    >>> [column.tolist() for column in cxc_rated_rows(ratings, coco)["sts"]]
    [[0, 1], [1, 0], [2.5, 2.5]]
    """
    images, captions = _rows(data)
    rated = {}
    for name, pairs, first, second in (
        ("sts", ratings.sts, captions, captions),
        ("sis", ratings.sis, images, images),
        ("sits", ratings.sits, captions, images),
    ):
        rows = [
            (first[pair.first], second[pair.second], pair.score)
            for pair in pairs
            if pair.first in first and pair.second in second
        ]
        columns = np.array(rows, float).reshape(-1, 3).T
        ones, others = columns[:2].astype(np.int64)
        if name == "sits":
            rated[name] = (others, ones, columns[2])
        else:
            rated[name] = (
                np.concatenate([ones, others]),
                np.concatenate([others, ones]),
                np.tile(columns[2], 2),
            )
    return rated


def _rows(data):
    """The rows of pictures and of captions by their ids."""
    captions = [name for own in data.caption_ids for name in own]
    return (
        {name: row for row, name in enumerate(data.image_ids)},
        {name: row for row, name in enumerate(captions)},
    )


def _by_query(pairs, queries, with_self=True):
    found = collections.defaultdict(set)
    for query, row in pairs:
        if with_self or query != row:
            found[query].add(row)
    return [np.array(sorted(found[query]), np.int64) for query in range(queries)]
