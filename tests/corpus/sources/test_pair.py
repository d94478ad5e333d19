"""Tests of the recognition of columns and of the conversion of rows to pairs."""

import pytest

from align_keras.corpus.sources.pair import columns_of, pair_from_columns


def test_common_columns_are_recognized():
    laion_columns = ["URL", "TEXT", "WIDTH", "similarity"]
    assert columns_of(laion_columns) == {"caption": "TEXT", "url": "URL"}
    assert columns_of(["text", "CAPTION", "url"])["caption"] == "CAPTION"
    assert columns_of(["Caption", "caption"])["caption"] == "Caption"
    assert columns_of(["id"]) == {}


def test_values_other_than_strings_are_ignored():
    row = {"caption": None, "rule": 3, "language": float("nan"), "page_url": None}
    pair = pair_from_columns("/a", row | {"uid": 7})
    assert pair == ("/a", "", "caption", "", "", None, "", "")


def test_all_columns_are_used():
    row = {"txt": "x", "rule": "figcaption", "lang": "de", "page_url": "https://p"}
    pair = pair_from_columns("/a", row | {"url": "https://u", "uid": "0f"})
    assert pair == ("/a", "x", "figcaption", "de", "https://p", None, "0f", "")


def test_an_unknown_rule_becomes_caption():
    assert pair_from_columns("/a", {"rule": "DROP TABLE"}).rule == "caption"


@pytest.mark.parametrize(
    ("width", "height", "size"),
    [
        (60, 40, (60, 40)),
        ("60", "40", (60, 40)),
        (None, None, (0, 0)),
        (float("nan"), float("nan"), (0, 0)),
        (60, None, None),
        (0, 0, None),
        (2**40, 40, None),
        (float("inf"), 40, None),
        ("wide", "high", None),
        ([60], [40], None),
    ],
)
def test_the_original_size_is_validated(width, height, size):
    row = {"original_width": width, "original_height": height}
    assert pair_from_columns("/a", row).original_size == size


def test_the_stored_size_is_not_the_original_size():
    row = {"width": 256, "height": 256, "original_width": 60}
    assert pair_from_columns("/a", row).original_size is None
