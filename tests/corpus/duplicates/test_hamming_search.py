"""Compares the search in bands with a comparison of all pairs in loops."""

import numpy as np
import pytest

from align_keras.corpus.duplicates import hashes as module
from align_keras.corpus.duplicates.hashes import HammingSearch, mirrored_hashes


def bits_between(first, second):
    return sum(
        (int(a) ^ int(b)).bit_count() for a, b in zip(first, second, strict=True)
    )


def brute_force(queries, references, ranks, upper_bounds, threshold):
    best = upper_bounds.tolist()
    for q, query in enumerate(queries):
        for r, reference in enumerate(references):
            pairs = [(view, reference[0]) for view in query]
            pairs += [(query[0], view) for view in reference]
            for first, second in pairs:
                if not (first.any() and second.any()):
                    continue
                variants = (first, mirrored_hashes(first))
                distance = min(bits_between(variant, second) for variant in variants)
                if distance <= threshold:
                    best[q] = min(best[q], int(ranks[r]))
    return best


def hashes_near_each_other(seed, count, views, changed):
    """Returns copies of a few random hashes with up to `changed` bits flipped.

    Some of the hashes are mirrored, and some are zero like those of plain images.
    """
    random = np.random.default_rng(seed)
    seeds = random.integers(0, 1 << 64, (max(1, count // 8), 2), np.uint64)
    hashes = seeds[random.integers(0, len(seeds), (count, views))]
    for row in hashes.reshape(-1, 2):
        for bit in random.integers(0, 128, random.integers(0, changed + 1)):
            row[bit // 64] ^= np.uint64(1) << np.uint64(bit % 64)
    is_mirrored = random.random(count) < 0.3
    hashes[is_mirrored] = mirrored_hashes(hashes[is_mirrored])
    hashes[random.random(count) < 0.05] = 0
    return hashes


@pytest.mark.parametrize(("threshold", "views"), [(0, 1), (8, 3), (17, 1)])
def test_the_search_equals_a_comparison_of_all_pairs(threshold, views):
    queries = hashes_near_each_other(threshold, 40, views, threshold)
    references = np.concatenate([queries[:20], queries[10:30][:, ::-1]])
    ranks = np.random.default_rng(1).permutation(40)
    upper_bounds = np.full(40, 30)
    lowest_ranks = HammingSearch(threshold).lowest_ranks(
        queries, references, ranks, upper_bounds
    )
    expected = brute_force(queries, references, ranks, upper_bounds, threshold)
    assert lowest_ranks.tolist() == expected
    assert (lowest_ranks < 30).sum() > 10


def test_the_number_of_bands_does_not_change_the_result(monkeypatch):
    hashes = hashes_near_each_other(5, 40, 1, 8)
    ranks = upper_bounds = np.arange(40)
    few = HammingSearch(8).lowest_ranks(hashes, hashes, ranks, upper_bounds)
    monkeypatch.setattr(module, "FEW_HASHES", 0)
    many = HammingSearch(8).lowest_ranks(hashes, hashes, ranks, upper_bounds)
    assert few.tolist() == many.tolist()
    assert (few < upper_bounds).any()


@pytest.mark.parametrize(
    ("min_matrix_pairs", "pairs_per_block"), [(1, 5), (1 << 30, 5)]
)
def test_matrices_and_single_pairs_have_the_same_result(
    min_matrix_pairs, pairs_per_block, monkeypatch
):
    hashes = hashes_near_each_other(5, 30, 2, 12)
    ranks = upper_bounds = np.arange(30)
    expected = brute_force(hashes, hashes, ranks, upper_bounds, 12)
    monkeypatch.setattr(module, "MIN_MATRIX_PAIRS", min_matrix_pairs)
    monkeypatch.setattr(module, "HASH_PAIRS_PER_BLOCK", pairs_per_block)
    lowest_ranks = HammingSearch(12).lowest_ranks(hashes, hashes, ranks, upper_bounds)
    assert lowest_ranks.tolist() == expected


@pytest.mark.parametrize("threshold", [5, 16])
def test_the_threshold_is_inclusive_for_any_bits(threshold):
    random = np.random.default_rng(threshold)
    upper_bounds = np.array([9])
    for _ in range(8):
        query = random.integers(0, 1 << 64, (1, 1, 2), np.uint64)
        for distance, expected in ((threshold, 0), (threshold + 1, 9)):
            reference = query.copy()
            for bit in random.permutation(128)[:distance]:
                reference[0, 0, bit // 64] ^= np.uint64(1) << np.uint64(bit % 64)
            search = HammingSearch(threshold)
            lowest_ranks = search.lowest_ranks(
                query, reference, np.array([0]), upper_bounds
            )
            assert lowest_ranks.tolist() == [expected]


def test_the_block_size_does_not_change_the_result(monkeypatch):
    hashes = hashes_near_each_other(7, 40, 2, 10)
    ranks = upper_bounds = np.arange(40)
    expected = HammingSearch().lowest_ranks(hashes, hashes, ranks, upper_bounds)
    monkeypatch.setattr(module, "HASHES_PER_BLOCK", 7)
    lowest_ranks = HammingSearch().lowest_ranks(hashes, hashes, ranks, upper_bounds)
    assert lowest_ranks.tolist() == expected.tolist()


def test_equal_hashes_are_near_unless_they_are_zero():
    equal = np.full((5, 6, 2), 12345, np.uint64)
    ranks = upper_bounds = np.arange(5)
    lowest_ranks = HammingSearch().lowest_ranks(equal, equal, ranks, upper_bounds)
    assert lowest_ranks.tolist() == [0] * 5
    plain = np.zeros((5, 6, 2), np.uint64)
    lowest_ranks = HammingSearch().lowest_ranks(plain, plain, ranks, upper_bounds)
    assert lowest_ranks.tolist() == list(range(5))


def test_plain_images_are_not_near_images_with_few_bits():
    plain = np.zeros((1, 2, 2), np.uint64)
    sparse = np.full((1, 2, 2), 3, np.uint64)
    for query, reference in ((plain, sparse), (sparse, plain)):
        ranks, upper_bounds = np.array([0]), np.array([1])
        lowest_ranks = HammingSearch().lowest_ranks(
            query, reference, ranks, upper_bounds
        )
        assert lowest_ranks.tolist() == [1]


def test_queries_or_references_may_be_empty():
    hashes = np.full((2, 1, 2), 7, np.uint64)
    no_hashes = np.empty((0, 1, 2), np.uint64)
    no_ranks = np.array([], int)
    upper_bounds = np.array([3, 3])
    lowest_ranks = HammingSearch().lowest_ranks(
        hashes, no_hashes, no_ranks, upper_bounds
    )
    assert lowest_ranks.tolist() == [3, 3]
    assert not len(
        HammingSearch().lowest_ranks(no_hashes, hashes, upper_bounds, no_ranks)
    )
