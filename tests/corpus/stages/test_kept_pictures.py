import collections

import pytest

from align_keras.corpus.duplicates.near_duplicates import (
    DUPLICATE,
    NEAR_DUPLICATE,
    NEAR_EVALUATION,
    Dropped,
)
from align_keras.corpus.parquet_pairs import table_writer
from align_keras.corpus.stages.by_picture import picture_schema
from align_keras.corpus.stages.kept_pictures import kept_captions, kept_pictures
from align_keras.corpus.stages.pictures import stored_schema

DROPPED = [
    Dropped("b", DUPLICATE, "a", ""),
    Dropped("c", NEAR_DUPLICATE, "a", ""),
    Dropped("d", NEAR_EVALUATION, "x", "stamps"),
]


def text(caption, language="en-us"):
    own = {"caption": caption, "rule": "alt", "language": language}
    return own | {"page_url": "page", "source": "html:a"}


@pytest.fixture
def tables(tmp_path):
    groups = [
        [("a", ["A cat", "Zoo cat"]), ("b", ["A cat", "Kitty"]), ("c", ["Cropped"])],
        [("d", ["A stamp"]), ("e", ["Broken"]), ("f", ["A red bus in London"])],
    ]
    paths = []
    for number, group in enumerate(groups):
        own = tmp_path / f"group-{number}", tmp_path / f"part-{number}"
        with table_writer(own[0], picture_schema()) as append:
            append(
                [
                    {
                        "image_key": key,
                        "image": f"/{key}.jpg",
                        "width": 400,
                        "height": 300,
                        "captions": [text(caption) for caption in captions],
                    }
                    for key, captions in group
                ]
            )
        with table_writer(own[1], stored_schema()) as append:
            append(
                [
                    {
                        "image_key": key,
                        "pixel_key": 2 * key,
                        "fault": "truncated" if key == "e" else "",
                        "jpeg": key.encode(),
                    }
                    for key, _ in group
                ]
            )
        paths.append(own)
    return [[str(own[column]) for own in paths] for column in (0, 1)]


def test_equal_pictures_leave_their_captions_and_near_ones_do_not(tables):
    first, second = kept_pictures(*tables, DROPPED)
    assert first["captions"] == ["A cat", "Kitty", "Zoo cat"]
    assert first["sources"] == ["html:a"] * 3
    assert (first["id"], first["image_key"], first["image"]) == ("a", "aa", b"a")
    assert (first["width"], first["height"], first["location"]) == (400, 300, "/a.jpg")
    assert second["captions"] == ["A red bus in London"]


def test_dropped_may_have_been_json(tables):
    as_lists = [list(own) for own in DROPPED]
    assert list(kept_pictures(*tables, as_lists)) == list(
        kept_pictures(*tables, DROPPED)
    )


def test_captions_come_with_their_language(tables):
    found = collections.Counter(kept_captions(*tables, DROPPED))
    expected = ["A cat", "Kitty", "Zoo cat", "A red bus in London"]
    assert found == collections.Counter((own, "en") for own in expected)
