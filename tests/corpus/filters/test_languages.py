"""Tests of language detection for captions."""

import importlib
import importlib.util
import sys

import pytest

from align_keras.corpus import Thresholds, filters
from align_keras.corpus.filters.languages import detect_languages
from align_keras.corpus.filters.pairs import Pair, filter_pairs
from align_keras.utils.errors import InputError

CAPTIONS = {
    "en": "A cat is sleeping on the sofa in the living room",
    "de": "Eine Katze schläft auf dem Sofa im Wohnzimmer",
    "fr": "Un chat dort sur le canapé dans le salon",
    "ja": "猫がソファーで寝ています",
}
needs_detector = pytest.mark.skipif(
    importlib.util.find_spec("py3langid") is None, reason="needs py3langid"
)


@needs_detector
@pytest.mark.parametrize("language", CAPTIONS)
def test_the_language_of_a_caption_is_detected(language):
    caption = CAPTIONS[language]
    assert detect_languages([caption], [""], "undeclared") == [language]
    assert detect_languages([caption], ["xx"], "always") == [language]
    assert detect_languages([caption], ["xx"], "undeclared") == ["xx"]
    assert detect_languages([caption], [""], "never") == [""]


@needs_detector
def test_captions_without_letters_have_no_language():
    assert detect_languages(["12 34 5", "", "– ♥"], [""] * 3, "always") == [""] * 3


@needs_detector
@pytest.mark.parametrize(
    ("detection", "kept_keys"),
    [("never", ["wrong"]), ("undeclared", ["wrong", "en"]), ("always", ["en"])],
)
def test_pairs_in_other_languages_are_dropped(detection, kept_keys):
    pairs = [
        Pair((640, 480), "wrong", CAPTIONS["de"], "en"),
        Pair((640, 480), "en", CAPTIONS["en"]),
        Pair((640, 480), "fr", CAPTIONS["fr"]),
    ]
    thresholds = Thresholds(languages=("en",), detect_language=detection)
    records, counts = filter_pairs(pairs, thresholds)
    assert [record.image_key for record in records] == kept_keys
    assert counts["language"] == 3 - len(kept_keys)


def test_a_missing_detector_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "py3langid", None)
    detect_languages(["A cat"], [""], "never")
    # Imports the module again, because the detector is cached after its first use.
    monkeypatch.setattr(filters, "languages", filters.languages)
    monkeypatch.delitem(sys.modules, "align_keras.corpus.filters.languages")
    languages = importlib.import_module("align_keras.corpus.filters.languages")
    with pytest.raises(InputError, match=r"align-keras\[language\]"):
        languages.detect_languages(["A cat"], [""], "undeclared")
