"""Exact counts and scores in fixed point."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from align_keras.evaluation import exact_scores
from align_keras.evaluation.exact_scores import (
    CountAtLeast,
    fixed_point,
    pair_scores,
)


def fixed(rng, rows, dimension):
    values = rng.normal(size=(rows, dimension))
    return fixed_point(values, np.linalg.norm(values, axis=1))


def expected_counts(queries, rows, thresholds):
    """Counts with Python integers, which are exact."""
    scores = queries.astype(np.int64).astype(object) @ rows.T.astype(np.int64)
    return [
        sum(score >= int(threshold) for score in query_scores)
        for query_scores, threshold in zip(scores, thresholds, strict=True)
    ]


@pytest.mark.parametrize("pairs_per_undecided", [0, 32, 10**9])
@pytest.mark.parametrize("dimension", [1, 640])
def test_counts_are_exact_if_float32_is_not(
    monkeypatch, dimension, pairs_per_undecided
):
    # With 0, no block is scored again as a whole. With 10**9, every block that contains
    # an undecided pair is scored again.
    monkeypatch.setattr(exact_scores, "PAIRS_PER_UNDECIDED", pairs_per_undecided)
    rng = np.random.default_rng(dimension)
    queries, rows = fixed(rng, 9, dimension), fixed(rng, 40, dimension)
    # The copies differ in the last bit, which float32 can't represent.
    rows[20:] = rows[:20]
    rows[20:, 0] += 1
    thresholds = pair_scores(
        queries, rows.__getitem__, np.arange(9), np.arange(20, 29), 4
    )
    expected = expected_counts(queries, rows, thresholds)
    count = CountAtLeast(queries, thresholds, block_size=40)
    counts = count(rows[:31]) + count(rows[31:])
    assert counts.tolist() == expected
    inexact = queries.astype(np.float32) @ rows.astype(np.float32).T
    inexact_counts = (inexact >= thresholds.astype(np.float32)[:, None]).sum(axis=1)
    # The test needs thresholds for which float32 counts are wrong.
    assert inexact_counts.tolist() != expected


@given(st.integers(0, 10**6), st.integers(1, 30))
def test_counts_are_exact_near_the_thresholds(seed, dimension):
    rng = np.random.default_rng(seed)
    queries, rows = fixed(rng, 3, dimension), fixed(rng, 12, dimension)
    scores = queries @ rows.T
    thresholds = scores[np.arange(3), rng.integers(0, 12, 3)] + rng.integers(-1, 2, 3)
    assert (
        CountAtLeast(queries, thresholds, block_size=12)(rows).tolist()
        == np.sum(scores >= thresholds[:, None], axis=1).tolist()
    )


def test_pair_scores_of_a_small_example_match_a_calculation():
    queries = np.array([[1.0, 2.0], [3.0, 4.0]])
    gallery = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    owners, rows = np.array([0, 1, 1]), np.array([2, 0, 1])
    for chunk in (1, 2, 10):
        scores = pair_scores(queries, gallery.__getitem__, owners, rows, chunk)
        assert scores.tolist() == [3.0, 3.0, 4.0]
