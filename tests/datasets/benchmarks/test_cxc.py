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

# The first 200 ratings of each published file, free for any use with acknowledgement of
# Google LLC as their source.
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
def test_read(tmp_path, folder, packed):
    write_cxc(tmp_path / folder, cxc_rows(), "val", packed)
    ratings = read_cxc(tmp_path / "cxc", "val")
    assert ratings.split == "val"
    assert ratings.sits[0] == ("0", coco_name(0), 4.5)
    assert ratings.sts[0] == ("0", "1", 1.0)
    assert ratings.sis[1] == (coco_name(1), coco_name(2), pytest.approx(5 / 6))
    counts = {name: len(own) for name, own in cxc_rows().items()}
    assert counts == {
        "sts": len(ratings.sts),
        "sis": len(ratings.sis),
        "sits": len(ratings.sits),
    }


# Rows of the fixture's captions: pictures have five, six and seven.
FIRST = {row: [0, 5, 11, 18, 23, 29][row] for row in range(6)}


def test_positives_by_hand(tmp_path, coco):
    ratings = ratings_of(
        tmp_path,
        sits=[
            (caption_name(0), coco_name(0), 3.0),
            (caption_name(1), coco_name(0), 2.99),  # Its own, and yet wrong.
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
            (coco_name(2), coco_name(0), 5.0),  # Rated in both directions.
            (coco_name(1), coco_name(1), 5.0),  # No one finds itself.
            (coco_name(3), coco_name(4), 1.0),
        ],
    )
    right = cxc_positives(ratings, coco)
    assert [len(captions) for captions in right] == [6, 36, 36, 6]
    assert found(right.image_to_text) == {0: [0, FIRST[1]], 1: [FIRST[1]]}
    assert found(right.text_to_image) == {0: [0], FIRST[1]: [0, 1]}
    assert found(right.text_to_text) == {0: [1, FIRST[2]], 1: [0], FIRST[2]: [0]}
    assert found(right.image_to_image) == {0: [2], 2: [0]}
    assert all(rows.dtype == np.int64 for own in right for rows in own)


def found(lists):
    return {query: rows.tolist() for query, rows in enumerate(lists) if len(rows)}


def test_rated_rows_by_hand(tmp_path, coco):
    ratings = ratings_of(
        tmp_path,
        sits=[(caption_name(101), coco_name(4), 2.5)],
        sts=[(caption_name(0), caption_name(502), 3.2)],
        sis=[(coco_name(3), coco_name(5), 1.0), (coco_name(5), coco_name(0), 0.0)],
    )
    rated = cxc_rated_rows(ratings, coco)
    as_lists = {name: [part.tolist() for part in own] for name, own in rated.items()}
    assert as_lists == {
        # A picture is the query, a caption the item.
        "sits": [[4], [FIRST[1] + 1], [2.5]],
        "sts": [[0, FIRST[5] + 2], [FIRST[5] + 2, 0], [3.2, 3.2]],
        "sis": [[3, 5, 5, 0], [5, 0, 3, 5], [1.0, 0.0, 1.0, 0.0]],
    }


def test_only_rated_captions_are_candidates(tmp_path, coco):
    data = cxc_captioned_images(ratings_of(tmp_path), coco)
    # Images have five, six and seven captions, of which five are rated.
    assert [len(names) for names in coco.caption_ids] == [5, 6, 7, 5, 6, 7]
    assert data.caption_ids == [names[:5] for names in coco.caption_ids]
    assert data.captions == [texts[:5] for texts in coco.captions]
    assert data.image_ids == coco.image_ids and data.missing == coco.missing


def test_what_coco_lacks_is_named(tmp_path, coco):
    ratings = ratings_of(
        tmp_path, sits=[(caption_name(7), coco_name(77), 4.0), *cxc_rows()["sits"]]
    )
    with pytest.raises(InputError, match=f"images, but lacks 1 of 7.*{coco_name(77)}"):
        cxc_captioned_images(ratings, coco)
    ratings = ratings_of(tmp_path, sits=[(caption_name(7), coco_name(1), 4.0)])
    with pytest.raises(InputError, match="captions, but lacks 1 of 31, such as 7;"):
        cxc_captioned_images(ratings, coco)


def test_ratings_of_missing_pictures_are_left_out(tmp_path, coco):
    ratings = ratings_of(tmp_path)
    rows = [0, 1, 3, 4, 5]
    fewer = CaptionedImages(
        *(
            [part[row] for row in rows]
            for part in (coco.images, coco.captions, coco.image_ids, coco.caption_ids)
        )
    )
    with pytest.raises(InputError, match="lacks 1 of 6"):
        cxc_captioned_images(ratings, fewer)
    data = cxc_captioned_images(ratings, fewer, allow_missing=True)
    right = cxc_positives(ratings, data)
    assert [len(captions) for captions in right] == [5, 25, 25, 5]
    # Of picture 3, which has moved to row 2: its four captions.
    assert right.image_to_text[2].tolist() == [10, 11, 12, 13]
    whole = {name: len(own[2]) for name, own in cxc_rated_rows(ratings, coco).items()}
    left = {name: len(own[2]) for name, own in cxc_rated_rows(ratings, data).items()}
    # Its five captions were rated with it, with the next picture, and the previous
    # picture's with it; five pairs of its own captions, and two with other pictures'.
    assert left == {
        "sits": whole["sits"] - 15,
        "sts": whole["sts"] - 14,
        "sis": whole["sis"] - 4,
    }


