import dataclasses
import tracemalloc

import numpy as np
import pytest

from align_keras.evaluation import composed_metrics, rank_composed_queries
from align_keras.evaluation.recall_at_k import rank_of_best_positive
from align_keras.utils.errors import InputError


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
    ranks = rank_composed_queries(encode_texts, PICTURES, queries)
    return dict(composed_metrics(ranks, queries, len(PICTURES)))


def unit(*values):
    return np.array(values) / np.linalg.norm(values)


PICTURES = np.array(
    [
        3 * unit(1, 0, 0),  # user; lengths don't matter
        unit(1, 2, 0),  # user-plus
        unit(1, 0, 2),  # user-slash
        unit(1, 0.1, 0.1),  # another user
    ]
)


def test_by_hand():
    queries = [
        Query(0, "plus", 1, (1,)),
        Query(0, "slash", 1, (2,)),
        Query(1, "plus", -1, (0,)),
    ]
    ranks = rank_composed_queries(encode_texts, PICTURES, queries)
    assert ranks[""].tolist()[:2] == [0, 0]
    # user-plus - 2 plus = (0.45, -1.11, 0): user 0.45, another 0.33, slash 0.2.
    assert ranks[""][2] == 0
    # The picture alone finds the other user first, its own left out, and can't tell
    # user-plus from user-slash, which counts as wrong.
    assert ranks["image_alone/"].tolist() == [2, 2, 1]
    # -plus scores user 0 and slash 0 alike, which counts as wrong, another less.
    assert ranks["text_alone/"].tolist() == [0, 0, 1]


def test_metrics_by_hand():
    queries = [Query(0, "plus", 1, (1,)), Query(1, "plus", -1, (0, 3))]
    found = metrics_of(queries)
    assert found["recall_at_1"] == found["plus/recall_at_1"] == 1
    assert found["image_alone/recall_at_1"] == 0.5  # The second's is (3,).
    assert found["plus/image_alone/recall_at_1"] == 0
    assert found["minus/image_alone/recall_at_1"] == 1
    # Three pictures are left, one right for the one query and two for the other.
    assert found["plus/chance_recall_at_1"] == pytest.approx(1 / 3)
    assert found["minus/chance_recall_at_1"] == pytest.approx(2 / 3)
    assert found["chance_recall_at_1"] == pytest.approx(1 / 2)
    kinds = ("", "plus/", "minus/")
    assert [found[f"{kind}queries"] for kind in kinds] == [2, 1, 1]
    only_plus = metrics_of(queries[:1])
    assert not [name for name in only_plus if name.startswith("minus")]


@pytest.mark.parametrize("weights", [(1.0, 2.0), (1.0, 0.0), (0.3, 1.7)])
def test_agrees_with_plain_retrieval_of_composed_vectors(weights):
    """One query at a time, on a gallery without its picture."""
    random = np.random.default_rng(0)
    pictures = random.normal(size=(40, 3))
    pictures[20:30] = pictures[:10]  # Ties.
    queries = []
    for _ in range(30):
        image, *targets = random.permutation(40)[:3]
        words = random.choice(list(WORDS))
        queries.append(Query(image, words, random.choice([1, -1]), tuple(targets)))
    found = rank_composed_queries(encode_texts, pictures, queries, *weights)[""]
    rows = pictures / np.linalg.norm(pictures, axis=1, keepdims=True)
    for query, rank in zip(queries, found, strict=True):
        words = encode_texts([query.words])[0]
        vector = weights[0] * rows[query.image] + weights[1] * query.sign * (
            words / np.linalg.norm(words)
        )
        kept = np.delete(np.arange(40), query.image)
        targets = np.flatnonzero(np.isin(kept, query.targets))
        expected = rank_of_best_positive(vector[None], rows[kept], [targets])
        assert rank == expected[0]


def test_a_large_gallery_is_scored_in_blocks():
    pictures = np.random.default_rng(0).normal(size=(50_000, 64)).astype("float32")
    queries = [Query(row, "plus", 1, (row + 1,)) for row in range(256)]
    tracemalloc.start()
    try:
        rank_composed_queries(lambda texts: np.eye(1, 64), pictures, queries)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # The gallery in float64 is 26 MB, all its scores are 100 MB.
    assert peak < 20e6


def test_a_collapsed_model_scores_nothing():
    queries = [Query(0, "plus", 1, (1,)), Query(1, "plus", -1, (0,))]
    ranks = rank_composed_queries(
        lambda texts: np.ones((len(texts), 3)), np.ones((5, 3)), queries
    )
    assert all((of_kind == 3).all() for of_kind in ranks.values())


def test_errors_name_the_argument():
    with pytest.raises(InputError, match="`queries` must hold at least one"):
        rank_composed_queries(encode_texts, PICTURES, [])
    for query in (Query(4, "plus", 1, (0,)), Query(0, "plus", 1, (4,))):
        with pytest.raises(InputError, match=r"must lie in \[0, 4\)"):
            rank_composed_queries(encode_texts, PICTURES, [query])
    with pytest.raises(
        InputError, match="`queries` must have targets each, received 1"
    ):
        rank_composed_queries(encode_texts, PICTURES, [Query(0, "plus", 1, ())])
    with pytest.raises(InputError, match="must not name row 0, which `leave_out`"):
        rank_composed_queries(encode_texts, PICTURES, [Query(0, "plus", 1, (0,))])
    broken = PICTURES.copy()
    broken[2, 0] = np.nan
    with pytest.raises(InputError, match="`image_embeddings` must be finite.* 2;"):
        rank_composed_queries(encode_texts, broken, [Query(0, "plus", 1, (1,))])
