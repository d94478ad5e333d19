"""Clusters in common and cosines, against sets of buckets and loops."""

import itertools

import numpy as np
import pytest

from align_keras.corpus import embedding_duplicates
from align_keras.corpus.embedding_clusters import learn_centres, nearest_clusters
from align_keras.corpus.embedding_duplicates import EmbeddingSearch
from align_keras.utils.errors import InputError

pytestmark = pytest.mark.ci

pytest.importorskip("sklearn")

# Small numbers of everything, so that buckets separate some near pictures.
SMALL = {"clusters": 12, "nearest": 3, "triple": 2, "threshold": 0.9}


def planted(seed, count=1000, dimension=6, noise=0.25):
    """Directions around some centres, and lengths that must not count."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(count // 5, dimension))
    rows = centres[random.integers(0, len(centres), count)]
    rows = rows + noise * random.normal(size=rows.shape)
    rows *= random.uniform(0.1, 10, (count, 1))
    return rows.astype(np.float32), [f"key{number}" for number in range(count)]


def cosine(first, second):
    first, second = first.astype(float), second.astype(float)
    return first @ second / np.sqrt((first @ first) * (second @ second))


def brute_force(queries, references, ranks, below, triple, threshold):
    """Puts references into buckets of a dict, and compares within them."""
    buckets = {}
    for row, clusters in enumerate(references.clusters.tolist()):
        for bucket in itertools.combinations(clusters, triple):
            buckets.setdefault(bucket, set()).add(row)
    best = below.tolist()
    for row, clusters in enumerate(queries.clusters.tolist()):
        own = [buckets.get(b, ()) for b in itertools.combinations(clusters, triple)]
        for other in set().union(*own):
            pair = queries.embeddings[row], references.embeddings[other]
            if cosine(*pair) > threshold:
                best[row] = min(best[row], int(ranks[other]))
    return best


def placed_search(embeddings, keys, **options):
    search = EmbeddingSearch(**{**SMALL, **options})
    search.fit(keys, embeddings)
    return search, search.place(embeddings, "the corpus")


def test_it_finds_what_buckets_of_a_dict_find():
    embeddings, keys = planted(0)
    search, placed = placed_search(embeddings, keys)
    assert placed.clusters.shape == (1000, 3) and placed.clusters.max() > 9
    ranks = np.random.default_rng(1).permutation(1000)
    found = search.lowest(placed, placed, ranks, ranks)
    expected = brute_force(placed, placed, ranks, ranks, 2, 0.9)
    assert found.tolist() == expected
    # The buckets matter: with all against all, more are found.
    everything = EmbeddingSearch(threshold=0.9)
    whole = everything.place(embeddings, "the corpus")
    assert (everything.lowest(whole, whole, ranks, ranks) < found).any()


def test_evaluation_pictures_go_to_the_corpus_clusters():
    embeddings, keys = planted(2)
    search, placed = placed_search(embeddings, keys)
    others = search.place(embeddings[::3] * 2 + 0.01, "coco")
    ranks, below = np.arange(len(others.rows)), np.full(1000, 500)
    found = search.lowest(placed, others, ranks, below)
    assert found.tolist() == brute_force(placed, others, ranks, below, 2, 0.9)


def test_blocks_change_nothing(monkeypatch):
    embeddings, keys = planted(3)
    search, placed = placed_search(embeddings, keys)
    ranks = np.arange(1000)
    whole = search.lowest(placed, placed, ranks, ranks)
    for name in ("_LEADERS", "_FIRST_LEADERS", "_VERIFIED_AT_ONCE"):
        monkeypatch.setattr(embedding_duplicates, name, 2)
    monkeypatch.setattr(embedding_duplicates, "_ENTRIES_AT_ONCE", 500)
    search, placed = placed_search(embeddings, keys, block_rows=13)
    assert search.lowest(placed, placed, ranks, ranks).tolist() == whole.tolist()
    assert (whole < ranks).sum() > 100


@pytest.mark.parametrize("turn", [1, 7, -1])
def test_a_cosine_at_the_threshold_is_not_near(turn):
    # cos = 3 / 5 exactly; lengths are whole numbers too.
    rows = turn * np.float32([[1, 0], [3, 4]])
    ranks = np.arange(2)
    for threshold, expected in ((0.6, [0, 1]), (np.nextafter(0.6, 0), [0, 0])):
        search = EmbeddingSearch(threshold=threshold)
        search.fit(["a", "b"], rows)
        placed = search.place(rows, "the corpus")
        assert search.lowest(placed, placed, ranks, ranks).tolist() == expected


def test_zeros_are_near_nothing_and_equal_rows_near_their_first():
    search = EmbeddingSearch()
    for value, expected in ((0, np.arange(5000)), (3, np.zeros(5000))):
        rows = np.full((5000, 4), value, np.float16)
        search.fit([str(number) for number in range(5000)], rows)
        placed = search.place(rows, "the corpus")
        ranks = np.arange(5000)
        found = search.lowest(placed, placed, ranks, ranks)
        np.testing.assert_array_equal(found, expected)


def test_few_pictures_make_no_clusters():
    embeddings, keys = planted(4, 2559)
    search = EmbeddingSearch()
    search.fit(keys, embeddings)
    assert search.centres is None
    embeddings, keys = planted(4, 2560)
    search.fit(keys, embeddings)
    assert len(search.centres) == 40
    search.fit([], np.empty((0, 8), np.float32))
    assert search.centres is None
    assert search.place(np.empty((0, 8), np.float32), "it").clusters.shape == (0, 3)


def test_the_order_of_the_pictures_changes_no_centre():
    embeddings, keys = planted(5, 3000)
    order = np.random.default_rng(0).permutation(3000)
    first = learn_centres(embeddings, keys, 20)
    second = learn_centres(embeddings[order], [keys[place] for place in order], 20)
    np.testing.assert_array_equal(first, second)


def test_equal_pictures_make_no_equal_centres():
    embeddings = np.eye(5, dtype=np.float32)[np.arange(1000) % 5]
    keys = [f"key{number}" for number in range(1000)]
    centres = learn_centres(embeddings, keys, 20)
    assert len(np.unique(centres, axis=0)) == len(centres) <= 5
    # Fewer than a picture's clusters: all are compared with all.
    _, placed = placed_search(embeddings, keys, nearest=6)
    assert (placed.clusters == [0, 1]).all()


def test_nearest_clusters_by_loops():
    embeddings, keys = planted(6, 300)
    centres = learn_centres(embeddings, keys, 20)
    found = nearest_clusters(embeddings, centres, 4, 7)
    for row, own in zip(embeddings.astype(float), found, strict=True):
        row = row / np.linalg.norm(row)
        distances = [np.linalg.norm(row - centre) for centre in centres]
        assert sorted(own.tolist()) == own.tolist()
        assert set(own.tolist()) == set(np.argsort(distances)[:4].tolist())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"triple": 0}, "must ascend"),
        ({"nearest": 2}, "must ascend"),
        ({"clusters": 9}, "must ascend"),
        ({"threshold": 0}, "threshold must be a cosine"),
        ({"threshold": 1.01}, "threshold must be a cosine"),
        ({"block_rows": 0}, "block_rows must be"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(InputError, match=message):
        EmbeddingSearch(**options)


def test_wrong_embeddings():
    search = EmbeddingSearch()
    with pytest.raises(InputError, match="must be a float array"):
        search.fit(["a"], np.zeros((1, 2), int))
    with pytest.raises(InputError, match="must be a float array"):
        search.fit(["a"], np.zeros(2))
    rows = np.zeros((5000, 2), np.float32)
    rows[4500] = np.nan
    with pytest.raises(InputError, match="row 4500"):
        search.place(rows, "coco")
    embeddings, keys = planted(7)
    search, _ = placed_search(embeddings, keys)
    with pytest.raises(InputError, match="must have 6 numbers.*received 5"):
        search.place(embeddings[:, :5], "coco")
