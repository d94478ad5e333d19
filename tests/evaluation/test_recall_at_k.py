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

BLOCK_SIZES = (1, 2, 3, 7, 64, 4096)


def unit_rows(rng, rows, dimension):
    values = rng.normal(size=(rows, dimension)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def brute_force_ranks(queries, gallery, positives):
    """Ranks by exact rational arithmetic, one pair after another."""
    ranks = []
    for query, right in zip(queries, positives, strict=True):
        scores = [
            sum(
                fractions.Fraction(float(a)) * fractions.Fraction(float(b))
                for a, b in zip(query, row, strict=True)
            )
            for row in gallery
        ]
        right = set(int(row) for row in right)
        if not right:
            ranks.append(-1)
            continue
        best = max(scores[row] for row in right)
        ranks.append(
            sum(score >= best for row, score in enumerate(scores) if row not in right)
        )
    return ranks


def test_hand_worked_case():
    gallery = np.eye(4)
    queries = np.array(
        [
            [0.9, 0.8, 0.7, 0.6],  # right: row 0, in first place
            [0.9, 0.8, 0.7, 0.6],  # right: row 2, two wrong before it
            [0.9, 0.8, 0.7, 0.6],  # right: rows 1 and 3, one wrong before row 1
            [0.9, 0.8, 0.7, 0.6],  # nothing is right
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


def test_collapsed_embeddings_score_zero_not_chance():
    same = np.ones((50, 8), np.float32) / np.sqrt(8, dtype=np.float32)
    assert recall_at_k(same, same, np.arange(50)) == {1: 0.0, 5: 0.0, 10: 0.0}
    assert recall_at_k(same, same, np.arange(50), ks=(49, 50)) == {49: 0.0, 50: 1.0}


def test_a_right_twin_does_not_push_the_right_row_back():
    gallery = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    query = np.array([[1.0, 0.1]])
    assert recall_at_k(query, gallery, [[0]], ks=(1,)) == {1: 0.0}
    assert recall_at_k(query, gallery, [[0, 1]], ks=(1,)) == {1: 1.0}
    # Named twice, a right row still counts once.
    assert rank_of_best_positive(query, gallery, [[0, 0, 0]]).tolist() == [1]


def test_duplicated_rows_tie_whatever_the_block_size_and_their_place():
    rng = np.random.default_rng(0)
    base = unit_rows(rng, 40, 131)
    # Every row stands in the gallery five times, far apart, so that the copies
    # fall into different blocks and different corners of a matrix product.
    order = rng.permutation(np.tile(np.arange(40), 5))
    gallery = base[order]
    queries = unit_rows(rng, 33, 131)
    positives = [[int(row)] for row in rng.integers(0, 200, 33)]
    expected = rank_of_best_positive(queries, gallery, positives, 200)
    scores = queries.astype(float) @ base.T.astype(float)
    for query, (right,) in enumerate(positives):
        ahead = (scores[query] > scores[query, order[right]]).sum()
        assert expected[query] == 5 * ahead + 4
    for block_size in BLOCK_SIZES:
        np.testing.assert_array_equal(
            rank_of_best_positive(queries, gallery, positives, block_size), expected
        )


def test_rows_of_length_near_one_do_not_depend_on_the_block_size():
    # Lengths just below and above a power of two, where the scale could jump.
    rng = np.random.default_rng(1)
    gallery = unit_rows(rng, 101, 64)
    positives = np.arange(101)
    queries = gallery + 0.3 * unit_rows(rng, 101, 64)
    results = [
        rank_of_best_positive(queries, gallery, positives, size) for size in BLOCK_SIZES
    ]
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int8])
def test_dtype_and_memory_order(dtype, order):
    queries = np.array([[3, 1], [1, 3], [2, 2]], dtype, order=order)
    gallery = np.array([[1, 0], [0, 1]], dtype, order=order)
    ranks = rank_of_best_positive(queries, gallery, [[0], [0], [1]])
    assert ranks.tolist() == [0, 1, 1]


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1.0, 1e30, 1e300])
def test_queries_of_any_length(scale):
    rng = np.random.default_rng(2)
    queries, gallery = unit_rows(rng, 20, 16), unit_rows(rng, 30, 16)
    expected = rank_of_best_positive(queries, gallery, np.arange(20))
    np.testing.assert_array_equal(
        rank_of_best_positive(queries.astype(float) * scale, gallery, np.arange(20)),
        expected,
    )


