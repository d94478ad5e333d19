"""Recall@k with exact scores and pessimistic ties."""

import fractions

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from align_keras.evaluation.recall_at_k import (
    count_without_positives,
    rank_of_best_positive,
    recall_at_k,
    recall_of_ranks,
)
from align_keras.utils.errors import InputError
from tests.helpers.oracle_process import needs
from tests.helpers.recorded_oracles import recorded

BLOCK_SIZES = (3, 64, 4096)


def unit_rows(rng, rows, dimension):
    values = rng.normal(size=(rows, dimension)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def brute_force_ranks(queries, gallery, positives):
    """Ranks the best positive of each query with exact rational arithmetic."""
    ranks = []
    for query, query_positives in zip(queries, positives, strict=True):
        scores = [
            sum(
                fractions.Fraction(float(a)) * fractions.Fraction(float(b))
                for a, b in zip(query, row, strict=True)
            )
            for row in gallery
        ]
        query_positives = set(int(row) for row in query_positives)
        if not query_positives:
            ranks.append(-1)
            continue
        best = max(scores[row] for row in query_positives)
        wrong_rows = [row for row in range(len(scores)) if row not in query_positives]
        ranks.append(sum(scores[row] >= best for row in wrong_rows))
    return ranks


def test_ranks_and_recall_of_a_small_example_match_a_calculation():
    gallery = np.eye(4)
    queries = np.array(
        [
            [0.9, 0.8, 0.7, 0.6],  # The positive is row 0, which ranks first.
            [0.9, 0.8, 0.7, 0.6],  # The positive is row 2, after two wrong rows.
            [0.9, 0.8, 0.7, 0.6],  # The positives are rows 1 and 3.
            [0.9, 0.8, 0.7, 0.6],  # The query has no positives.
        ]
    )
    positives = [[0], [2], [3, 1], []]
    assert rank_of_best_positive(queries, gallery, positives).tolist() == [0, 2, 1, -1]
    assert recall_at_k(queries, gallery, positives, ks=(1, 2, 3, 100)) == {
        1: 1 / 3,
        2: 2 / 3,
        3: 1.0,
        100: 1.0,
    }
    assert count_without_positives(positives) == 1


def test_collapsed_embeddings_have_a_recall_of_zero():
    rows = np.ones((50, 8), np.float32) / np.sqrt(8, dtype=np.float32)
    assert recall_at_k(rows, rows, np.arange(50)) == {1: 0.0, 5: 0.0, 10: 0.0}
    assert recall_at_k(rows, rows, np.arange(50), ks=(49, 50)) == {49: 0.0, 50: 1.0}


def test_equal_positives_do_not_lower_the_rank():
    gallery = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    query = np.array([[1.0, 0.1]])
    assert recall_at_k(query, gallery, [[0]], ks=(1,)) == {1: 0.0}
    assert recall_at_k(query, gallery, [[0, 1]], ks=(1,)) == {1: 1.0}
    # A repeated positive counts once.
    assert rank_of_best_positive(query, gallery, [[0, 0, 0]]).tolist() == [1]


def test_duplicate_rows_tie_for_any_block_size_and_position():
    rng = np.random.default_rng(0)
    base = unit_rows(rng, 40, 131)
    # Each row is in the gallery five times at random positions, so that the copies are
    # in different blocks and in different parts of a matrix product.
    order = rng.permutation(np.tile(np.arange(40), 5))
    gallery = base[order]
    queries = unit_rows(rng, 33, 131)
    positives = [[int(row)] for row in rng.integers(0, 200, 33)]
    expected = rank_of_best_positive(queries, gallery, positives, 200)
    scores = queries.astype(float) @ base.T.astype(float)
    for query, (positive,) in enumerate(positives):
        better_rows = (scores[query] > scores[query, order[positive]]).sum()
        assert expected[query] == 5 * better_rows + 4
    for block_size in BLOCK_SIZES:
        np.testing.assert_array_equal(
            rank_of_best_positive(queries, gallery, positives, block_size), expected
        )


def test_ranks_of_rows_with_lengths_near_one_do_not_depend_on_the_block_size():
    # The exponent of the fixed point differs for lengths just below and above 1.
    rng = np.random.default_rng(1)
    gallery = unit_rows(rng, 101, 64)
    positives = np.arange(101)
    queries = gallery + 0.3 * unit_rows(rng, 101, 64)
    results = [
        rank_of_best_positive(queries, gallery, positives, size) for size in BLOCK_SIZES
    ]
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


@pytest.mark.parametrize(("dtype", "order"), [(np.float16, "C"), (np.int8, "F")])
def test_ranks_do_not_depend_on_dtype_and_memory_order(dtype, order):
    queries = np.array([[3, 1], [1, 3], [2, 2]], dtype, order=order)
    gallery = np.array([[1, 0], [0, 1]], dtype, order=order)
    ranks = rank_of_best_positive(queries, gallery, [[0], [0], [1]])
    assert ranks.tolist() == [0, 1, 1]


@pytest.mark.parametrize("scale", [1e-300, 1e300])
def test_ranks_do_not_depend_on_the_lengths_of_the_queries(scale):
    rng = np.random.default_rng(2)
    queries, gallery = unit_rows(rng, 20, 16), unit_rows(rng, 30, 16)
    expected = rank_of_best_positive(queries, gallery, np.arange(20))
    np.testing.assert_array_equal(
        rank_of_best_positive(queries.astype(float) * scale, gallery, np.arange(20)),
        expected,
    )


def test_rows_of_zeros_tie_with_all_rows():
    assert rank_of_best_positive(np.zeros((1, 3)), np.eye(3), [[2]]).tolist() == [2]
    assert rank_of_best_positive(np.eye(3), np.zeros((4, 3)), [0, 1, 2]).tolist() == [
        3,
        3,
        3,
    ]


def test_a_memory_mapped_gallery_has_the_same_recall(tmp_path):
    rng = np.random.default_rng(3)
    gallery = unit_rows(rng, 70, 12)
    np.save(tmp_path / "gallery.npy", gallery)
    mapped = np.load(tmp_path / "gallery.npy", mmap_mode="r")
    queries = unit_rows(rng, 10, 12)
    assert recall_at_k(queries, mapped, np.arange(10), block_size=16) == recall_at_k(
        queries, gallery, np.arange(10)
    )


@pytest.mark.ci
@needs("sklearn")
def test_recall_agrees_with_scikit_learn():
    from sklearn.metrics import top_k_accuracy_score

    rng = np.random.default_rng(4)
    queries, gallery = unit_rows(rng, 200, 24), unit_rows(rng, 50, 24)
    positives = rng.integers(0, 50, 200)
    recalls = recall_at_k(queries, gallery, positives, ks=(1, 5, 10))
    scores = queries @ gallery.T
    for k, recall in recalls.items():
        assert recall == pytest.approx(
            top_k_accuracy_score(positives, scores, k=k, labels=np.arange(50))
        )


@pytest.mark.parametrize("number", [0, 1], ids=["three captions", "any number"])
def test_recall_agrees_with_recorded_values_of_clip_benchmark(number):
    """`tests.helpers.recorded_oracles` describes the recording."""
    question, answer = recorded("recall")[number]
    images, texts, owners = (question[n] for n in ("images", "captions", "owners"))
    t2i = recall_at_k(texts, images, owners)
    rows = [np.flatnonzero(owners == row) for row in range(len(images))]
    i2t = recall_at_k(images, texts, rows)
    assert list(t2i.values()) == pytest.approx(answer["t2i"])
    assert list(i2t.values()) == pytest.approx(answer["i2t"])
    assert 0.1 < t2i[1] < 0.95  # A recall of 0 or 1 would not distinguish metrics.


def test_a_query_ignores_the_row_to_leave_out():
    gallery = np.array([[1.0, 0.0], [0.8, 0.6], [0.9, 0.1], [0.0, 1.0]])
    positives = [[1], [2], [], [1]]
    # The best rows are 2 and 1 for query 0, 0 and 2 for query 1, and 1 for query 3.
    assert rank_of_best_positive(
        gallery, gallery, positives, leave_out=range(4)
    ).tolist() == [1, 1, -1, 0]
    assert rank_of_best_positive(gallery, gallery, positives).tolist() == [2, 2, -1, 1]


def test_a_copy_of_the_query_is_not_ignored():
    gallery = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    ranks = rank_of_best_positive(gallery, gallery, [[2], [0], [0]], leave_out=range(3))
    assert ranks.tolist() == [1, 0, 1]


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_leaving_out_a_row_equals_a_gallery_without_it(data):
    row = st.lists(st.sampled_from([-1.0, 0.0, 0.5, 1.0]), min_size=2, max_size=2)
    gallery = np.array(data.draw(st.lists(row, min_size=2, max_size=7)), np.float32)
    queries = np.array(data.draw(st.lists(row, min_size=1, max_size=9)), np.float32)
    rows = range(len(gallery))
    ignored_rows = [data.draw(st.sampled_from(rows)) for _ in queries]
    candidates = [[row for row in rows if row != ignored] for ignored in ignored_rows]
    positives = [
        data.draw(st.lists(st.sampled_from(query_candidates), max_size=3))
        for query_candidates in candidates
    ]
    block_size = data.draw(st.integers(1, 8))
    ranks = rank_of_best_positive(
        queries, gallery, positives, block_size, leave_out=ignored_rows
    )
    for query, query_candidates in enumerate(candidates):
        [expected] = brute_force_ranks(
            queries[query : query + 1],
            gallery[query_candidates],
            [[query_candidates.index(row) for row in positives[query]]],
        )
        assert ranks[query] == expected


def test_recall_of_ranks_ignores_queries_without_positives():
    assert recall_of_ranks([0, 4, 5, -1], (1, 5)) == {1: 1 / 3, 5: 2 / 3}


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_ranks_equal_an_exact_brute_force_search(data):
    dimension = data.draw(st.integers(1, 3))
    # Few distinct values produce many duplicates and ties.
    row = st.lists(
        st.sampled_from([-1.0, -0.25, 0.0, 0.5, 1.0]),
        min_size=dimension,
        max_size=dimension,
    )
    queries = np.array(data.draw(st.lists(row, min_size=1, max_size=5)), np.float32)
    gallery = np.array(data.draw(st.lists(row, min_size=1, max_size=7)), np.float32)
    positives = [
        data.draw(st.lists(st.integers(0, len(gallery) - 1), max_size=4))
        for _ in queries
    ]
    block_size = data.draw(st.integers(1, 8))
    ranks = rank_of_best_positive(queries, gallery, positives, block_size)
    assert ranks.tolist() == brute_force_ranks(queries, gallery, positives)


GOOD = np.eye(3, dtype=np.float32)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ((np.diag([1, np.nan, 1]), GOOD, [0, 1, 2]), "query_embeddings"),
        ((GOOD, GOOD, [[0], [1]]), "positives"),
        ((GOOD, GOOD, [[0], [3], [1]]), r"positives\[1\]"),
        ((GOOD, GOOD, [[0], [1], [True]]), r"positives\[2\]"),
        ((GOOD, GOOD, [0, 1, 2], (1,), 0), "block_size"),
    ],
)
def test_invalid_arguments_of_recall_at_k_are_refused(arguments, word):
    with pytest.raises(InputError, match=word):
        recall_at_k(*arguments)


@pytest.mark.parametrize(
    ("positives", "leave_out", "word"),
    [
        ([1, 1, 1], [0, 1, 2], r"positives\[1\]"),
        ([1, 0, 0], [0, 1], "leave_out"),
        ([1, 0, 0], [0, 1, 3], "leave_out"),
    ],
)
def test_invalid_rows_to_leave_out_are_refused(positives, leave_out, word):
    with pytest.raises(InputError, match=word):
        rank_of_best_positive(GOOD, GOOD, positives, leave_out=leave_out)
