"""Retrieval with composed queries of an image and words."""

import dataclasses
import tracemalloc

import numpy as np
import pytest

from align_keras.evaluation import composed_metrics, rank_composed_queries
from align_keras.evaluation.recall_at_k import rank_of_best_positive


@dataclasses.dataclass
class Query:
    image: int
    words: str
    sign: int
    targets: tuple


WORDS = {"plus": [0.0, 2.0, 0.0], "slash": [0.0, 0.0, 1.0]}


def encode_texts(texts):
    return np.array([WORDS[text] for text in texts])


def metrics_of(queries):
    ranks = rank_composed_queries(encode_texts, IMAGES, queries)
    return dict(composed_metrics(ranks, queries, len(IMAGES)))


def unit(*values):
    return np.array(values) / np.linalg.norm(values)


IMAGES = np.array(
    [
        3 * unit(1, 0, 0),  # An icon "user". Its length has no effect.
        unit(1, 2, 0),  # The icon "user-plus".
        unit(1, 0, 2),  # The icon "user-slash".
        unit(1, 0.1, 0.1),  # A second icon of a user.
    ]
)


def test_ranks_of_a_small_example_match_a_calculation():
    queries = [
        Query(0, "plus", 1, (1,)),
        Query(0, "slash", 1, (2,)),
        Query(1, "plus", -1, (0,)),
    ]
    ranks = rank_composed_queries(encode_texts, IMAGES, queries)
    assert ranks[""].tolist()[:2] == ranks["paper/"].tolist()[:2] == [0, 0]
    # The query user-plus without plus is (0.45, 0, 0). The scores are 0.45 for the
    # user, 0.44 for the second user and 0.2 for user-slash.
    assert ranks[""][2] == 0
    # The query user-plus - 2 plus is (0.45, -1.11, 0). The scores are 0.45 for the
    # user, 0.33 for the second user and 0.2 for user-slash.
    assert ranks["paper/"][2] == 0
    # The image of the user ranks the second user first. Its scores of user-plus and
    # user-slash are equal, and the wrong one of them ranks before the target.
    assert ranks["image_alone/"].tolist() == [2, 2, 1]
    # The words -plus have the score 0 for both the user and user-slash, and the wrong
    # one ranks before the target. The score of the second user is negative.
    assert ranks["text_alone/"].tolist() == [0, 0, 1]


def test_metrics_of_a_small_example_match_a_calculation():
    queries = [Query(0, "plus", 1, (1,)), Query(1, "plus", -1, (0, 3))]
    metrics = metrics_of(queries)
    assert metrics["recall_at_1"] == metrics["plus/recall_at_1"] == 1
    # The image of the second query ranks its target 3 first.
    assert metrics["image_alone/recall_at_1"] == 0.5
    assert metrics["plus/image_alone/recall_at_1"] == 0
    assert metrics["minus/image_alone/recall_at_1"] == 1
    # The gallery has three images. The first query has one target, the second two.
    assert metrics["plus/chance_recall_at_1"] == pytest.approx(1 / 3)
    assert metrics["minus/chance_recall_at_1"] == pytest.approx(2 / 3)
    assert metrics["chance_recall_at_1"] == pytest.approx(1 / 2)
    kinds = ("", "plus/", "minus/")
    assert [metrics[f"{kind}queries"] for kind in kinds] == [2, 1, 1]
    only_plus = metrics_of(queries[:1])
    assert not [name for name in only_plus if name.startswith("minus")]


@pytest.mark.parametrize("weights", [(1.0, 2.0), (1.0, 0.0), (0.3, 1.7)])
def test_ranks_equal_those_of_separate_searches(weights):
    """Each search has a single query and a gallery without the image of the query."""
    random = np.random.default_rng(0)
    images = random.normal(size=(40, 3))
    images[20:30] = images[:10]  # Equal images produce ties.
    queries = []
    for _ in range(30):
        image, *targets = random.permutation(40)[:3]
        words = random.choice(list(WORDS))
        queries.append(Query(image, words, random.choice([1, -1]), tuple(targets)))
    ranks = rank_composed_queries(encode_texts, images, queries, *weights)["paper/"]
    rows = images / np.linalg.norm(images, axis=1, keepdims=True)
    for query, rank in zip(queries, ranks, strict=True):
        words = encode_texts([query.words])[0]
        vector = weights[0] * rows[query.image] + weights[1] * query.sign * (
            words / np.linalg.norm(words)
        )
        gallery = np.delete(np.arange(40), query.image)
        targets = np.flatnonzero(np.isin(gallery, query.targets))
        expected = rank_of_best_positive(vector[None], rows[gallery], [targets])
        assert rank == expected[0]


def test_a_large_gallery_is_scored_in_blocks():
    images = np.random.default_rng(0).normal(size=(12_000, 64)).astype("float32")
    queries = [Query(row, "plus", 1, (row + 1,)) for row in range(256)]
    tracemalloc.start()
    try:
        rank_composed_queries(lambda texts: np.eye(1, 64), images, queries)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # All scores take 25 MB.
    assert peak < 20e6


def test_a_collapsed_model_ranks_the_targets_last():
    queries = [Query(0, "plus", 1, (1,)), Query(1, "plus", -1, (0,))]
    ranks = rank_composed_queries(
        lambda texts: np.ones((len(texts), 3)), np.ones((5, 3)), queries
    )
    assert all((query_ranks == 3).all() for query_ranks in ranks.values())
