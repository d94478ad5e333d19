"""Tests of each filter at its threshold."""

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
    """Returns the reason that drops the pair with this number, or "kept".

    All other pairs must be kept or have the same reason.
    """
    kept_pairs, counts = filter_pairs(pairs, Thresholds(**thresholds))
    if pairs[number] in kept_pairs:
        return "kept"
    reasons = [reason for reason in REASONS if counts[reason]]
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
def test_image_sizes_are_limited(size, reason):
    assert reason_of([Pair(size, "a", TEXT)]) == reason


@pytest.mark.parametrize("aspect", [1.1, 1.7, 2.3])
def test_an_aspect_at_the_limit_is_dropped_despite_rounding(aspect):
    # The aspect 11 / 10 equals the limit, although no float is exactly 1.1.
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
def test_the_number_of_words_is_limited(words, reason):
    text = " ".join(f"w{number}" for number in range(words))
    assert reason_of([Pair(SIZE, "a", text)]) == reason
    # Punctuation doesn't count as words, and every ideograph counts as one.
    assert reason_of([Pair(SIZE, "a", f"{text} - !")]) == reason
    assert reason_of([Pair(SIZE, "a", "猫" * words)]) == reason


@pytest.mark.parametrize(("images", "reason"), [(10, "kept"), (11, "images per text")])
def test_the_number_of_images_that_share_a_text_is_limited(images, reason):
    pairs = [Pair(SIZE, f"image {number}", TEXT) for number in range(images)]
    assert reason_of(pairs) == reason
    # Captions that differ only in case and white space are equal.
    pairs[-1] = pairs[-1]._replace(caption="A  Red bicycle")
    assert reason_of(pairs) == reason
    # The same image counts once.
    assert reason_of(pairs[:10] + pairs[:10]) == "kept"


@pytest.mark.parametrize(
    ("texts", "reason"), [(1000, "kept"), (1001, "texts per image")]
)
def test_the_number_of_texts_of_an_image_is_limited(texts, reason):
    pairs = [Pair(SIZE, "one", f"{TEXT} {number}") for number in range(texts)]
    assert reason_of(pairs) == reason
    # The same text counts once.
    assert reason_of(pairs[:1000] + pairs[:1000]) == "kept"


def test_unigrams_and_bigrams_are_ranked_together():
    # "a", "b", "c" and "a b" occur twice each, and "b c", "c d" and "d" once each.
    pairs = [Pair(SIZE, "1", "a b c d"), Pair(SIZE, "2", "A B"), Pair(SIZE, "3", "c")]
    low = {"min_unigrams": 1}
    assert len(filter_pairs(pairs, Thresholds(frequent_ngrams=7, **low))[0]) == 3
    assert len(filter_pairs(pairs, Thresholds(frequent_ngrams=6, **low))[0]) == 2
    assert len(filter_pairs(pairs, Thresholds(frequent_ngrams=4, **low))[0]) == 2
    kept_pairs, counts = filter_pairs(pairs, Thresholds(frequent_ngrams=0, **low))
    assert (kept_pairs, counts["rare n-gram"]) == ([], 3)


def test_ties_at_the_last_rank_do_not_depend_on_the_order_of_the_pairs():
    pairs = [Pair(SIZE, str(number), f"word{number}") for number in range(20)]
    thresholds = Thresholds(frequent_ngrams=7, min_unigrams=1)
    kept_pairs, counts = filter_pairs(pairs, thresholds)
    assert len(kept_pairs) == 7 and counts["rare n-gram"] == 13
    assert filter_pairs(pairs[::-1], thresholds)[0] == kept_pairs[::-1]


def test_dropped_pairs_count_for_the_frequency_of_ngrams():
    # The text of the dropped image makes the words of the large one frequent.
    pairs = [Pair((9, 9), "small", "one two"), Pair(SIZE, "large", "one two")]
    pairs.append(Pair(SIZE, "other", "three"))
    thresholds = Thresholds(frequent_ngrams=3, min_unigrams=1)
    kept_pairs, counts = filter_pairs(pairs, thresholds)
    assert [pair.image_key for pair in kept_pairs] == ["large"]
    assert (counts["shorter side"], counts["rare n-gram"]) == (1, 1)


def test_pairs_in_unlisted_languages_are_dropped():
    english_and_portuguese = {"languages": ("en", "pt")}
    for language, reason in (
        ("en", "kept"),
        ("EN-gb", "kept"),
        ("pt_BR", "kept"),
        ("eng", "language"),
        ("de", "language"),
        ("", "language"),
    ):
        pair = Pair(SIZE, "a", TEXT, language)
        assert reason_of([pair], **english_and_portuguese) == reason
        assert reason_of([pair]) == "kept"
    for unknown in ("", "und"):
        languages = ("en", unknown)
        assert reason_of([Pair(SIZE, "a", TEXT)], languages=languages) == "kept"
        pair = Pair(SIZE, "a", TEXT, "und")
        assert reason_of([pair], languages=languages) == "kept"
        assert reason_of([pair], languages=("en",)) == "language"


def test_captions_with_personal_data_are_dropped():
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
    # Each entry turns off one more rule, in the order of `REASONS`.
    relaxed_thresholds = [
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
        thresholds |= relaxed_thresholds[number]
        counts = filter_pairs(pairs, Thresholds(**thresholds))[1]
        assert counts[reason] > 0, reason
        assert not any(counts[reason] for reason in REASONS[: number + 1])


def test_the_defaults_equal_the_paper():
    defaults = Thresholds()
    assert (defaults.min_shorter_side, defaults.max_aspect) == (200, 3.0)
    assert (defaults.max_texts_per_image, defaults.max_images_per_text) == (1000, 10)
    assert (defaults.min_unigrams, defaults.max_unigrams) == (3, 20)
    assert defaults.frequent_ngrams == 100_000_000
    assert defaults.max_pixels == MAX_PIXELS and defaults.drop_personal_data


def test_an_unknown_choice_is_refused():
    with pytest.raises(InputError, match="unknown_sizes"):
        Thresholds(unknown_sizes="maybe")


def test_languages_are_reduced_to_their_primary_subtags():
    thresholds = Thresholds(languages=["en-US", "de", "EN", ""])
    assert thresholds.languages == ("", "de", "en")
    assert primary_language(" zh_Hans-CN") == "zh"
    assert Thresholds(languages=["en", "und"]).languages == ("", "en")
    assert primary_language("und-Latn") == primary_language("") == ""


def test_equal_thresholds_have_equal_hashes():
    assert {Thresholds(languages=["de", "en"]): 1}[Thresholds(languages=("en", "de"))]