def test_zero_rows_tie_with_everything():
    assert rank_of_best_positive(np.zeros((1, 3)), np.eye(3), [[2]]).tolist() == [2]
    assert rank_of_best_positive(np.eye(3), np.zeros((4, 3)), [0, 1, 2]).tolist() == [
        3,
        3,
        3,
    ]


def test_memory_mapped_gallery(tmp_path):
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
def test_against_scikit_learn():
    from sklearn.metrics import top_k_accuracy_score

    rng = np.random.default_rng(4)
    queries, gallery = unit_rows(rng, 200, 24), unit_rows(rng, 50, 24)
    right = rng.integers(0, 50, 200)
    ours = recall_at_k(queries, gallery, right, ks=(1, 5, 10))
    scores = queries @ gallery.T
    for k, value in ours.items():
        assert value == pytest.approx(
            top_k_accuracy_score(right, scores, k=k, labels=np.arange(50))
        )


@pytest.mark.parametrize("number", [0, 1], ids=["three captions", "any number"])
def test_against_clip_benchmark(number):
    """Whose answers are recorded: `tests.helpers.recorded_oracles` says how."""
    question, answer = recorded("recall")[number]
    images, texts, owners = (question[n] for n in ("images", "captions", "owners"))
    t2i = recall_at_k(texts, images, owners)
    rows = [np.flatnonzero(owners == row) for row in range(len(images))]
    i2t = recall_at_k(images, texts, rows)
    assert list(t2i.values()) == pytest.approx(answer["t2i"])
    assert list(i2t.values()) == pytest.approx(answer["i2t"])
    assert 0.1 < t2i[1] < 0.95  # neither end, where any two metrics agree


def test_a_query_does_not_find_itself():
    gallery = np.array([[1.0, 0.0], [0.8, 0.6], [0.9, 0.1], [0.0, 1.0]])
    positives = [[1], [2], [], [1]]
    # Row 0 finds 2, then 1; row 1 finds 0, then 2; row 3 finds 1.
    assert rank_of_best_positive(
        gallery, gallery, positives, leave_out=range(4)
    ).tolist() == [1, 1, -1, 0]
    assert rank_of_best_positive(gallery, gallery, positives).tolist() == [2, 2, -1, 1]


def test_a_twin_of_the_query_still_counts():
    gallery = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    ranks = rank_of_best_positive(gallery, gallery, [[2], [0], [0]], leave_out=range(3))
    assert ranks.tolist() == [1, 0, 1]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_leaving_out_a_row_equals_a_gallery_without_it(data):
    row = st.lists(st.sampled_from([-1.0, 0.0, 0.5, 1.0]), min_size=2, max_size=2)
    gallery = np.array(data.draw(st.lists(row, min_size=2, max_size=7)), np.float32)
    queries = np.array(data.draw(st.lists(row, min_size=1, max_size=9)), np.float32)
    rows = range(len(gallery))
    left_out = [data.draw(st.sampled_from(rows)) for _ in queries]
    positives = [
        data.draw(st.lists(st.sampled_from([r for r in rows if r != own]), max_size=3))
        for own in left_out
    ]
    block_size = data.draw(st.integers(1, 8))
    ranks = rank_of_best_positive(
        queries, gallery, positives, block_size, leave_out=left_out
    )
    for query, (own, right) in enumerate(zip(left_out, positives, strict=True)):
        others = [r for r in rows if r != own]
        [expected] = brute_force_ranks(
            queries[query : query + 1],
            gallery[others],
            [[others.index(r) for r in right]],
        )
        assert ranks[query] == expected


