"""Each filter at its boundary, by hand."""

import pytest

from align_keras.corpus import Pair, filter_pairs
from align_keras.corpus.filters.filter_rules import (
    REASONS,
    Thresholds,
    primary_language,
)
from align_keras.utils.errors import InputError
from align_keras.utils.files import MAX_PIXELS

SIZE = (640, 480)
TEXT = "a red bicycle"


def reason_of(pairs, number=0, **thresholds):
    """The reason of the pair with this number, read from what changes without it."""
    kept, counts = filter_pairs(pairs, Thresholds(**thresholds))
    if pairs[number] in kept:
        return "kept"
    reasons = [own for own in REASONS if counts[own]]
    assert len(reasons) == 1
    return reasons[0]


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        ((200, 201), "shorter side"),
        ((201, 200), "shorter side"),
        ((200, 200), "shorter side"),
        ((201, 201), "kept"),
        ((201, 603), "aspect"),
        ((603, 201), "aspect"),
        ((201, 602), "kept"),
        ((602, 201), "kept"),
        ((1, 5000), "shorter side"),
        ((0, 0), "kept"),
        ((8192, 6144), "kept"),
        ((8192, 6145), "pixels"),
        ((2**31 - 1, 2**31 - 1), "pixels"),
    ],
)
def test_pictures(size, reason):
    assert reason_of([Pair(size, "a", TEXT)]) == reason


@pytest.mark.parametrize("aspect", [1.1, 1.7, 2.3])
def test_aspects_that_binary_fractions_miss(aspect):
    # 1.1 is 11 / 10: exactly at the limit, whatever the float is.
    size = (round(1000 * aspect), 1000)
    assert reason_of([Pair(size, "a", TEXT)], max_aspect=aspect) == "aspect"
    size = (round(1000 * aspect) - 1, 1000)
    assert reason_of([Pair(size, "a", TEXT)], max_aspect=aspect) == "kept"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (0, "few unigrams"),
        (2, "few unigrams"),
        (3, "kept"),
        (20, "kept"),
        (21, "many unigrams"),
    ],
)
def test_lengths(words, reason):
    text = " ".join(f"w{own}" for own in range(words))
    assert reason_of([Pair(SIZE, "a", text)]) == reason
    # Punctuation doesn't count, ideographs each.
    assert reason_of([Pair(SIZE, "a", f"{text} - !")]) == reason
    assert reason_of([Pair(SIZE, "a", "猫" * words)]) == reason


@pytest.mark.parametrize(("images", "reason"), [(10, "kept"), (11, "images per text")])
def test_texts_shared_by_pictures(images, reason):
    pairs = [Pair(SIZE, f"image {own}", TEXT) for own in range(images)]
    assert reason_of(pairs) == reason
    # Neither case nor white space parts them.
    pairs[-1] = pairs[-1]._replace(caption="A  Red bicycle")
    assert reason_of(pairs) == reason
    # The same picture counts once.
    assert reason_of(pairs[:10] + pairs[:10]) == "kept"


@pytest.mark.parametrize(
    ("texts", "reason"), [(1000, "kept"), (1001, "texts per image")]
)
def test_pictures_with_many_texts(texts, reason):
    pairs = [Pair(SIZE, "one", f"{TEXT} {own}") for own in range(texts)]
    assert reason_of(pairs) == reason
    # The same text counts once.
    assert reason_of(pairs[:1000] + pairs[:1000]) == "kept"


def test_ranks_of_unigrams_and_bigrams():
    # Of "a", "b", "c" and "a b" each occurs twice, "b c" and "c d" and "d" once.
    pairs = [Pair(SIZE, "1", "a b c d"), Pair(SIZE, "2", "A B"), Pair(SIZE, "3", "c")]
    low = {"min_unigrams": 1}
    assert len(filter_pairs(pairs, Thresholds(frequent_ngrams=7, **low))[0]) == 3
    assert len(filter_pairs(pairs, Thresholds(frequent_ngrams=6, **low))[0]) == 2
    assert len(filter_pairs(pairs, Thresholds(frequent_ngrams=4, **low))[0]) == 2
    kept, counts = filter_pairs(pairs, Thresholds(frequent_ngrams=0, **low))
    assert (kept, counts["rare n-gram"]) == ([], 3)


def test_at_the_last_rank_the_order_of_the_pairs_makes_no_difference():
    pairs = [Pair(SIZE, str(own), f"word{own}") for own in range(20)]
    thresholds = Thresholds(frequent_ngrams=7, min_unigrams=1)
    kept, counts = filter_pairs(pairs, thresholds)
    assert len(kept) == 7 and counts["rare n-gram"] == 13
    assert filter_pairs(pairs[::-1], thresholds)[0] == kept[::-1]


