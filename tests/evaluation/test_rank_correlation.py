"""Spearman's rank correlation."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from align_keras.evaluation.rank_correlation import (
    dense_codes,
    rank_correlation,
    spearman,
)
from align_keras.utils.errors import InputError

# A few repeated values, which produce ties, and arbitrary floats.
VALUES = st.sampled_from([0.0, 0.5, 1.0, 1.5]) | st.floats(-1e6, 1e6)


def test_correlations_of_small_examples_match_a_calculation():
    assert spearman([1, 2, 3], [10, 20, 30]) == 1.0
    assert spearman([1, 2, 3], [30, 20, 10]) == -1.0
    # The ranks are 1, 2.5, 2.5, 4 and 1, 2, 3, 4. The correlation is their covariance
    # divided by both deviations, 4.5 / √(4.5 · 5).
    assert spearman([1, 2, 2, 3], [1, 2, 3, 4]) == pytest.approx(4.5 / np.sqrt(22.5))


@pytest.mark.ci
@given(st.lists(st.tuples(VALUES, VALUES), min_size=2, max_size=40))
def test_the_correlation_agrees_with_scipy(pairs):
    from scipy import stats

    first, second = np.array(pairs).T
    assume(len(set(first)) > 1 and len(set(second)) > 1)
    expected = stats.spearmanr(first, second).statistic
    assert spearman(first, second) == pytest.approx(expected, abs=1e-12)


@pytest.mark.ci
def test_the_correlation_of_ratings_agrees_with_scipy():
    from scipy import stats

    rng = np.random.default_rng(0)
    ratings = rng.integers(0, 26, 3000) / 5
    scores = ratings + rng.normal(size=3000)
    expected = stats.spearmanr(scores, ratings).statistic
    assert spearman(scores, ratings) == pytest.approx(expected, abs=1e-12)


def test_the_correlation_with_a_constant_is_zero():
    assert spearman([0.3, 0.3, 0.3], [1, 2, 3]) == 0.0
    assert spearman([1, 2, 3], [5, 5, 5]) == 0.0


def test_the_codes_of_all_pairs_give_the_correlation_of_a_sample():
    rng = np.random.default_rng(1)
    first, second = rng.integers(0, 30, 500), rng.normal(size=500).round(1)
    sample = rng.permutation(500)[:77]
    assert rank_correlation(
        dense_codes(first)[sample], dense_codes(second)[sample]
    ) == pytest.approx(spearman(first[sample], second[sample]), abs=1e-12)


def test_values_that_are_not_finite_are_refused():
    with pytest.raises(InputError, match="finite"):
        spearman([1, np.nan], [1, 2])
