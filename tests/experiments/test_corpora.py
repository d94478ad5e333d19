"""How corpora are built: the files of experiments/corpora/."""

import pytest
import yaml

from align_keras.config import CorpusConfig, experiments, load_corpus_config
from align_keras.config.fields import leaves
from tests.helpers.headers import checked_header, flat

FILES = experiments("corpora")


def test_the_files_are_there():
    assert {"clipart_filtered", "clipart_unfiltered", "emoji_multilingual"} <= set(
        FILES
    )


@pytest.mark.parametrize("name", sorted(FILES))
def test_says_how_it_is_used_and_what_to_expect(name):
    command = checked_header(FILES[name])["Command"]
    assert f"--config experiments/corpora/{name}.yaml " in command
    assert f"--out saved_models/corpora/{name}" in command
    # The sources are the command's.
    assert not load_corpus_config([FILES[name]]).sources


# The paper's recipe spells out its values, so that no change of a default changes it.
@pytest.mark.parametrize("name", sorted(FILES.keys() - {"paper"}))
def test_holds_only_what_differs_from_the_defaults(name):
    defaults = {key: value for key, value, _ in leaves(CorpusConfig())}
    for key, value in flat(yaml.safe_load(FILES[name].read_text(encoding="utf-8"))):
        assert value != defaults[key], key


def test_the_unfiltered_clip_art_differs_in_filters_alone():
    ours, raw = (
        load_corpus_config([FILES[f"clipart_{kind}"]])
        for kind in ("filtered", "unfiltered")
    )
    assert (ours.duplicates, ours.images) == (raw.duplicates, raw.images)


def test_the_emoji_corpora_differ_in_languages_alone():
    every = load_corpus_config([FILES["emoji_multilingual"]])
    for name in ("emoji_english", "emoji_four_languages"):
        own = load_corpus_config([FILES[name]], "filter.languages=[]")
        assert own == every
        assert load_corpus_config([FILES[name]]).filter.languages[0] == "en"