def test_dropped_pairs_count_as_raw_input():
    # The small picture's text keeps the words of the other frequent.
    pairs = [Pair((9, 9), "small", "one two"), Pair(SIZE, "large", "one two")]
    pairs.append(Pair(SIZE, "other", "three"))
    thresholds = Thresholds(frequent_ngrams=3, min_unigrams=1)
    kept, counts = filter_pairs(pairs, thresholds)
    assert [own.image_key for own in kept] == ["large"]
    assert (counts["shorter side"], counts["rare n-gram"]) == (1, 1)


def test_languages():
    wanted = {"languages": ("en", "pt")}
    for language, reason in (
        ("en", "kept"),
        ("EN-gb", "kept"),
        ("pt_BR", "kept"),
        ("eng", "language"),
        ("de", "language"),
        ("", "language"),
    ):
        pair = Pair(SIZE, "a", TEXT, language)
        assert reason_of([pair], **wanted) == reason
        assert reason_of([pair]) == "kept"
    for unknown in ("", "und"):
        languages = ("en", unknown)
        assert reason_of([Pair(SIZE, "a", TEXT)], languages=languages) == "kept"
        pair = Pair(SIZE, "a", TEXT, "und")
        assert reason_of([pair], languages=languages) == "kept"
        assert reason_of([pair], languages=("en",)) == "language"


def test_personal_data():
    pair = Pair(SIZE, "a", "write to jane@example.org")
    assert reason_of([pair]) == "personal data"
    assert reason_of([pair], drop_personal_data=False) == "kept"


def test_the_first_reason_counts():
    worst = Pair((100, 300), "a", "jane@example.org", "de")
    thresholds = {
        "max_pixels": 1,
        "max_texts_per_image": 1,
        "languages": ("en",),
        "max_images_per_text": 1,
        "frequent_ngrams": 0,
        "min_unigrams": 4,
    }
    pairs = [worst, worst._replace(image_key="b"), worst._replace(caption="x")]
    off = [
        {},
        {"min_shorter_side": 0},
        {"max_aspect": 4},
        {"max_pixels": 30_000},
        {"max_texts_per_image": 2},
        {"languages": ()},
        {"drop_personal_data": False},
        {"max_images_per_text": 2},
        {"frequent_ngrams": 99},
    ]
    # Pairs in memory have no images that a downloader resized.
    assert REASONS[0] == "unknown size"
    for number, reason in enumerate(REASONS[1:10]):
        thresholds |= off[number]
        counts = filter_pairs(pairs, Thresholds(**thresholds))[1]
        assert counts[reason] > 0, reason
        assert not any(counts[reason] for reason in REASONS[: number + 1])


def test_defaults_are_the_papers():
    own = Thresholds()
    assert (own.min_shorter_side, own.max_aspect) == (200, 3.0)
    assert (own.max_texts_per_image, own.max_images_per_text) == (1000, 10)
    assert (own.min_unigrams, own.max_unigrams) == (3, 20)
    assert own.frequent_ngrams == 100_000_000
    assert own.max_pixels == MAX_PIXELS and own.drop_personal_data


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_shorter_side": -1},
        {"min_shorter_side": 200.5},
        {"min_unigrams": 0},
        {"min_unigrams": 5, "max_unigrams": 4},
        {"max_images_per_text": True},
        {"max_texts_per_image": "1000"},
        {"frequent_ngrams": 1e8},
        {"max_aspect": 1},
        {"max_aspect": float("nan")},
        {"max_pixels": 0},
        {"languages": "en"},
        {"languages": (1,)},
        {"drop_personal_data": 1},
        {"unknown_sizes": "maybe"},
    ],
)
def test_wrong_values_are_named(wrong):
    with pytest.raises(InputError) as caught:
        Thresholds(**wrong)
    message = str(caught.value)
    assert list(wrong)[-1] in message and "received" in message.lower()
    assert repr(list(wrong.values())[-1]) in message and "\n" not in message


def test_edges_are_allowed():
    edges = {"min_shorter_side": 0, "frequent_ngrams": 0}
    edges |= {"min_unigrams": 4, "max_unigrams": 4}
    thresholds = Thresholds(**edges)
    assert {name: getattr(thresholds, name) for name in edges} == edges


def test_languages_count_by_their_primary_subtag():
    own = Thresholds(languages=["en-US", "de", "EN", ""])
    assert own.languages == ("", "de", "en")
    assert primary_language(" zh_Hans-CN") == "zh"
    assert Thresholds(languages=["en", "und"]).languages == ("", "en")
    assert primary_language("und-Latn") == primary_language("") == ""


def test_equal_thresholds_are_equal_keys():
    assert {Thresholds(languages=["de", "en"]): 1}[Thresholds(languages=("en", "de"))]
