"""Counts, the allowed fraction, and what the user is told."""

import json

import pytest

from align_keras.corpus.drop_counter import DropCounter
from align_keras.utils.errors import InputError


def counter_with(kept, bad=0, filtered=0):
    counter = DropCounter()
    counter.keep(kept)
    for number in range(bad):
        counter.drop("truncated", f"pairs.csv line {number + 2}", "file ends early")
    for number in range(filtered):
        counter.filter("shared title", f"picture {number}")
    return counter


def test_first_offender_is_the_example():
    counter = counter_with(9, bad=3)
    assert counter.bad == {"truncated": 3}
    assert counter.examples == {"truncated": "pairs.csv line 2: file ends early"}


@pytest.mark.parametrize(
    ("kept", "bad", "allowed", "stops"),
    [(9, 1, 0.1, False), (89, 11, 0.1, True), (90, 10, 0.1, False), (1, 0, 0.0, False)]
    + [(99, 1, 0.0, True), (1, 9, 1.0, False), (1, 9, 0.89, True)],
)
def test_more_than_the_allowed_fraction_stops(kept, bad, allowed, stops):
    counter = counter_with(kept, bad)
    if stops:
        with pytest.raises(InputError):
            counter.check(allowed)
    else:
        counter.check(allowed)


def test_cleaned_captions_are_kept_and_counted():
    counter = counter_with(2)
    assert "cleaned" not in counter.as_metadata()
    counter.clean("a permalink")
    assert counter.lines()[-1] == "1 captions cleaned of a permalink"
    again = DropCounter.from_metadata(json.loads(json.dumps(counter.as_metadata())))
    assert again.cleaned == {"a permalink": 1} and again.kept == 2


def test_filtered_pairs_are_not_bad():
    counter_with(1, filtered=1000).check(0.0)


def test_the_message_is_one_line_that_says_how_to_go_on():
    counter = counter_with(17, bad=3)
    counter.drop("empty caption", "pairs.csv line 30")
    with pytest.raises(InputError) as caught:
        counter.check(0.1)
    message = str(caught.value)
    assert "\n" not in message
    assert "4 of 21 pairs (19.0%)" in message
    assert "3 truncated (e.g. pairs.csv line 2: file ends early)" in message
    assert "1 empty caption (e.g. pairs.csv line 30)" in message
    assert "set `max_bad_fraction` to 0.2" in message
    counter.check(0.2)  # What the message proposes does help.


@pytest.mark.parametrize("counter", [DropCounter(), counter_with(0, 2, 1)])
def test_an_empty_result_stops_whatever_is_allowed(counter):
    with pytest.raises(InputError, match="the corpus is empty"):
        counter.check(1.0)


def test_counts_of_several_pairs_at_once():
    counter = DropCounter()
    counter.keep(5)
    counter.drop("missing", "a", count=5)
    with pytest.raises(InputError, match="5 of 10"):
        counter.check(0.4)


def test_metadata_are_json_and_restore_the_counter():
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
            "shared title": "picture 0",
            "truncated": "pairs.csv line 2: file ends early",
        },
    }
    restored = DropCounter.from_metadata(metadata)
    assert restored.as_metadata() == metadata
    assert restored.lines() == counter.lines()
    with pytest.raises(InputError, match="2 of 7"):
        restored.check(0.1)


def test_one_line_a_reason():
    counter = counter_with(5, bad=2, filtered=3)
    counter.convert("cmyk")
    kept, bad, filtered, converted = counter.lines()
    assert kept == "5 pairs kept"
    assert bad.startswith("2 dropped, truncated: pairs.csv line 2: file ends early; ")
    assert filtered.startswith("3 left out, shared title: picture 0; ")
    assert converted == "1 converted to 8-bit RGB on white, cmyk"


def test_counts_add_up():
    counter, other = DropCounter(), DropCounter()
    counter.drop("missing", "a")
    other.drop("missing", "b", count=2)
    other.filter("repeated pair", "c")
    counter.add(other)
    assert counter.bad == {"missing": 3} and counter.filtered == {"repeated pair": 1}
    assert counter.examples == {"missing": "a", "repeated pair": "c"}
