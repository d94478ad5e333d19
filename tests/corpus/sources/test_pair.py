"""Columns of whatever table find their place in a pair."""

from align_keras.corpus.sources.pair import columns_of, pair_from_columns


def test_columns_of_the_usual_sets():
    assert columns_of(["URL", "TEXT", "WIDTH", "similarity"]) == {  # LAION
        "caption": "TEXT",
        "url": "URL",
    }
    assert columns_of(["text", "CAPTION", "url"])["caption"] == "CAPTION"
    assert columns_of(["Caption", "caption"])["caption"] == "Caption"
    assert columns_of(["id"]) == {}


def test_values_that_are_no_text_are_none():
    row = {"caption": None, "rule": 3, "language": float("nan"), "page_url": None}
    assert pair_from_columns("/a", row) == ("/a", "", "caption", "", "")


def test_our_own_columns_come_back():
    row = {"txt": "x", "rule": "figcaption", "lang": "de", "page_url": "https://p"}
    own = pair_from_columns("/a", row | {"url": "https://u"})
    assert own == ("/a", "x", "figcaption", "de", "https://p")
    assert pair_from_columns("/a", {"rule": "DROP TABLE"}).rule == "caption"
