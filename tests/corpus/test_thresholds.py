"""The filters' numbers and which ones are refused."""

import pytest

from align_keras.corpus.thresholds import Thresholds, primary_language
from align_keras.utils.errors import InputError
from align_keras.utils.image_limits import MAX_PIXELS


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
    ],
)
def test_wrong_values_are_named(wrong):
    with pytest.raises(InputError) as caught:
        Thresholds(**wrong)
    message = str(caught.value)
    assert list(wrong)[-1] in message and "received" in message
    assert repr(list(wrong.values())[-1]) in message and "\n" not in message


def test_edges_are_allowed():
    Thresholds(min_shorter_side=0, frequent_ngrams=0, min_unigrams=4, max_unigrams=4)


def test_languages_count_by_their_primary_subtag():
    own = Thresholds(languages=["en-US", "de", "EN", ""])
    assert own.languages == ("", "de", "en")
    assert primary_language(" zh_Hans-CN") == "zh"
    assert Thresholds(languages=["en", "und"]).languages == ("", "en")
    assert primary_language("und-Latn") == primary_language("") == ""


def test_equal_thresholds_are_equal_keys():
    assert {Thresholds(languages=["de", "en"]): 1}[Thresholds(languages=("en", "de"))]
