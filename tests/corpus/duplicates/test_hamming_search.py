"""The banded search against all pairs by loops."""

import numpy as np
import pytest

from align_keras.corpus.duplicates import hashes as module
from align_keras.corpus.duplicates.hashes import HammingSearch, mirrored_hashes
from align_keras.utils.errors import InputError


def bits_between(first, second):
    return sum(
        (int(a) ^ int(b)).bit_count() for a, b in zip(first, second, strict=True)
    )


def brute_force(queries, references, ranks, below, threshold):
    best = below.tolist()
    for q, query in enumerate(queries):
        for r, reference in enumerate(references):
            pairs = [(view, reference[0]) for view in query]
            pairs += [(query[0], view) for view in reference]
            for one, other in pairs:
                if not (one.any() and other.any()):
                    continue
                turned = (one, mirrored_hashes(one))
                if min(bits_between(own, other) for own in turned) <= threshold:
                    best[q] = min(best[q], int(ranks[r]))
    return best


def hashes_near_each_other(seed, count, views, changed):
    """Hashes that are some seeds with up to `changed` bits flipped; some plain."""
    random = np.random.default_rng(seed)
    seeds = random.integers(0, 1 << 64, (max(1, count // 8), 2), np.uint64)
    hashes = seeds[random.integers(0, len(seeds), (count, views))]
    for row in hashes.reshape(-1, 2):
        for place in random.integers(0, 128, random.integers(0, changed + 1)):
            row[place // 64] ^= np.uint64(1) << np.uint64(place % 64)
    turned = random.random(count) < 0.3
    hashes[turned] = mirrored_hashes(hashes[turned])
    hashes[random.random(count) < 0.05] = 0
    return hashes


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize(
    "threshold",
    [
        0,
        1,
        pytest.param(7, marks=pytest.mark.release),
        8,
        pytest.param(12, marks=pytest.mark.release),
        17,
    ],
)
def test_it_finds_what_all_pairs_find(threshold, views):
    queries = hashes_near_each_other(threshold, 60, views, threshold)
    references = np.concatenate([queries[:30], queries[20:50][:, ::-1]])
    ranks = np.random.default_rng(1).permutation(60)
    below = np.full(60, 50)
    found = HammingSearch(threshold).lowest(queries, references, ranks, below)
    expected = brute_force(queries, references, ranks, below, threshold)
    assert found.tolist() == expected
    assert (found < 50).sum() > 20


def test_few_and_many_hashes_have_other_bands_and_the_same_result(monkeypatch):
    hashes = hashes_near_each_other(5, 60, 1, 12)
    ranks = below = np.arange(60)
    few = HammingSearch(12).lowest(hashes, hashes, ranks, below)
    monkeypatch.setattr(module, "FEW_HASHES", 0)
    many = HammingSearch(12).lowest(hashes, hashes, ranks, below)
    assert few.tolist() == many.tolist()
    assert (few < below).any()


@pytest.mark.parametrize(("many", "at_once"), [(1, 1 << 16), (1, 5), (1 << 30, 5)])
def test_matrices_of_pairs_and_pairs_alone_find_the_same(many, at_once, monkeypatch):
    hashes = hashes_near_each_other(5, 60, 2, 12)
    ranks = below = np.arange(60)
    expected = brute_force(hashes, hashes, ranks, below, 12)
    monkeypatch.setattr(module, "MIN_MATRIX_PAIRS", many)
    monkeypatch.setattr(module, "HASH_PAIRS_PER_BLOCK", at_once)
    assert HammingSearch(12).lowest(hashes, hashes, ranks, below).tolist() == expected


@pytest.mark.parametrize(
    "threshold",
    [
        pytest.param(0, marks=pytest.mark.release),
        5,
        pytest.param(12, marks=pytest.mark.release),
        16,
    ],
)
def test_the_threshold_is_inclusive_wherever_the_bits_lie(threshold):
    random = np.random.default_rng(threshold)
    none = np.array([9])
    for _ in range(40):
        query = random.integers(0, 1 << 64, (1, 1, 2), np.uint64)
        for distance, expected in ((threshold, 0), (threshold + 1, 9)):
            reference = query.copy()
            for place in random.permutation(128)[:distance]:
                reference[0, 0, place // 64] ^= np.uint64(1) << np.uint64(place % 64)
            search = HammingSearch(threshold)
            found = search.lowest(query, reference, np.array([0]), none)
            assert found.tolist() == [expected]


@pytest.mark.ci
def test_blocks_change_nothing():
    hashes = hashes_near_each_other(7, 200, 2, 10)
    ranks = below = np.arange(200)
    whole = HammingSearch().lowest(hashes, hashes, ranks, below)
    for rows in (1, 7, 64):
        part = HammingSearch(block_rows=rows).lowest(hashes, hashes, ranks, below)
        assert part.tolist() == whole.tolist()


def test_equal_and_plain_hashes():
    equal = np.full((5, 6, 2), 12345, np.uint64)
    ranks = below = np.arange(5)
    assert HammingSearch().lowest(equal, equal, ranks, below).tolist() == [0] * 5
    plain = np.zeros((5, 6, 2), np.uint64)
    assert HammingSearch().lowest(plain, plain, ranks, below).tolist() == [
        0,
        1,
        2,
        3,
        4,
    ]


def test_plain_images_are_near_to_no_sparse_ones():
    plain = np.zeros((1, 2, 2), np.uint64)
    sparse = np.full((1, 2, 2), 3, np.uint64)
    for query, reference in ((plain, sparse), (sparse, plain)):
        found = HammingSearch().lowest(query, reference, np.array([0]), np.array([1]))
        assert found.tolist() == [1]


def test_nothing_is_near_nothing():
    hashes = np.full((2, 1, 2), 7, np.uint64)
    none = np.empty((0, 1, 2), np.uint64)
    below = np.array([3, 3])
    found = HammingSearch().lowest(hashes, none, np.array([], int), below)
    assert found.tolist() == [3, 3]
    assert not len(HammingSearch().lowest(none, hashes, below, np.array([], int)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": -1}, "threshold must be"),
        ({"threshold": 33}, "threshold must be"),
        ({"threshold": 2.5}, "threshold must be"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(InputError, match=message):
        HammingSearch(**options)
