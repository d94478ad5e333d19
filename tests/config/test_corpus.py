"""Configuration of a corpus."""

import dataclasses

import pytest

from align_keras.config import (
    CorpusConfig,
    experiments,
    load_corpus_config,
    write_config_file,
)
from align_keras.config.corpus_config import SCORE_COLUMNS, FilterConfig
from align_keras.corpus.filters.filter_rules import Thresholds
from align_keras.utils.errors import InputError


def test_filter_options_and_defaults_are_those_of_the_thresholds():
    assert FilterConfig().model_dump() == dataclasses.asdict(Thresholds())


def test_the_defaults_are_those_of_the_paper():
    filters = FilterConfig()
    assert (filters.min_shorter_side, filters.max_aspect) == (200, 3.0)
    assert (filters.max_texts_per_image, filters.max_images_per_text) == (1000, 10)
    assert (filters.min_unigrams, filters.max_unigrams) == (3, 20)
    assert filters.frequent_ngrams == 100_000_000
    assert CorpusConfig().vocabulary.size == 100_000
    duplicates = CorpusConfig().duplicates
    assert duplicates.nearest_clusters == 10
    assert duplicates.min_cosine_against == 0.975
    assert not duplicates.inside_corpus


def test_a_saved_configuration_is_loaded_unchanged(tmp_path):
    overrides = [
        {"sources": ["html:a,b", "tfds:x:train[:1]"], "duplicates.against": ["coco:ä"]},
        "filter.languages=[en, de],shards.number_of_shards=3,filter.max_aspect=2",
    ]
    config = load_corpus_config(params_override=overrides)
    assert config.sources == ("html:a,b", "tfds:x:train[:1]")
    assert config.filter.languages == ("en", "de") and config.filter.max_aspect == 2.0
    write_config_file(config, tmp_path / "corpus.yaml")
    assert load_corpus_config([tmp_path / "corpus.yaml"]) == config


@pytest.mark.parametrize(
    "override, key",
    [
        ("filter.min_unigrams=21", "filter.min_unigrams"),
        ("filter.languages=en", "filter.languages"),
        ("duplicates.mode=embedding", "duplicates.encoder"),
        ("duplicates.max_distance=2", "duplicates.max_distance"),
        ("score.hooks=[a:b]", "score.hooks"),
        ("score.hooks={Safety: a:b}", "score.hooks"),
        ("caption_rules=[alt, heading]", "caption_rules.1"),
    ],
)
def test_invalid_overrides_are_refused(override, key):
    with pytest.raises(InputError, match=f"'{key}'"):
        load_corpus_config(params_override=override)


def test_hooks_are_set_by_their_names(tmp_path):
    override = "score.hooks.safety=package.module:function,score.hooks.size=a:b"
    config = load_corpus_config(params_override=override)
    assert config.score.hooks == {"safety": "package.module:function", "size": "a:b"}
    write_config_file(config, tmp_path / "corpus.yaml")
    assert load_corpus_config([tmp_path / "corpus.yaml"]) == config


def test_the_default_columns_are_reserved():
    overrides = [f"score.hooks={{{name}: a:b}}" for name in SCORE_COLUMNS]
    for override in overrides:
        with pytest.raises(InputError, match="hooks"):
            load_corpus_config(params_override=override)


def test_the_paper_recipe_has_the_values_of_the_paper():
    """Jia et al. 2021, section 3 and appendix A."""
    config = load_corpus_config([experiments("corpora")["paper"]])
    assert config.caption_rules == ("alt",)
    filters = config.filter
    assert (filters.min_shorter_side, filters.max_aspect) == (200, 3.0)
    assert (filters.max_texts_per_image, filters.max_images_per_text) == (1000, 10)
    assert (filters.min_unigrams, filters.max_unigrams) == (3, 20)
    assert filters.frequent_ngrams == 100_000_000
    assert filters.languages == ("en",) and filters.detect_language != "never"
    assert not filters.drop_personal_data
    duplicates = config.duplicates
    assert duplicates.mode == "embedding" and not duplicates.inside_corpus
    assert (duplicates.clusters, duplicates.nearest_clusters) == (4096, 10)
    assert duplicates.min_cosine_against == 0.975
    assert config.vocabulary.size == 100_000


def test_caption_rules_select_parts_of_a_page():
    config = load_corpus_config(params_override="caption_rules=[alt, caption]")
    assert config.caption_rules == ("alt", "caption")