def test_recall_of_ranks():
    assert recall_of_ranks([0, 4, 5, -1], (1, 5)) == {1: 1 / 3, 5: 2 / 3}


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_ranks_equal_exact_brute_force(data):
    dimension = data.draw(st.integers(1, 3))
    # Few distinct values, so that duplicates and ties abound.
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


def broken(value, rows):
    embeddings = np.tile(GOOD, (4, 1))
    embeddings[rows, 1] = value
    return embeddings


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((GOOD[0], GOOD, [[0]]), "`query_embeddings` must be a matrix .*shape"),
        ((GOOD[:0], GOOD, []), "`query_embeddings` .* at least one row"),
        ((GOOD, GOOD[:0], [[0]] * 3), "`gallery_embeddings` .* at least one row"),
        ((GOOD, GOOD[:, :2], [0, 1, 2]), "one dimension, received 3 and 2"),
        (
            (GOOD.astype(complex), GOOD, [0, 1, 2]),
            "real numbers, received dtype complex",
        ),
        ((GOOD.astype(str), GOOD, [0, 1, 2]), "real numbers"),
        (
            (broken(np.nan, [4, 7]), GOOD, [0] * 12),
            "`query_embeddings` must be finite, .* in 2 rows: 4, 7;",
        ),
        ((GOOD, broken(np.inf, [5]), [0] * 3), "`gallery_.*` .* in 1 row: 5;"),
        ((GOOD, broken(np.nan, range(10)), [0] * 3), "10 rows: 0, 1, 2, 3, 4, …;"),
        ((GOOD, GOOD, [[0], [1]]), "received 2 lists for 3 queries"),
        ((GOOD, GOOD, [[0], [3], [1]]), r"`positives\[1\]` must lie in \[0, 3\).*3"),
        ((GOOD, GOOD, [[0], [1], [-1]]), r"`positives\[2\]` .*received -1"),
        ((GOOD, GOOD, [[0], [1], [0.5]]), r"`positives\[2\]` .*integers.*float64"),
        ((GOOD, GOOD, [[], [], []]), "at least one query, received none"),
        ((GOOD, GOOD, [0, 1, 2], (0,)), r"`ks` must be .*>= 1, received \(0,\)"),
        ((GOOD, GOOD, [0, 1, 2], ()), r"`ks` must be .*received \(\)"),
        ((GOOD, GOOD, [0, 1, 2], 5), "`ks` must be .*received 5"),
        ((GOOD, GOOD, [0, 1, 2], (1,), 0), "`block_size` must be .*received 0"),
        ((GOOD, GOOD, [0, 1, 2], (1,), 2.5), "`block_size` must be .*received 2.5"),
    ],
)
def test_errors_name_argument_and_value(arguments, message):
    with pytest.raises(InputError, match=message) as caught:
        recall_at_k(*arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: recall_of_ranks([-1, -1]), "at least one query, received none"),
        (lambda: recall_of_ranks([0], (0,)), "`ks` must be"),
        (
            lambda: rank_of_best_positive(GOOD, GOOD, [1, 1, 1], leave_out=[0, 1, 2]),
            r"`positives\[1\]` must not name row 1, which `leave_out` takes out",
        ),
        (
            lambda: rank_of_best_positive(GOOD[:2], GOOD, [1, 2], leave_out=[0, 1, 2]),
            "`leave_out` must hold one integer for each of 2 queries, received shape",
        ),
        (
            lambda: rank_of_best_positive(GOOD[:1], GOOD, [1], leave_out=[0.5]),
            "dtype float64",
        ),
        (
            lambda: rank_of_best_positive(GOOD[:1], GOOD, [1], leave_out=[3]),
            r"`leave_out` must lie in \[0, 3\), the rows of the gallery, received 3",
        ),
    ],
)
def test_errors_of_ranks(call, message):
    with pytest.raises(InputError, match=message):
        call()
