"""Sorted counts, against Python's counters and sets."""

import collections

import hypothesis
import hypothesis.strategies as st
import numpy as np

from align_keras.corpus.hash_counts import (
    count_histogram,
    is_member,
    keys_over_limit,
    rank_threshold,
    select_frequent,
    sum_by_key,
)

keys = st.integers(0, 5).map(lambda own: own * 2**61)
entries = st.lists(st.tuples(keys, st.integers(0, 4)), max_size=30)


def columns(rows):
    return np.array(rows, np.uint64).reshape(-1, 2).T


@hypothesis.given(entries)
def test_sums(rows):
    expected = collections.Counter()
    for key, count in rows:
        expected[key] += count
    found = sum_by_key(*columns(rows))
    assert list(zip(*(own.tolist() for own in found), strict=True)) == (
        sorted(expected.items())
    )
    ones = collections.Counter(key for key, _ in rows)
    found = sum_by_key(columns(rows)[0])
    assert list(zip(*(own.tolist() for own in found), strict=True)) == (
        sorted(ones.items())
    )


@hypothesis.given(entries, st.integers(1, 4))
def test_limits_count_distinct_values(rows, limit):
    values = collections.defaultdict(set)
    for key, value in rows:
        values[key].add(value)
    found = keys_over_limit(*columns(rows), limit)
    assert list(zip(*(own.tolist() for own in found), strict=True)) == (
        sorted((key, len(own)) for key, own in values.items() if len(own) > limit)
    )


@hypothesis.given(st.lists(st.integers(1, 5), max_size=12), st.integers(0, 14))
def test_the_most_frequent(counts, limit):
    own_keys = np.arange(len(counts), dtype=np.uint64) * 7
    counts = np.array(counts, np.uint64)
    ranked = sorted(zip(-counts.astype(int), own_keys.tolist(), strict=True))
    expected = sorted(key for _, key in ranked[:limit])
    threshold = rank_threshold(count_histogram(counts), limit)
    assert select_frequent(own_keys, counts, *threshold).tolist() == expected
    assert (threshold == (0, 0)) == (len(counts) <= limit)


@hypothesis.given(st.sets(keys), st.lists(keys))
def test_members(known, asked):
    found = is_member(np.array(sorted(known), np.uint64), np.array(asked, np.uint64))
    assert found.tolist() == [own in known for own in asked]