def test_another_split_of_coco_is_told_even_where_pictures_may_lack(tmp_path, coco):
    ratings = ratings_of(tmp_path)
    other = CaptionedImages(["a"], [["x"]], ["a.jpg"], [["1"]])
    with pytest.raises(InputError, match="lacks 6 of 6"):
        cxc_captioned_images(ratings, other, allow_missing=True)


@pytest.mark.parametrize(
    ("task", "row", "message"),
    [
        ("sts", ("COCO_val2014:sentid:x", caption_name(1), 1.0), "sts_test.csv line 2"),
        ("sits", (coco_name(1), caption_name(1), 1.0), "two ids of COCO"),
        ("sis", (coco_name(1), coco_name(2), 5.1), r"rating in \[0, 5\]"),
        ("sis", (coco_name(1), coco_name(2), "nan"), r"rating in \[0, 5\]"),
        ("sis", (coco_name(1), coco_name(2), "high"), r"rating in \[0, 5\]"),
        ("sis", (coco_name(1), coco_name(2)), "in 4 columns"),
        ("sis", (), "in 4 columns"),
    ],
)
def test_a_malformed_line(tmp_path, task, row, message):
    with pytest.raises(InputError, match=message) as caught:
        ratings_of(tmp_path, **{task: [row]})
    assert "\n" not in str(caught.value)


def test_another_split(tmp_path):
    with pytest.raises(InputError, match="one of test, val. Received: split='dev'"):
        read_cxc(tmp_path, "dev")


def test_no_files(tmp_path):
    with pytest.raises(InputError, match=r"no readable .*sts_test.csv .*; clone"):
        read_cxc(tmp_path)


def test_a_damaged_archive(tmp_path):
    write_cxc(tmp_path, cxc_rows())
    path = tmp_path / "sis_test.csv.gz"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match=r"sis_test.csv.gz \(Compressed file ended"):
        read_cxc(tmp_path)
    path.write_bytes(b"nothing packed")
    with pytest.raises(InputError, match="Not a gzipped file"):
        read_cxc(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "received nothing"),
        ("caption1,caption2,score\n", "begin with the columns caption1, caption2, agg"),
        ("caption1,caption2,agg_score,sampling_method\n", "must hold ratings"),
    ],
)
def test_other_columns(tmp_path, content, message):
    write_cxc(tmp_path, cxc_rows(), packed=False)
    (tmp_path / "sts_test.csv").write_text(content)
    with pytest.raises(InputError, match=message):
        read_cxc(tmp_path)


@pytest.mark.parametrize("split", ["val", "test"])
def test_published_lines(split):
    """Every line of the excerpt by the csv module alone."""
    ratings = read_cxc(EXCERPT, split)
    for task in ("sts", "sis", "sits"):
        with gzip.open(EXCERPT / f"{task}_{split}.csv.gz", "rt") as file:
            rows = list(csv.reader(file))[1:]
        expected = [
            (*(own.split(":")[-1] for own in row[:2]), float(row[2])) for row in rows
        ]
        found = [(own.first, own.second, own.score) for own in getattr(ratings, task)]
        assert len(found) == 200
        assert found == expected


def test_an_excerpts_positives_and_rated_rows():
    """All of its images and captions, as COCO would give them."""
    ratings = read_cxc(EXCERPT)
    images = sorted(ratings.image_ids())
    captions = sorted(ratings.caption_ids(), key=int)
    count = len(captions) // len(images) + 1
    parts = [captions[row * count : (row + 1) * count] for row in range(len(images))]
    data = CaptionedImages(images, [["-"] * len(own) for own in parts], images, parts)
    right = cxc_positives(ratings, cxc_captioned_images(ratings, data))
    good = {
        task: [own for own in getattr(ratings, task) if own.score >= 3]
        for task in ("sts", "sis", "sits")
    }
    assert sum(map(len, right.text_to_image)) == len(good["sits"])
    assert sum(map(len, right.image_to_text)) == len(good["sits"])
    for task, own in (("sts", right.text_to_text), ("sis", right.image_to_image)):
        pairs = {frozenset(pair[:2]) for pair in good[task]}
        assert sum(map(len, own)) == 2 * len(pairs)
    rated = cxc_rated_rows(ratings, data)
    assert {task: len(own[2]) for task, own in rated.items()} == {
        "sts": 400,
        "sis": 400,
        "sits": 200,
    }


@pytest.mark.release
def test_the_real_ratings():
    """The counts of all published files, in the folder that a variable names."""
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
    # Which caption belongs to which picture doesn't matter to the counts.
    data = CaptionedImages(
        images,
        [["-"] * 5] * 5000,
        images,
        [captions[5 * row : 5 * row + 5] for row in range(5000)],
    )
    right = cxc_positives(ratings, cxc_captioned_images(ratings, data))
    pairs = [sum(map(len, own)) for own in right]
    assert pairs[0] == pairs[1] == 35_585
    # Each pair counts for both; of the pictures some were rated twice.
    assert pairs[2] == 2 * 16_184
    either = {frozenset(pair[:2]) for pair in ratings.sis if pair.score >= 3}
    assert sum(pair.score >= 3 for pair in ratings.sis) == 15_458
    assert pairs[3] == 2 * len(either)
    # Captions that people found to fit no picture, their own included.
    assert sum(len(own) == 0 for own in right.text_to_image) == 28
    rated = cxc_rated_rows(ratings, data)
    assert {name: len(own[2]) for name, own in rated.items()} == {
        "sts": 2 * 44_045,
        "sis": 2 * 46_719,
        "sits": 44_833,
    }
    assert len(np.unique(rated["sits"][0])) == 5000
