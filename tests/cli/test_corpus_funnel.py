"""The funnel of a corpus names what was cut from captions and why pairs left."""

import types

import pytest

from align_keras.cli.corpus_report import funnel
from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.html_pairs import extract_pairs
from align_keras.corpus.stages.extract import merged_counts

pytest.importorskip("selectolax")


def test_cleaned_captions_and_names_of_files_have_rows_of_their_own():
    counters = []
    for name in "ab":
        counter = DropCounter()
        html = f"""<figure><img src=x/{name}.png alt="x/{name}.png"><figcaption>A cat
          <a class=headerlink href="#{name}">¶</a></figcaption></figure>"""
        counter.keep(len(list(extract_pairs(html, "https://e.org/", counter))))
        counters.append(counter.as_metadata())
    facts = {"counts": merged_counts(counters)}
    assert funnel({"extract": types.SimpleNamespace(facts=facts)}) == [
        ("pairs found", 4, False),
        ("captions cleaned of a permalink", 2, False),
        ("caption is a file name or an address", 2, True),
    ]
