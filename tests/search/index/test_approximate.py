import faiss
import numpy as np
import pytest

from align_keras.search import Query
from align_keras.search.index import approximate, vectors_file
from align_keras.search.index.approximate import Approximate, build_or_update
from align_keras.search.index.folder_files import approximate_path


@pytest.fixture(autouse=True)
def single_thread():
    """Lets faiss use one thread, because idle threads take CPU time here."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(threads)


def vectors_of(count, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(count, 16)).astype("float32")
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def small_limits(monkeypatch):
    """Lowers the limits, so that small tests use an approximate index."""
    monkeypatch.setattr(approximate, "LEAST_ROWS", 100)
    monkeypatch.setattr(approximate, "MIN_NEWER_ROWS", 50)


def test_candidates_contain_the_best_rows(tmp_path, small_limits):
    vectors, queries = vectors_of(3000), vectors_of(50, seed=1)
    assert build_or_update(tmp_path, "vectors.0.f32", vectors)
    assert not build_or_update(tmp_path, "vectors.0.f32", vectors)
    index = Approximate.open(tmp_path, "vectors.0.f32", 16)
    index.candidates, hits = 100, 0
    for query in queries:
        best = np.argsort(-(vectors @ query))[:10]
        hits += len(np.intersect1d(best, index.find(query, 10, vectors)))
    assert hits / 500 > 0.98
    # A few newer rows are candidates for an exact scan. Many rows are indexed.
    more_vectors = np.concatenate([vectors, vectors_of(10, seed=2)])
    assert set(range(3000, 3010)) <= set(
        index.find(queries[0], 5, more_vectors).tolist()
    )
    more_vectors = np.concatenate([vectors, vectors_of(60, seed=3)])
    assert build_or_update(tmp_path, "vectors.0.f32", more_vectors)
    index_file = approximate_path(tmp_path, "vectors.0.f32")
    assert faiss.read_index(str(index_file)).ntotal == 3060


def test_the_number_of_candidates_grows_with_the_rows():
    for rows, candidates in ((1_000, 1_000), (3_000_000, 1_200)):
        index = faiss.IndexFlat(1)
        index.add(np.zeros((rows, 1), np.float32))
        assert Approximate(index).candidates == candidates


def test_candidates_fulfill_a_condition(tmp_path, small_limits):
    vectors, queries = vectors_of(3000), vectors_of(50, seed=1)
    build_or_update(tmp_path, "vectors.0.f32", vectors[:2990])
    index = Approximate.open(tmp_path, "vectors.0.f32", 16)
    index.candidates, hits = 100, 0
    rows = np.arange(0, 3000, 3)
    for query in queries:
        best = rows[np.argsort(-(vectors[rows] @ query))[:10]]
        candidates = index.find(query, 10, vectors, rows)
        assert (np.diff(candidates) > 0).all() and set(candidates) <= set(rows)
        assert {2991, 2994, 2997} <= set(candidates) and len(candidates) < 200
        hits += len(np.intersect1d(best, candidates))
    assert hits / 500 > 0.98
    # If only the rows farthest from the query fulfill the condition, all are scanned.
    farthest = np.sort(np.argsort(vectors @ queries[0])[:1500])
    assert index.find(queries[0], 10, vectors, farthest) is None


def test_a_missing_or_damaged_file_is_built_again(tmp_path, small_limits):
    vectors = vectors_of(200)
    assert Approximate.open(tmp_path, "vectors.0.f32", 16) is None
    approximate_path(tmp_path, "vectors.0.f32").write_bytes(b"junk")
    assert Approximate.open(tmp_path, "vectors.0.f32", 16) is None
    assert build_or_update(tmp_path, "vectors.0.f32", vectors)
    assert Approximate.open(tmp_path, "vectors.0.f32", 16) is not None


def test_a_large_index_uses_the_approximate_index(
    tmp_path, photos, colors, small_limits
):
    from align_keras.search import Index

    for number in range(120):
        (photos / f"{number:03}.png").write_bytes(
            colors.image_bytes((number, 255 - number, 3 * number % 200))
        )
    index = Index.build(tmp_path / "index", [photos], colors.GOLDEN)
    assert (tmp_path / "index" / "vectors.0.pq").is_file()
    all_words = ("red", "green blue")
    approximate_hits = [index.query(words, k=7) for words in all_words]
    # This needs more rows than the approximate index returns at once.
    hits = index.query(Query("red", k=200, duplicates=True))
    assert len(hits) == 123
    (tmp_path / "index" / "vectors.0.pq").unlink()
    index = Index.open(tmp_path / "index", colors.GOLDEN)
    assert [index.query(words, k=7) for words in all_words] == approximate_hits


def test_the_file_is_removed_with_the_vectors(tmp_path, monkeypatch, small_limits):
    from align_keras.search import Index

    monkeypatch.setattr(vectors_file, "VECTOR_ROWS_PER_BLOCK", 10)
    names = [str(number) for number in range(120)]
    index = Index.from_embeddings(vectors_of(120), names, folder=tmp_path / "index")
    assert (tmp_path / "index" / "vectors.0.pq").is_file()
    with index.store.writing() as store:
        with store.database.transaction():
            store.remove_images(range(1, 61))
        store.compact()
    assert [path.name for path in (tmp_path / "index").glob("vectors.*")] == [
        "vectors.1.f32"
    ]


def test_a_damaged_file_is_not_searched(tmp_path, small_limits):
    vectors = vectors_of(200)
    build_or_update(tmp_path, "vectors.0.f32", vectors)
    path = approximate_path(tmp_path, "vectors.0.f32")
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for position in [0, *rng.integers(0, len(content), 10).tolist()]:
        damaged = bytearray(content)
        damaged[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        assert Approximate.open(tmp_path, "vectors.0.f32", 16) is None
    assert build_or_update(tmp_path, "vectors.0.f32", vectors)
    for other in (b"", content[:40], content[:-24]):
        path.write_bytes(other)
        assert Approximate.open(tmp_path, "vectors.0.f32", 16) is None
