"""Tests of the counts, the allowed fraction of bad pairs, and the messages."""

import json

import pytest

from align_keras.corpus.drop_counter import DropCounter
from align_keras.utils.errors import InputError


def counter_with(kept_count, bad=0, filtered=0):
    counter = DropCounter()
    counter.keep(kept_count)
    for number in range(bad):
        counter.drop("truncated", f"pairs.csv line {number + 2}", "file ends early")
    for number in range(filtered):
        counter.filter("shared title", f"image {number}")
    return counter


def test_the_example_of_a_reason_is_its_first_pair():
    counter = counter_with(9, bad=3)
    assert counter.bad == {"truncated": 3}
    assert counter.examples == {"truncated": "pairs.csv line 2: file ends early"}


@pytest.mark.parametrize(
    ("kept_count", "bad", "max_bad_fraction", "raises"),
    [(9, 1, 0.1, False), (89, 11, 0.1, True), (90, 10, 0.1, False), (1, 0, 0.0, False)]
    + [(99, 1, 0.0, True), (1, 9, 1.0, False), (1, 9, 0.89, True)],
)
def test_more_bad_pairs_than_allowed_raise(kept_count, bad, max_bad_fraction, raises):
    counter = counter_with(kept_count, bad)
    if raises:
        with pytest.raises(InputError):
            counter.check(max_bad_fraction)
    else:
        counter.check(max_bad_fraction)


def test_cleaned_captions_are_kept_and_counted():
    counter = counter_with(2)
    assert "cleaned" not in counter.as_metadata()
    counter.clean("a permalink")
    assert "a permalink" in counter.lines()[-1]
    restored = DropCounter.from_metadata(json.loads(json.dumps(counter.as_metadata())))
    assert restored.cleaned == {"a permalink": 1} and restored.kept_count == 2


def test_filtered_pairs_are_not_bad():
    counter_with(1, filtered=1000).check(0.0)


def test_the_message_names_the_reasons_and_a_sufficient_fraction():
    counter = counter_with(17, bad=3)
    counter.drop("empty caption", "pairs.csv line 30")
    with pytest.raises(InputError) as error_info:
        counter.check(0.1)
    message = str(error_info.value)
    assert "\n" not in message
    assert "pairs.csv line 2" in message and "pairs.csv line 30" in message
    assert "`max_bad_fraction` to 0.2" in message
    counter.check(0.2)


@pytest.mark.parametrize("counter", [DropCounter(), counter_with(0, 2, 1)])
def test_an_empty_corpus_raises_for_any_fraction(counter):
    with pytest.raises(InputError, match="empty"):
        counter.check(1.0)


def test_several_pairs_are_counted_in_one_call():
    counter = DropCounter()
    counter.keep(5)
    counter.drop("missing", "a", count=5)
    with pytest.raises(InputError, match="5 of 10"):
        counter.check(0.4)


def test_metadata_is_json_and_restores_the_counter():
    counter = counter_with(5, bad=2, filtered=3)
    counter.convert("cmyk")
    counter.convert(None)
    metadata = json.loads(json.dumps(counter.as_metadata()))
    assert metadata == {
        "kept": 5,
        "dropped": {"shared title": 3, "truncated": 2},
        "filtered": ["shared title"],
        "converted": {"cmyk": 1},
        "examples": {
            "shared title": "image 0",
            "truncated": "pairs.csv line 2: file ends early",
        },
    }
    restored = DropCounter.from_metadata(metadata)
    assert restored.as_metadata() == metadata
    assert restored.lines() == counter.lines()
    with pytest.raises(InputError, match="2 of 7"):
        restored.check(0.1)


def test_the_summary_has_a_line_per_reason():
    counter = counter_with(5, bad=2, filtered=3)
    counter.convert("cmyk")
    kept, dropped, filtered, converted = counter.lines()
    assert kept == "5 pairs kept"
    assert "truncated: pairs.csv line 2" in dropped
    assert "shared title: image 0" in filtered and "cmyk" in converted


def test_the_counts_of_counters_are_added():
    counter, other = DropCounter(), DropCounter()
    counter.drop("missing", "a")
    other.drop("missing", "b", count=2)
    other.filter("repeated pair", "c")
    counter.add(other)
    assert counter.bad == {"missing": 3} and counter.filtered == {"repeated pair": 1}
    assert counter.examples == {"missing": "a", "repeated pair": "c"}
