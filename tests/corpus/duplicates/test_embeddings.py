"""Tests of stored embeddings, and of the search against a comparison of all pairs."""

import numpy as np
import pytest

from align_keras.corpus.duplicates import embeddings as module
from align_keras.corpus.duplicates.embeddings import EmbeddingSearch, write_embeddings
from align_keras.utils.errors import InputError

IMAGES = [np.full((2, 3), number) for number in range(7)]


def moments(batch):
    return np.array([[image.mean(), image.sum(), 1.0] for image in batch])


@pytest.mark.parametrize("batch_size", [3, 100])
def test_the_batch_size_does_not_change_the_embeddings(
    tmp_path, monkeypatch, batch_size
):
    monkeypatch.setattr(module, "IMAGES_PER_BATCH", batch_size)
    path = tmp_path / "new" / "embeddings.npy"
    stored = write_embeddings(path, iter(IMAGES), moments, 7)
    np.testing.assert_array_equal(stored, moments(IMAGES))
    assert isinstance(stored, np.memmap) and stored.dtype == np.float16
    np.testing.assert_array_equal(np.load(path), stored)
    assert [file.name for file in path.parent.iterdir()] == ["embeddings.npy"]


def test_no_images_give_an_empty_array(tmp_path):
    assert write_embeddings(tmp_path / "e.npy", [], moments, 0).shape == (0, 0)


