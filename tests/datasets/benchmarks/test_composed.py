import collections
import importlib.util
import json
import pathlib

import pytest

from align_keras.datasets.benchmarks.composed import composed_icon_queries
from align_keras.utils.errors import InputError

QTAWESOME = importlib.util.find_spec("qtawesome")


def ids(family, *names):
    return [f"{family}/{name}" for name in names]


def told(image_ids):
    """The queries as texts: `user + plus = user-plus`."""
    name = lambda row: image_ids[row].partition("/")[2]  # noqa: E731
    return [
        f"{name(query.image)} {'+' if query.sign > 0 else '-'} {query.words} = "
        + " or ".join(map(name, query.targets))
        for query in composed_icon_queries(image_ids)
    ]


def test_pairs_by_hand():
    found = told(
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
    assert found == [
        "user + slash = user-slash",
        "user-slash - slash = user",
        # The longest base, not user plus "large slash".
        "user-large + slash = user-large-slash",
        "user-large-slash - slash = user-large",
        "bell + slash = bell-slash",
        "bell-slash - slash = bell",
        # chess-king: "king" is added to chess alone; eye isn't an icon here.
    ]


def test_styles_of_drawing_go_with_their_own():
    names = [
        f"{base}{word}" for base in ("cat", "dog", "owl") for word in ("", "-plus")
    ]
    image_ids = ids(
        "phosphor", *(f"{name}{style}" for name in names for style in ("", "-thin"))
    )
    found = told(image_ids)
    assert "cat-thin + plus = cat-plus-thin" in found
    assert "cat + plus = cat-plus" in found and len(found) == 12


def test_families_are_not_mixed():
    image_ids = [
        *ids("phosphor", "cat", "dog", "owl"),
        *ids("remixicon", "cat-plus", "dog-plus", "owl-plus"),
    ]
    with pytest.raises(InputError, match="received 6 ids without any"):
        composed_icon_queries(image_ids)


def test_words_count_by_base_and_not_by_style():
    """One base in three styles is one base."""
    names = (
        "cat",
        "cat-plus",
        "cat-thin",
        "cat-plus-thin",
        "cat-bold",
        "cat-plus-bold",
    )
    with pytest.raises(InputError, match="without any"):
        composed_icon_queries(ids("phosphor", *names))


def test_several_words():
    names = [f"{base}{word}" for base in "abc" for word in ("", "-circle-check")]
    assert told(ids("fontawesome6-solid", *names))[0] == (
        "a + circle check = a-circle-check"
    )


def test_other_ids():
    for image_id in ("user", "nofamily/user", "phosphor/", "phosphor/-"):
        with pytest.raises(
            InputError, match="must be FAMILY/NAME with a family of mat"
        ):
            composed_icon_queries([image_id])


@pytest.mark.skipif(QTAWESOME is None, reason="needs qtawesome's fonts")
def test_the_real_test_family():
    fonts = pathlib.Path(QTAWESOME.submodule_search_locations[0], "fonts")
    charmap = sorted(fonts.glob("fontawesome6-solid-webfont-charmap-*.json"))[-1]
    image_ids = ids("fontawesome6-solid", *sorted(json.loads(charmap.read_text())))
    queries = composed_icon_queries(image_ids)
    # 234 pairs in Font Awesome 6.7.2; other versions may differ a little.
    assert len(queries) == pytest.approx(468, rel=0.1)
    words = collections.Counter(query.words for query in queries)
    assert words["slash"] >= 40 and words["circle check"] >= 20
    assert min(words.values()) >= 6  # Three bases, both ways.
    for query in queries:
        own, target = image_ids[query.image], image_ids[query.targets[0]]
        short, long = sorted([own, target], key=len)
        assert long == f"{short}-{query.words.replace(' ', '-')}"
        assert (query.sign > 0) == (own == short)
