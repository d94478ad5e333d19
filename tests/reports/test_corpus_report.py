"""Funnel and histograms of the corpus report."""

import types

import pytest

from align_keras.config import CorpusConfig
from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.html_pairs import extract_pairs
from align_keras.corpus.sources.extraction import merged_counts
from align_keras.reports.corpus_report import corpus_funnel, kept_statistics
from tests.helpers.image_rows import DROPPED, write_pieces

pytest.importorskip("pyarrow")


def test_histograms_count_kept_images_with_inherited_captions(tmp_path):
    assert kept_statistics(*write_pieces(tmp_path), DROPPED) == {
        "Words per caption": [("2", 4), ("4", 1)],
        "Shorter side in pixels": [("up to 300", 1), ("over 2000", 1)],
        "Ratio of longer to shorter side": [("up to 1.1", 1), ("up to 1.34", 1)],
        "Captions per image": [("up to 1", 1), ("up to 5", 1)],
        "Sources of captions": [("alt", 4), ("title", 1)],
        "Languages": [("en", 3), ("unknown", 1), ("de", 1)],
    }


def test_histograms_are_empty_if_all_images_are_dropped(tmp_path):
    dropped = [[key, "near duplicate", "", ""] for key in "abcdef"]
    histograms = kept_statistics(*write_pieces(tmp_path), dropped)
    assert set(map(len, histograms.values())) == {0} and len(histograms) == 6


def test_the_funnel_has_rows_for_cleaned_captions_and_file_names():
    pytest.importorskip("selectolax")
    counters = []
    for name in "ab":
        counter = DropCounter()
        html = f"""<figure><img src=x/{name}.png alt="x/{name}.png"><figcaption>A cat
          <a class=headerlink href="#{name}">¶</a></figcaption></figure>"""
        counter.keep(len(list(extract_pairs(html, "https://e.org/", counter))))
        counters.append(counter.as_metadata())
    extracted = types.SimpleNamespace(facts={"counts": merged_counts(counters)})
    corpus = types.SimpleNamespace(config=CorpusConfig(), stages={"extract": extracted})
    assert corpus_funnel(corpus) == [
        ("pairs found", 4, False),
        ("captions cleaned of a permalink", 2, False),
        ("caption is a file name or an address", 2, True),
    ]