@pytest.mark.parametrize(
    "encode",
    [
        lambda batch: np.ones((len(batch), 2, 2)),
        lambda batch: np.full((len(batch), 2), 1e9),
    ],
)
def test_invalid_embeddings_do_not_replace_the_file(tmp_path, monkeypatch, encode):
    monkeypatch.setattr(module, "IMAGES_PER_BATCH", 3)
    path = tmp_path / "e.npy"
    path.write_bytes(b"old")
    with pytest.raises(InputError, match="encode"):
        write_embeddings(path, IMAGES, encode, 7)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def clustered_embeddings(seed, count=1000, dimension=16, noise=0.1):
    """Returns embeddings around random centers, with random lengths, and their keys."""
    random = np.random.default_rng(seed)
    centers = random.normal(size=(count // 5, dimension))
    rows = centers[random.integers(0, len(centers), count)]
    rows = rows + noise * random.normal(size=rows.shape)
    rows *= random.uniform(0.1, 10, (count, 1))
    return rows.astype(np.float32), [f"key{number}" for number in range(count)]


def cosines(first, second):
    first, second = first.astype(float), second.astype(float)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second /= np.linalg.norm(second, axis=1, keepdims=True)
    return first @ second.T


def brute_force(queries, references, ranks, upper_bounds, threshold):
    near = cosines(queries, references) > threshold
    lowest = np.where(near, ranks[None], np.iinfo(np.int64).max).min(1)
    return np.minimum(lowest, upper_bounds).tolist()


def fitted_search(embeddings, keys, **options):
    search = EmbeddingSearch(**{"clusters": 20, "nearest": 5, **options})
    search.fit(keys, embeddings)
    return search, search.prepare(embeddings)


@pytest.mark.ci
# The principal axes cover less than half of 80 dimensions.
@pytest.mark.parametrize("count, dimension", [(500, 16), (1500, 80)])
def test_the_search_equals_a_comparison_of_all_pairs(count, dimension):
    pytest.importorskip("faiss")
    embeddings, keys = clustered_embeddings(0, count, dimension)
    search, prepared = fitted_search(embeddings, keys, threshold=0.975)
    # 500 images have no clusters, 1,500 have 20.
    assert (search.centers is None) == (count == 500)
    ranks = np.random.default_rng(1).permutation(count)
    lowest = search.lowest_ranks(prepared, prepared, ranks, ranks)
    assert lowest.tolist() == brute_force(embeddings, embeddings, ranks, ranks, 0.975)
    assert (lowest < ranks).sum() > count / 3


@pytest.mark.ci
def test_the_search_finds_the_near_images_of_the_buckets_of_the_paper():
    pytest.importorskip("faiss")
    embeddings, keys = clustered_embeddings(5, 3000)
    search, prepared = fitted_search(embeddings, keys, clusters=46, nearest=10)
    first, second = np.nonzero(np.triu(cosines(embeddings, embeddings) > 0.975, 1))
    # A bucket is a triple of the ten nearest clusters of an image (appendix A).
    clusters = prepared.clusters
    is_shared = clusters[first][:, :, None] == clusters[second][:, None]
    in_bucket = is_shared.sum((1, 2)) >= 3
    assert search.centers.ntotal == 46 and in_bucket.sum() > 1000
    ranks = np.arange(3000)
    lowest = search.lowest_ranks(prepared, prepared, ranks, ranks)
    expected = ranks.copy()
    np.minimum.at(expected, second[in_bucket], first[in_bucket])
    assert lowest.tolist() == expected.tolist()


@pytest.mark.ci
def test_blocks_and_threads_do_not_change_the_ranks(monkeypatch):
    faiss = pytest.importorskip("faiss")
    embeddings, keys = clustered_embeddings(3, 3000)
    search, prepared = fitted_search(embeddings, keys)
    ranks = np.arange(3000)
    expected = search.lowest_ranks(prepared, prepared, ranks, ranks)
    for name in (
        "ASSIGNED_ROWS_PER_BLOCK",
        "QUERY_ROWS_PER_BLOCK",
        "VERIFIED_PAIRS_PER_BLOCK",
    ):
        monkeypatch.setattr(module, name, 700)
    monkeypatch.setattr(module, "COMPARED_ROWS_PER_BLOCK", 130)
    threads = faiss.omp_get_max_threads()
    try:
        faiss.omp_set_num_threads(1)
        search, prepared = fitted_search(embeddings, keys)
        lowest = search.lowest_ranks(prepared, prepared, ranks, ranks)
        assert lowest.tolist() == expected.tolist()
    finally:
        faiss.omp_set_num_threads(threads)
    assert (expected < ranks).sum() > 1000


@pytest.mark.ci
def test_a_cosine_at_the_threshold_is_not_near():
    pytest.importorskip("faiss")
    # The cosine is exactly 3 / 5, because the lengths 1 and 5 are whole numbers.
    rows = np.float32([[1, 0], [3, 4]])
    ranks = np.arange(2)
    for threshold, expected in ((0.6, [0, 1]), (np.nextafter(0.6, 0), [0, 0])):
        search = EmbeddingSearch(threshold=threshold)
        search.fit(["a", "b"], rows)
        prepared = search.prepare(rows)
        assert search.lowest_ranks(prepared, prepared, ranks, ranks).tolist() == (
            expected
        )


@pytest.mark.ci
def test_zero_rows_are_not_near_and_equal_rows_are_near_the_first():
    pytest.importorskip("faiss")
    search = EmbeddingSearch(clusters=20, nearest=5)
    for value, expected in ((0, np.arange(1300)), (3, np.zeros(1300))):
        rows = np.full((1300, 4), value, np.float16)
        search.fit([str(number) for number in range(1300)], rows)
        prepared = search.prepare(rows)
        ranks = np.arange(1300)
        lowest = search.lowest_ranks(prepared, prepared, ranks, ranks)
        np.testing.assert_array_equal(lowest, expected)


@pytest.mark.ci
def test_few_images_have_no_clusters_and_the_order_does_not_change_the_centers():
    faiss = pytest.importorskip("faiss")
    embeddings, keys = clustered_embeddings(4, 2560)
    search = EmbeddingSearch()
    search.fit(keys[:2559], embeddings[:2559])
    assert search.centers is None
    search.fit(keys, embeddings)
    centers = search.centers.reconstruct_n(0, 40)
    assert search.centers.ntotal == 40 and isinstance(search.centers, faiss.IndexFlat)
    order = np.random.default_rng(0).permutation(2560)
    search.fit([keys[row] for row in order], embeddings[order])
    np.testing.assert_array_equal(search.centers.reconstruct_n(0, 40), centers)
    search.fit([], np.empty((0, 8), np.float32))
    assert search.centers is None
