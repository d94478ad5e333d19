"""Ranges hold every record once."""

import pytest

from align_keras.corpus.sources.listed_records import record_ranges


@pytest.mark.parametrize("total", [0, 1, 9_999, 10_000, 10_001, 20_000])
def test_ranges(total):
    parts = record_ranges("table", "/", "a", total)
    numbers = [own for part in parts for own in range(part.start, part.stop)]
    assert numbers == list(range(total))
    assert {part.total for part in parts} == {total}
    assert len(parts) == max(1, -(-total // 10_000))
