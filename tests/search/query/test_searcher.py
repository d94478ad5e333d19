"""Near-duplicates among the ranked rows, and scores of several queries at once."""

import numpy as np
import pytest

from align_keras.search.image_index import Index
from align_keras.search.index.image_store import RankedRows
from align_keras.search.query import searcher
from align_keras.search.query.query import Query
from align_keras.search.query.searcher import (
    NEAR_DUPLICATE_COSINE,
    merge_near_duplicates,
)


def clustered_vectors(count, seed=0):
    """Returns unit vectors, many of which are near-duplicates of another one."""
    random = np.random.default_rng(seed)
    centers = random.normal(size=(count // 3, 16))
    vectors = centers[random.integers(0, len(centers), count)]
    vectors = vectors + random.normal(scale=0.22, size=vectors.shape)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32)


def merge_one_by_one(blocks, k):
    """Merges near-duplicates by comparing each row with all results."""
    results, result_vectors = [], []
    for block in blocks:
        for row, vector in zip(block.rows.tolist(), block.vectors, strict=True):
            cosines = [float(vector @ other) for other in result_vectors]
            near = [c >= NEAR_DUPLICATE_COSINE for c in cosines]
            if any(near):
                results[near.index(True)][1].append(row)
            elif len(results) < k:
                results.append((row, []))
                result_vectors.append(vector)
        if len(results) >= k:
            break
    return results


@pytest.mark.parametrize("k", [1, 10, 64, 100, 500])
@pytest.mark.parametrize("scores_per_part", [1_000_000, 1_000])
def test_near_duplicates_are_merged_as_one_by_one(monkeypatch, k, scores_per_part):
    monkeypatch.setattr(searcher, "SCORES_PER_PART", scores_per_part)
    vectors = clustered_vectors(400)
    rows = np.random.default_rng(1).permutation(400)
    blocks = [
        RankedRows(rows[start:stop], -rows[start:stop] / 400.0, vectors[start:stop])
        for start, stop in ((0, 150), (150, 157), (157, 400))
    ]
    expected = merge_one_by_one(blocks, k)
    assert sum(len(copies) for _, copies in expected) > 0
    merged = merge_near_duplicates(iter(blocks), k, keep_duplicates=False)
    assert [(result.row, result.copies) for result in merged] == expected
    assert [result.score for result in merged] == [-row / 400.0 for row, _ in expected]
    separate = merge_near_duplicates(iter(blocks), k, keep_duplicates=True)
    assert [result.row for result in separate] == rows[:k].tolist()
    assert not any(result.copies for result in separate)


def test_scores_of_several_queries_give_the_hits_of_single_queries(tmp_path):
    vectors = clustered_vectors(5_000)
    ids = [f"{number}.png" for number in range(len(vectors))]
    index = Index.from_embeddings(vectors, ids, folder=tmp_path / "index")
    queries = clustered_vectors(6, seed=2)
    scanned = index.store.scan_many(queries)
    for embedding, scores in zip(queries, scanned, strict=True):
        for query in (
            Query(k=20),
            Query(k=20, duplicates=False),
            Query(k=20, where="name like '1%'"),
        ):
            expected = index.search(embedding, query)
            assert index.search(embedding, query, scores) == expected
    # Scores of an older state are not used.
    outdated = scanned[0]._replace(scores=scanned[0].scores[:-1])
    assert index.search(queries[0], Query(k=5), outdated) == index.search(
        queries[0], Query(k=5)
    )
    other_file = scanned[1]._replace(vectors_file="vectors.9.f32")
    assert index.search(queries[0], Query(k=5), other_file) == index.search(
        queries[0], Query(k=5)
    )
