"""Tests of the reader of Crisscrossed Captions."""

import csv
import gzip
import os
import pathlib

import numpy as np
import pytest

from align_keras.datasets.benchmarks import (
    CaptionedImages,
    cxc_captioned_images,
    cxc_positives,
    cxc_rated_rows,
    read_cxc,
    read_karpathy,
)
from align_keras.utils.errors import InputError
from tests.helpers.small_benchmarks import (
    caption_name,
    coco_name,
    cxc_rows,
    write_coco,
    write_cxc,
)

# The first 200 ratings of each published file. They are free for any use with
# acknowledgement of Google LLC as their source.
EXCERPT = pathlib.Path(__file__).parent / "cxc_excerpt"


@pytest.fixture
def coco(tmp_path):
    write_coco(tmp_path / "coco")
    return read_karpathy(
        tmp_path / "coco/dataset_coco.json",
        tmp_path / "coco",
        "test",
        captions_per_image=None,
    )


def ratings_of(tmp_path, **rows):
    write_cxc(tmp_path / "cxc", cxc_rows() | rows)
    return read_cxc(tmp_path / "cxc")


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("folder", ["cxc", "cxc/data"])
def test_ratings_are_read(tmp_path, folder, packed):
    write_cxc(tmp_path / folder, cxc_rows(), "val", packed)
    ratings = read_cxc(tmp_path / "cxc", "val")
    assert ratings.split == "val"
    assert ratings.sits[0] == ("0", coco_name(0), 4.5)
    assert ratings.sts[0] == ("0", "1", 1.0)
    assert ratings.sis[1] == (coco_name(1), coco_name(2), pytest.approx(5 / 6))
    counts = {task: len(rows) for task, rows in cxc_rows().items()}
    assert counts == {
        "sts": len(ratings.sts),
        "sis": len(ratings.sis),
        "sits": len(ratings.sits),
    }


# Row of the first caption of each image. Images have five, six or seven captions.
FIRST = {row: [0, 5, 11, 18, 23, 29][row] for row in range(6)}


def test_pairs_rated_three_or_more_are_positives(tmp_path, coco):
    ratings = ratings_of(
        tmp_path,
        sits=[
            (caption_name(0), coco_name(0), 3.0),
            # The caption belongs to the image, but its rating is too low.
            (caption_name(1), coco_name(0), 2.99),
            (caption_name(100), coco_name(0), 5.0),
            (caption_name(100), coco_name(1), 4.0),
        ],
        sts=[
            (caption_name(0), caption_name(1), 3.2),
            (caption_name(200), caption_name(0), 3.0),
            (caption_name(1), caption_name(2), 2.0),
        ],
        sis=[
            (coco_name(0), coco_name(2), 4.0),
            # The same pair was rated in both directions.
            (coco_name(2), coco_name(0), 5.0),
            # An image isn't a correct answer to itself.
            (coco_name(1), coco_name(1), 5.0),
            (coco_name(3), coco_name(4), 1.0),
        ],
    )
    positives = cxc_positives(ratings, coco)
    assert list(map(len, positives)) == [6, 36, 36, 6]
    assert rows_by_query(positives.image_to_text) == {
        0: [0, FIRST[1]],
        1: [FIRST[1]],
    }
    assert rows_by_query(positives.text_to_image) == {0: [0], FIRST[1]: [0, 1]}
    assert rows_by_query(positives.text_to_text) == {
        0: [1, FIRST[2]],
        1: [0],
        FIRST[2]: [0],
    }
    assert rows_by_query(positives.image_to_image) == {0: [2], 2: [0]}
    assert all(rows.dtype == np.int64 for queries in positives for rows in queries)


def rows_by_query(lists):
    return {query: rows.tolist() for query, rows in enumerate(lists) if len(rows)}


