"""Exact nearest neighbors and the ranks of their classes."""

import fractions
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from align_keras.evaluation import nearest_neighbors, neighbor_ranks, recall_of_ranks
from align_keras.utils.errors import InputError
from tests.helpers.oracle_process import needs

BLOCK_SIZES = (1, 7, 4096)


def unit_rows(rows, dimension, seed=0, dtype=np.float32):
    values = np.random.default_rng(seed).normal(size=(rows, dimension))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(dtype)


def brute_force(queries, gallery, k):
    """Finds the top k rows with exact rational arithmetic. The lower row wins a tie."""
    top_rows = []
    for query in queries.tolist():
        scores = [
            sum(
                fractions.Fraction(a) * fractions.Fraction(b)
                for a, b in zip(query, row, strict=True)
            )
            for row in gallery.tolist()
        ]
        order = sorted(range(len(scores)), key=lambda row: (-scores[row], row))
        top_rows.append(order[:k])
    return np.array(top_rows)


@settings(max_examples=20)
@given(data=st.data(), block_size=st.sampled_from(BLOCK_SIZES))
def test_neighbors_equal_a_brute_force_search_with_ties(data, block_size):
    """Few distinct values produce many ties and are exact in fixed point."""
    row = st.lists(st.sampled_from([-1.0, 0.0, 0.25, 1.0]), min_size=3, max_size=3)

    def draw(rows):
        return np.array(data.draw(st.lists(row, min_size=1, max_size=rows)))

    queries, gallery = draw(4), draw(12)
    k = data.draw(st.integers(1, len(gallery)))
    rows, _ = nearest_neighbors(queries, gallery, k, block_size)
    np.testing.assert_array_equal(rows, brute_force(queries, gallery, k))


@pytest.mark.ci
@needs("sklearn")
def test_neighbors_agree_with_scikit_learn():
    from sklearn.neighbors import NearestNeighbors

    queries, gallery = unit_rows(50, 16), unit_rows(700, 16, seed=1)
    rows, scores = nearest_neighbors(queries, gallery, k=10)
    distances, expected = (
        NearestNeighbors(n_neighbors=10, algorithm="brute", metric="euclidean")
        .fit(gallery.astype(float))
        .kneighbors(queries.astype(float))
    )
    np.testing.assert_array_equal(rows, expected)
    # |a - b|² = 2 - 2ab for unit rows. The lengths of float32 rows differ from 1 by
    # about 1e-7.
    np.testing.assert_allclose(scores, 1 - distances**2 / 2, atol=1e-6)


@pytest.mark.parametrize("block_size", BLOCK_SIZES)
def test_neighbors_do_not_depend_on_the_block_size(block_size):
    gallery = unit_rows(90, 8)
    gallery[50:70] = gallery[10:30]  # Equal rows are in different blocks.
    queries = gallery[::4]
    rows, scores = nearest_neighbors(queries, gallery, 5, block_size)
    expected_rows, expected_scores = nearest_neighbors(queries, gallery, 5, 90)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_array_equal(scores, expected_scores)
    assert (rows[3, :2] == [12, 52]).all()  # Row 12 precedes its copy.


def test_the_neighbors_of_collapsed_embeddings_are_the_first_rows():
    gallery = np.repeat(unit_rows(1, 8), 300, axis=0)
    rows, _ = nearest_neighbors(gallery[:5], gallery, k=4, block_size=32)
    np.testing.assert_array_equal(rows, np.tile(np.arange(4), (5, 1)))


@pytest.mark.parametrize("order", [1, -1])
def test_the_neighbors_in_a_sorted_gallery_are_exact(order):
    """Each block has better rows than all previous blocks, or worse rows."""
    angles = np.linspace(0, 1.5, 2000)[::order]
    gallery = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    rows, _ = nearest_neighbors(np.array([[0.0, 1.0]]), gallery, 3, block_size=256)
    assert rows.tolist() == [[1999, 1998, 1997] if order > 0 else [0, 1, 2]]


def test_scores_below_the_float32_precision_are_ranked_exactly():
    base = unit_rows(1, 32, dtype=np.float64)
    # The scores differ by 1e-8, which is less than the float32 rounding of the rows.
    orthogonal = unit_rows(400, 32, 4, np.float64)
    orthogonal -= (orthogonal @ base.T) * base
    expected_scores = 1 - 1e-8 * np.random.default_rng(1).permutation(400)
    gallery = unit_rows(8000, 32, 2, np.float64)
    near_rows = np.arange(1100, 7100, 15)
    gallery[near_rows] = expected_scores[:, None] * base + 8 * orthogonal
    single_query_rows, scores = nearest_neighbors(base, gallery, k=8, block_size=1024)
    # The fixed point has steps of 2**-26 of the longest row, whose length is below 16.
    np.testing.assert_allclose(
        scores[0], np.sort(expected_scores)[:-9:-1], atol=16 / 2**26
    )
    # For the single query, every block has many near rows and is scored as a whole.
    # With 63 other queries, few pairs are near, and they are scored separately.
    queries = np.concatenate([unit_rows(63, 32, 3, np.float64), base])
    rows, _ = nearest_neighbors(queries, gallery, k=8, block_size=1024)
    np.testing.assert_array_equal(rows[-1], single_query_rows[0])


