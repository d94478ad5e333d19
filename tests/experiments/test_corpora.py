"""Tests of the corpus configurations in experiments/corpora/."""

import pytest
import yaml

from align_keras.config import CorpusConfig, experiments, load_corpus_config
from align_keras.config.fields import leaves
from tests.helpers.headers import flatten, read_checked_header

FILES = experiments("corpora")


def test_all_configurations_are_listed():
    assert {"clipart_filtered", "clipart_unfiltered", "emoji_multilingual"} <= set(
        FILES
    )


@pytest.mark.parametrize("name", sorted(FILES))
def test_the_header_has_the_command(name):
    command = read_checked_header(FILES[name])["Command"]
    assert f"--config experiments/corpora/{name}.yaml " in command
    assert f"--out saved_models/corpora/{name}" in command
    # The sources are arguments of the command.
    assert not load_corpus_config([FILES[name]]).sources


# The recipe of the paper sets all of its values, so that defaults can change.
@pytest.mark.parametrize("name", sorted(FILES.keys() - {"paper"}))
def test_no_option_repeats_a_default(name):
    defaults = {key: value for key, value in leaves(CorpusConfig())}
    for key, value in flatten(yaml.safe_load(FILES[name].read_text(encoding="utf-8"))):
        assert value != defaults[key], key


def test_the_unfiltered_clip_art_differs_only_in_filters():
    filtered = load_corpus_config([FILES["clipart_filtered"]])
    unfiltered = load_corpus_config([FILES["clipart_unfiltered"]])
    assert filtered.duplicates == unfiltered.duplicates
    assert filtered.images == unfiltered.images


def test_the_emoji_corpora_differ_only_in_languages():
    multilingual = load_corpus_config([FILES["emoji_multilingual"]])
    for name in ("emoji_english", "emoji_four_languages"):
        all_languages = load_corpus_config([FILES[name]], "filter.languages=[]")
        assert all_languages == multilingual
        assert load_corpus_config([FILES[name]]).filter.languages[0] == "en"
