"""Tests of composed queries from the names of icons."""

import collections
import importlib.util
import json
import pathlib

import pytest

from align_keras.datasets.benchmarks.composed_queries import composed_icon_queries

QTAWESOME = importlib.util.find_spec("qtawesome")


def ids(family, *names):
    return [f"{family}/{name}" for name in names]


def queries_as_text(image_ids):
    """Returns the queries as texts such as `user + plus = user-plus`."""

    def name(row):
        return image_ids[row].partition("/")[2]

    return [
        f"{name(query.image)} {'+' if query.sign > 0 else '-'} {query.words} = "
        + " or ".join(map(name, query.targets))
        for query in composed_icon_queries(image_ids)
    ]


def test_words_added_to_three_bases_form_queries():
    queries = queries_as_text(
        ids(
            "fontawesome6-solid",
            "user",
            "user-slash",
            "user-large",
            "user-large-slash",
            "bell",
            "bell-slash",
            "chess",
            "chess-king",
            "slash",
            "eye-slash",
        )
    )
    assert queries == [
        "user + slash = user-slash",
        "user-slash - slash = user",
        # The base is the longest one, so there is no user + "large slash".
        "user-large + slash = user-large-slash",
        "user-large-slash - slash = user-large",
        "bell + slash = bell-slash",
        "bell-slash - slash = bell",
        # "king" is added only to chess, and there is no icon "eye".
    ]


def test_both_icons_of_a_query_have_the_same_style():
    names = [
        f"{base}{word}" for base in ("cat", "dog", "owl") for word in ("", "-plus")
    ]
    image_ids = ids(
        "phosphor", *(f"{name}{style}" for name in names for style in ("", "-thin"))
    )
    queries = queries_as_text(image_ids)
    assert "cat-thin + plus = cat-plus-thin" in queries
    assert "cat + plus = cat-plus" in queries and len(queries) == 12


def test_both_icons_of_a_query_have_the_same_family():
    image_ids = [
        *ids("phosphor", "cat", "dog", "owl"),
        *ids("remixicon", "cat-plus", "dog-plus", "owl-plus"),
    ]
    assert composed_icon_queries(image_ids) == []


def test_a_base_in_three_styles_counts_once():
    names = (
        "cat",
        "cat-plus",
        "cat-thin",
        "cat-plus-thin",
        "cat-bold",
        "cat-plus-bold",
    )
    assert composed_icon_queries(ids("phosphor", *names)) == []


def test_a_query_may_have_several_words():
    names = [f"{base}{word}" for base in "abc" for word in ("", "-circle-check")]
    queries = queries_as_text(ids("fontawesome6-solid", *names))
    assert queries[0] == "a + circle check = a-circle-check"


@pytest.mark.skipif(QTAWESOME is None, reason="needs qtawesome's fonts")
def test_the_real_test_family_has_the_documented_queries():
    fonts = pathlib.Path(QTAWESOME.submodule_search_locations[0], "fonts")
    charmap = sorted(fonts.glob("fontawesome6-solid-webfont-charmap-*.json"))[-1]
    image_ids = ids("fontawesome6-solid", *sorted(json.loads(charmap.read_text())))
    queries = composed_icon_queries(image_ids)
    # Font Awesome 6.7.2 has 234 pairs. Other versions differ a little.
    assert len(queries) == pytest.approx(468, rel=0.1)
    words = collections.Counter(query.words for query in queries)
    assert words["slash"] >= 40 and words["circle check"] >= 20
    # Three bases have two queries each.
    assert min(words.values()) >= 6
    for query in queries:
        image_id, target_id = image_ids[query.image], image_ids[query.targets[0]]
        short, long = sorted([image_id, target_id], key=len)
        assert long == f"{short}-{query.words.replace(' ', '-')}"
        assert (query.sign > 0) == (image_id == short)