def test_the_lower_of_two_equal_rows_comes_first():
    gallery = unit_rows(4096, 16)
    gallery[3010:3030] = gallery[10:30]
    rows, scores = nearest_neighbors(gallery[:64], gallery, k=4, block_size=512)
    for query in range(10, 30):
        assert rows[query, :2].tolist() == [query, query + 3000]
        assert scores[query, 0] == scores[query, 1] > scores[query, 2]


@pytest.mark.parametrize("scale", [1e-300, 1e30])
def test_neighbors_do_not_depend_on_the_scale(scale):
    queries, gallery = unit_rows(9, 8, 1, np.float64), unit_rows(80, 8, 2, np.float64)
    rows, scores = nearest_neighbors(queries * scale, gallery * scale, 3)
    unscaled_rows, unscaled_scores = nearest_neighbors(queries, gallery, 3)
    np.testing.assert_array_equal(rows, unscaled_rows)
    if 1e-100 < scale < 1e100:
        np.testing.assert_allclose(scores, unscaled_scores * scale**2, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.int8])
def test_all_dtypes_have_the_same_neighbors(dtype):
    gallery = (np.eye(4) * 3).astype(dtype)
    rows, scores = nearest_neighbors(gallery, gallery, 1)
    assert rows.ravel().tolist() == [0, 1, 2, 3]
    assert scores.ravel().tolist() == [9.0] * 4


def test_memory_does_not_grow_with_a_mapped_gallery(tmp_path):
    peaks = []
    queries = unit_rows(64, 32)
    for rows in (4_000, 16_000):
        np.save(tmp_path / "gallery.npy", unit_rows(rows, 32))
        gallery = np.load(tmp_path / "gallery.npy", mmap_mode="r")
        tracemalloc.start()
        neighbors, _ = nearest_neighbors(queries, gallery, 5, block_size=256)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert neighbors.max() < rows
    # The norms take 8 bytes per row. The whole gallery takes 2 MB.
    assert peaks[1] - peaks[0] < 12_000 * 8 + 50_000


def test_invalid_arguments_are_refused():
    eye = np.eye(3)
    with pytest.raises(InputError, match="`k`"):
        nearest_neighbors(eye, eye, 4)
    with pytest.raises(InputError, match="gallery_embeddings"):
        nearest_neighbors(eye, np.diag([1, np.nan, 1]), 1)


def test_neighbor_ranks_of_a_small_example_match_a_calculation():
    ranks = neighbor_ranks([[3, 1, 3], [3, 1, 1], [2, 2, 2]], [3, 1, 0])
    assert ranks[:2].tolist() == [0, 1]
    assert ranks[2] > 10**9  # The rank is a miss at any k.


@pytest.mark.ci
@needs("sklearn")
def test_recall_agrees_with_the_classifier_of_scikit_learn():
    from sklearn.neighbors import KNeighborsClassifier

    random = np.random.default_rng(0)
    labels, test_labels = random.integers(0, 6, 300), random.integers(0, 6, 100)
    centers = unit_rows(6, 12)
    train = centers[labels] + random.normal(0, 0.35, (300, 12))
    test = centers[test_labels] + random.normal(0, 0.35, (100, 12))
    train, test = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (train, test))
    rows, _ = nearest_neighbors(test, train, 10)
    recalls = recall_of_ranks(neighbor_ranks(labels[rows], test_labels))
    sklearn = KNeighborsClassifier(1, algorithm="brute").fit(train, labels)
    assert recalls[1] == sklearn.score(test, test_labels)
    # A recall of 0 or 1 would not distinguish the rankings.
    assert 0.5 < recalls[1] < 1
    classifier = KNeighborsClassifier(10, algorithm="brute").fit(train, labels)
    neighbor_labels = labels[classifier.kneighbors(test, return_distance=False)]
    for k in (5, 10):
        hits = (neighbor_labels[:, :k] == test_labels[:, None]).any(axis=1)
        assert recalls[k] == hits.mean()


def test_a_class_without_gallery_rows_is_a_miss_at_any_k():
    ranks = neighbor_ranks(np.array([[0, 1], [1, 0]]), [0, 5])
    assert recall_of_ranks(ranks) == dict.fromkeys((1, 5, 10), 0.5)
