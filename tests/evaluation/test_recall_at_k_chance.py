"""Expected Recall@k of a random ranking."""

import itertools

import numpy as np
import pytest

from align_keras.evaluation.recall_at_k import chance_recall_at_k, recall_at_k


def test_the_chance_for_one_positive_is_k_divided_by_n():
    chance = chance_recall_at_k([[3]] * 7, gallery_rows=1000)
    assert chance == pytest.approx({1: 0.001, 5: 0.005, 10: 0.01}, rel=1e-12)


def test_the_chance_equals_the_mean_over_all_rankings():
    # Rows 0 and 1 of five rows are positives. There are 120 rankings.
    for k in range(1, 6):
        hits = [
            bool({0, 1} & set(ranking[:k]))
            for ranking in itertools.permutations(range(5))
        ]
        assert chance_recall_at_k([[0, 1]], 5, ks=(k,))[k] == pytest.approx(
            np.mean(hits), abs=1e-12
        )


@pytest.mark.ci
def test_the_chance_agrees_with_the_hypergeometric_distribution():
    from scipy.stats import hypergeom

    counts = [1, 2, 5, 60, 5000, 5000]
    positives = [np.arange(count) for count in counts]
    ks = (10, 1, 100, 4999)
    chance = chance_recall_at_k(positives, 5000, ks)
    assert list(chance) == list(ks)
    for k in ks:
        expected = np.mean([hypergeom.sf(0, 5000, count, k) for count in counts])
        assert chance[k] == pytest.approx(expected, rel=1e-9)


def test_the_chance_agrees_with_the_recall_of_random_embeddings():
    rng = np.random.default_rng(0)
    gallery, queries = rng.normal(size=(60, 8)), rng.normal(size=(6000, 8))
    positives = [rng.choice(60, size=1 + query % 3) for query in range(6000)]
    chance = chance_recall_at_k(positives, 60)
    for k, value in recall_at_k(queries, gallery, positives).items():
        deviation = np.sqrt(chance[k] * (1 - chance[k]) / 6000)
        assert abs(value - chance[k]) < 4 * deviation


def test_duplicate_positives_and_queries_without_positives_are_ignored():
    assert chance_recall_at_k([[0, 0], [], [1]], 4, ks=(1,)) == {1: 0.25}


def test_leaving_out_the_query_removes_a_row_from_the_gallery():
    positives = [[1], [0, 2], [], [2]]
    chance = chance_recall_at_k(positives, 4, (1, 2, 3), leave_out_self=True)
    assert chance == chance_recall_at_k([[0], [0, 1], [], [2]], 3, (1, 2, 3))
    assert chance[3] == 1.0
