"""Embeddings in a file, and near ones by faiss against all cosines by loops."""

import numpy as np
import pytest

from align_keras.corpus.duplicates import embeddings as module
from align_keras.corpus.duplicates.embeddings import EmbeddingSearch, write_embeddings
from align_keras.utils.errors import InputError

IMAGES = [np.full((2, 3), number) for number in range(7)]


def moments(batch):
    return np.array([[image.mean(), image.sum(), 1.0] for image in batch])


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_batches_change_nothing(tmp_path, batch_size):
    path = tmp_path / "new" / "embeddings.npy"
    found = write_embeddings(path, iter(IMAGES), moments, 7, batch_size=batch_size)
    np.testing.assert_array_equal(found, moments(IMAGES))
    assert isinstance(found, np.memmap) and found.dtype == np.float16
    np.testing.assert_array_equal(np.load(path), found)
    assert [file.name for file in path.parent.iterdir()] == ["embeddings.npy"]


def test_no_images(tmp_path):
    assert write_embeddings(tmp_path / "e.npy", [], moments, 0).shape == (0, 0)


@pytest.mark.parametrize(
    ("encode", "count", "message"),
    [
        (lambda batch: np.ones((len(batch), 2, 2)), 7, r"a row an image.*\(3, 2, 2\)"),
        (lambda batch: np.ones((1, 2)), 7, r"a row an image.*\(1, 2\)"),
        (lambda batch: np.full((len(batch), 2), np.nan), 7, "finite"),
        (lambda batch: np.full((len(batch), 2), 1e9), 7, "finite.*float32"),
    ],
)
def test_a_fault_leaves_the_old_file(tmp_path, encode, count, message):
    path = tmp_path / "e.npy"
    path.write_bytes(b"old")
    with pytest.raises(InputError, match=message):
        write_embeddings(path, IMAGES, encode, count, batch_size=3)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_larger_numbers_fit_float32(tmp_path):
    found = write_embeddings(
        tmp_path / "e.npy",
        IMAGES,
        lambda batch: np.full((len(batch), 2), 1e9),
        7,
        dtype="float32",
    )
    assert (found == np.float32(1e9)).all()


def planted(seed, count=1000, dimension=16, noise=0.1):
    """Directions around some centers, and lengths that must not count."""
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


def brute_force(queries, references, ranks, below, threshold):
    near = cosines(queries, references) > threshold
    lowest = np.where(near, ranks[None], np.iinfo(np.int64).max).min(1)
    return np.minimum(lowest, below).tolist()


def placed_search(embeddings, keys, **options):
    search = EmbeddingSearch(**{"clusters": 20, "nearest": 5, **options})
    search.fit(keys, embeddings)
    return search, search.place(embeddings)


@pytest.mark.ci
# Of 80 dimensions the axes hold less than half.
@pytest.mark.parametrize("count, dimension", [(500, 16), (3000, 16), (3000, 80)])
def test_it_finds_what_all_with_all_finds(count, dimension):
    pytest.importorskip("faiss")
    embeddings, keys = planted(0, count, dimension)
    search, placed = placed_search(embeddings, keys, threshold=0.975)
    # 500 images have no clusters, 3,000 have 20.
    assert (search.centers is None) == (count == 500)
    ranks = np.random.default_rng(1).permutation(count)
    found = search.lowest(placed, placed, ranks, ranks)
    assert found.tolist() == brute_force(embeddings, embeddings, ranks, ranks, 0.975)
    assert (found < ranks).sum() > count / 3


@pytest.mark.ci
def test_evaluation_images_are_looked_for_in_the_corpus_clusters():
    pytest.importorskip("faiss")
    embeddings, keys = planted(2, 3000)
    search, placed = placed_search(embeddings, keys)
    others = embeddings[::3] * 2 + 0.001
    ranks, below = np.arange(1000), np.full(3000, 500)
    found = search.lowest(placed, search.place(others), ranks, below)
    assert found.tolist() == brute_force(embeddings, others, ranks, below, 0.975)


@pytest.mark.ci
def test_blocks_and_threads_change_nothing(monkeypatch):
    faiss = pytest.importorskip("faiss")
    embeddings, keys = planted(3, 3000)
    search, placed = placed_search(embeddings, keys)
    ranks = np.arange(3000)
    whole = search.lowest(placed, placed, ranks, ranks)
    for name in (
        "PLACED_ROWS_PER_BLOCK",
        "QUERY_ROWS_PER_BLOCK",
        "VERIFIED_PAIRS_PER_BLOCK",
    ):
        monkeypatch.setattr(module, name, 700)
    threads = faiss.omp_get_max_threads()
    try:
        faiss.omp_set_num_threads(1)
        search, placed = placed_search(embeddings, keys, block_rows=130)
        assert search.lowest(placed, placed, ranks, ranks).tolist() == whole.tolist()
    finally:
        faiss.omp_set_num_threads(threads)
    assert (whole < ranks).sum() > 1000


@pytest.mark.ci
@pytest.mark.parametrize("turn", [1, 7, -1])
def test_a_cosine_at_the_threshold_is_not_near(turn):
    pytest.importorskip("faiss")
    # cos = 3 / 5 exactly; lengths are whole numbers too.
    rows = turn * np.float32([[1, 0], [3, 4]])
    ranks = np.arange(2)
    for threshold, expected in ((0.6, [0, 1]), (np.nextafter(0.6, 0), [0, 0])):
        search = EmbeddingSearch(threshold=threshold)
        search.fit(["a", "b"], rows)
        placed = search.place(rows)
        assert search.lowest(placed, placed, ranks, ranks).tolist() == expected


@pytest.mark.ci
def test_zeros_are_near_nothing_and_equal_rows_near_their_first():
    pytest.importorskip("faiss")
    search = EmbeddingSearch()
    for value, expected in ((0, np.arange(5000)), (3, np.zeros(5000))):
        rows = np.full((5000, 4), value, np.float16)
        search.fit([str(number) for number in range(5000)], rows)
        placed = search.place(rows)
        ranks = np.arange(5000)
        found = search.lowest(placed, placed, ranks, ranks)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.ci
def test_few_images_make_no_clusters_and_their_order_none_else():
    faiss = pytest.importorskip("faiss")
    embeddings, keys = planted(4, 2560)
    search = EmbeddingSearch()
    search.fit(keys[:2559], embeddings[:2559])
    assert search.centers is None
    search.fit(keys, embeddings)
    centers = search.centers.reconstruct_n(0, 40)
    assert search.centers.ntotal == 40 and isinstance(search.centers, faiss.IndexFlat)
    order = np.random.default_rng(0).permutation(2560)
    search.fit([keys[place] for place in order], embeddings[order])
    np.testing.assert_array_equal(search.centers.reconstruct_n(0, 40), centers)
    search.fit([], np.empty((0, 8), np.float32))
    assert search.centers is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nearest": 0}, "nearest must be a whole number from 1 to 4096"),
        ({"clusters": 9}, "nearest must be a whole number from 1 to 9"),
        ({"threshold": 0}, "threshold must be a number"),
        ({"threshold": 1.01}, "threshold must be a number"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(InputError, match=message):
        EmbeddingSearch(**options)
