"""Ranges hold every record once, and counts add up."""

import pytest

from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.sources.listed_records import add_counts, record_ranges


@pytest.mark.parametrize("total", [0, 1, 9_999, 10_000, 10_001, 20_000])
def test_ranges(total):
    parts = record_ranges("table", "/", "a", total)
    numbers = [own for part in parts for own in range(part.start, part.stop)]
    assert numbers == list(range(total))
    assert {part.total for part in parts} == {total}
    assert len(parts) == max(1, -(-total // 10_000))


def test_counts_add_up():
    counter, other = DropCounter(), DropCounter()
    counter.drop("missing", "a")
    other.drop("missing", "b", count=2)
    other.filter("repeated pair", "c")
    add_counts(counter, other)
    assert counter.bad == {"missing": 3} and counter.filtered == {"repeated pair": 1}
    assert counter.examples == {"missing": "a", "repeated pair": "c"}