def test_rated_pairs_become_rows_of_queries_and_items(tmp_path, coco):
    ratings = ratings_of(
        tmp_path,
        sits=[(caption_name(101), coco_name(4), 2.5)],
        sts=[(caption_name(0), caption_name(502), 3.2)],
        sis=[(coco_name(3), coco_name(5), 1.0), (coco_name(5), coco_name(0), 0.0)],
    )
    rated = cxc_rated_rows(ratings, coco)
    as_lists = {
        task: [column.tolist() for column in columns] for task, columns in rated.items()
    }
    assert as_lists == {
        # The query is an image, and the item is a caption.
        "sits": [[4], [FIRST[1] + 1], [2.5]],
        "sts": [[0, FIRST[5] + 2], [FIRST[5] + 2, 0], [3.2, 3.2]],
        "sis": [[3, 5, 5, 0], [5, 0, 3, 5], [1.0, 0.0, 1.0, 0.0]],
    }


def test_only_rated_captions_are_candidates(tmp_path, coco):
    data = cxc_captioned_images(ratings_of(tmp_path), coco)
    # Images have five, six or seven captions, and five of them are rated.
    assert [len(names) for names in coco.caption_ids] == [5, 6, 7, 5, 6, 7]
    assert data.caption_ids == [names[:5] for names in coco.caption_ids]
    assert data.captions == [texts[:5] for texts in coco.captions]
    assert data.image_ids == coco.image_ids and data.missing == coco.missing


def test_missing_captions_of_coco_are_named(tmp_path, coco):
    ratings = ratings_of(tmp_path, sits=[(caption_name(7), coco_name(1), 4.0)])
    with pytest.raises(InputError, match="captions"):
        cxc_captioned_images(ratings, coco)


def test_ratings_of_missing_images_are_left_out(tmp_path, coco):
    ratings = ratings_of(tmp_path)
    rows = [0, 1, 3, 4, 5]
    fewer = CaptionedImages(
        *(
            [part[row] for row in rows]
            for part in (coco.images, coco.captions, coco.image_ids, coco.caption_ids)
        )
    )
    with pytest.raises(InputError, match="1 of 6"):
        cxc_captioned_images(ratings, fewer)
    data = cxc_captioned_images(ratings, fewer, allow_missing=True)
    positives = cxc_positives(ratings, data)
    assert list(map(len, positives)) == [5, 25, 25, 5]
    # Image 3 is in row 2 now, and has four correct captions.
    assert positives.image_to_text[2].tolist() == [10, 11, 12, 13]
    all_counts, counts = (
        {
            task: len(scores)
            for task, (_, _, scores) in cxc_rated_rows(ratings, images).items()
        }
        for images in (coco, data)
    )
    # The missing image and its captions occur in 15 pairs of a caption and an image, in
    # seven pairs of captions and in two pairs of images. The pairs of captions and of
    # images count in both directions.
    assert counts == {
        "sits": all_counts["sits"] - 15,
        "sts": all_counts["sts"] - 14,
        "sis": all_counts["sis"] - 4,
    }


def test_another_split_of_coco_raises_even_if_images_may_be_missing(tmp_path, coco):
    ratings = ratings_of(tmp_path)
    other = CaptionedImages(["a"], [["x"]], ["a.jpg"], [["1"]])
    with pytest.raises(InputError, match="6 of 6"):
        cxc_captioned_images(ratings, other, allow_missing=True)


@pytest.mark.parametrize(
    "content", ["caption1,caption2,score\n", "caption1,caption2,agg_score\n1,2\n"]
)
def test_a_file_with_other_columns_or_short_lines_raises(tmp_path, content):
    write_cxc(tmp_path, cxc_rows(), packed=False)
    (tmp_path / "sts_test.csv").write_text(content)
    with pytest.raises(InputError, match=r"sts_test\.csv"):
        read_cxc(tmp_path)


def test_an_unknown_split_raises(tmp_path):
    with pytest.raises(InputError, match="split"):
        read_cxc(tmp_path, "dev")


@pytest.mark.parametrize("split", ["val", "test"])
def test_published_ratings_match_the_csv_module(split):
    ratings = read_cxc(EXCERPT, split)
    for task in ("sts", "sis", "sits"):
        with gzip.open(EXCERPT / f"{task}_{split}.csv.gz", "rt") as file:
            rows = list(csv.reader(file))[1:]
        expected = [
            (*(name.split(":")[-1] for name in row[:2]), float(row[2])) for row in rows
        ]
        pairs = [
            (pair.first, pair.second, pair.score) for pair in getattr(ratings, task)
        ]
        assert len(pairs) == 200
        assert pairs == expected


def test_positives_and_rated_rows_of_the_excerpt_have_the_expected_counts():
    """The data contain all rated images. Captions are assigned to arbitrary images."""
    ratings = read_cxc(EXCERPT)
    images = sorted(ratings.image_ids())
    captions = sorted(ratings.caption_ids(), key=int)
    count = len(captions) // len(images) + 1
    parts = [captions[row * count : (row + 1) * count] for row in range(len(images))]
    texts = [["-"] * len(part) for part in parts]
    data = CaptionedImages(images, texts, images, parts)
    positives = cxc_positives(ratings, cxc_captioned_images(ratings, data))
    positive_pairs = {
        task: [pair for pair in getattr(ratings, task) if pair.score >= 3]
        for task in ("sts", "sis", "sits")
    }
    assert sum(map(len, positives.text_to_image)) == len(positive_pairs["sits"])
    assert sum(map(len, positives.image_to_text)) == len(positive_pairs["sits"])
    for task, rows in (
        ("sts", positives.text_to_text),
        ("sis", positives.image_to_image),
    ):
        pairs = {frozenset(pair[:2]) for pair in positive_pairs[task]}
        assert sum(map(len, rows)) == 2 * len(pairs)
    rated = cxc_rated_rows(ratings, data)
    assert {task: len(scores) for task, (_, _, scores) in rated.items()} == {
        "sts": 400,
        "sis": 400,
        "sits": 200,
    }


@pytest.mark.release
def test_all_published_ratings_have_the_documented_counts():
    folder = os.environ.get("ALIGN_KERAS_CXC_DIR")
    if not folder:
        pytest.skip("ALIGN_KERAS_CXC_DIR names no clone of Crisscrossed-Captions")
    ratings = read_cxc(folder, "val")
    assert [len(ratings.sts), len(ratings.sis), len(ratings.sits)] == [
        44_009,
        42_767,
        44_722,
    ]
    ratings = read_cxc(folder, "test")
    assert [len(ratings.sts), len(ratings.sis), len(ratings.sits)] == [
        44_045,
        46_719,
        44_833,
    ]
    images = sorted(ratings.image_ids())
    captions = sorted(ratings.caption_ids(), key=int)
    assert (len(images), len(captions)) == (5000, 25_000)
    # The counts don't depend on the assignment of captions to images.
    data = CaptionedImages(
        images,
        [["-"] * 5] * 5000,
        images,
        [captions[5 * row : 5 * row + 5] for row in range(5000)],
    )
    positives = cxc_positives(ratings, cxc_captioned_images(ratings, data))
    counts = [sum(map(len, rows)) for rows in positives]
    assert counts[0] == counts[1] == 35_585
    # Each pair counts in both directions. Some pairs of images were rated twice.
    assert counts[2] == 2 * 16_184
    image_pairs = {frozenset(pair[:2]) for pair in ratings.sis if pair.score >= 3}
    assert sum(pair.score >= 3 for pair in ratings.sis) == 15_458
    assert counts[3] == 2 * len(image_pairs)
    # Some captions match no image according to the ratings, not even their own.
    assert sum(len(rows) == 0 for rows in positives.text_to_image) == 28
    rated = cxc_rated_rows(ratings, data)
    assert {task: len(scores) for task, (_, _, scores) in rated.items()} == {
        "sts": 2 * 44_045,
        "sis": 2 * 46_719,
        "sits": 44_833,
    }
    assert len(np.unique(rated["sits"][0])) == 5000
