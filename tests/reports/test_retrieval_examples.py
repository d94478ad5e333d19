"""Which queries are shown, and what is shown of them."""

import numpy as np
import pytest

from align_keras.evaluation import rank_of_best_positive
from align_keras.evaluation.retrieval import RetrievalPositives
from align_keras.reports.examples import choose_queries, retrieval_examples


def unit(values):
    values = np.asarray(values, np.float32)
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def test_choice_of_queries():
    ranks = np.array([0, 4, 5, 9, -1, 100, 3, 70, 8])
    chosen = choose_queries(ranks, k=5, count=2, worst=2)
    assert chosen.worst.tolist() == [5, 7]
    assert len(chosen.found) == 2 and set(chosen.found) <= {0, 1, 6}
    assert len(chosen.missed) == 2 and set(chosen.missed) <= {2, 3, 8}
    again = choose_queries(ranks, k=5, count=2, worst=2)
    assert [own.tolist() for own in again] == [own.tolist() for own in chosen]
    found = {
        tuple(choose_queries(ranks, count=1, seed=seed).found) for seed in range(20)
    }
    assert len(found) > 1  # Drawn, not the first.
    nothing = choose_queries(np.array([-1, -1]))
    assert [own.tolist() for own in nothing] == [[], [], []]


# Two captions of picture 0, one of each other.
IMAGES = ["p0", "p1", "p2", "p3"]
CAPTIONS = ["sun", "day", "moon", "tree", "leaf"]
OWNERS = np.array([0, 0, 1, 2, 3])
IMAGE_EMBEDDINGS = unit([[1, 0.1, 0], [0, 1, 0], [0.9, 0.3, 0], [0, 0.2, 1]])
TEXT_EMBEDDINGS = unit([[1, 0, 0], [0, 0, 1], [0, 1, 0], [0, 0.1, 1], [0, 0.3, 1]])
POSITIVES = RetrievalPositives([[0, 1], [2], [3], [4]], [[0], [0], [1], [2], [3]])


def examples(images=IMAGE_EMBEDDINGS, texts=TEXT_EMBEDDINGS, **options):
    ranks = {
        "t2i": rank_of_best_positive(texts, images, POSITIVES.text_to_image),
        "i2t": rank_of_best_positive(images, texts, POSITIVES.image_to_text),
    }
    return retrieval_examples(
        images, texts, IMAGES, CAPTIONS, OWNERS, POSITIVES, ranks, **options
    )


def test_texts_by_hand():
    found, missed, worst = examples(k=2, worst=1)["t2i"]
    assert [query.caption for query in found] == ["sun", "moon", "leaf"]
    sun = found[0]
    assert [(hit.image, hit.caption, hit.correct) for hit in sun.hits] == [
        ("p0", "sun", True),
        ("p2", "tree", False),
    ]
    assert (sun.rank, sun.total, sun.answer) == (1, 4, None)
    assert sun.hits[0].score == pytest.approx(1 / np.sqrt(1.01), abs=1e-6)
    (tree,) = missed
    (day,) = worst
    # Pictures by cosine with "tree": p3, p1, p0, p2, which is its own.
    assert [hit.image for hit in tree.hits] == ["p3", "p1"]
    assert (tree.rank, tree.answer.image, tree.answer.correct) == (3, "p2", True)
    assert day.rank == 4 and day.answer.image == "p0"


def test_pictures_by_hand():
    found, missed, worst = examples(k=1, worst=1)["i2t"]
    assert [query.image for query in found] == ["p0", "p1", "p3"]
    first = found[0]
    assert [(hit.caption, hit.correct, hit.image) for hit in first.hits] == [
        ("sun", True, None)
    ]
    assert (first.caption, first.rank, first.total) == ("sun", 1, 5)
    assert missed == []
    (last,) = worst
    assert (last.image, last.answer.caption, last.rank) == ("p2", "tree", 4)


def test_ties_are_shown_as_they_are_ranked():
    """A collapsed model: every wrong answer comes before the right one."""
    same = np.ones((4, 3), np.float32), np.ones((5, 3), np.float32)
    _, missed, worst = examples(*map(unit, same), k=2, worst=0)["t2i"]
    assert len(missed) == 5 and worst == []
    for query in missed:
        assert not any(hit.correct for hit in query.hits)
        assert query.rank == 4


def test_places_agree_with_the_ranks_and_maps_are_read_in_blocks(tmp_path):
    draw = np.random.default_rng(0)
    images = unit(draw.normal(size=(300, 8)))
    np.save(tmp_path / "texts.npy", unit(images + draw.normal(size=images.shape)))
    texts = np.load(tmp_path / "texts.npy", mmap_mode="r")
    positives = RetrievalPositives([[row] for row in range(300)], np.arange(300))
    ranks = {
        "t2i": rank_of_best_positive(texts, images, positives.text_to_image),
        "i2t": rank_of_best_positive(images, texts, positives.image_to_text),
    }
    made = retrieval_examples(
        images,
        texts,
        list(range(300)),
        [f"caption {row}" for row in range(300)],
        np.arange(300),
        positives,
        ranks,
        count=50,
    )
    for direction in made.values():
        for query in [*direction.found, *direction.missed, *direction.worst]:
            right = [hit.correct for hit in query.hits]
            assert len(right) == 5
            if query.answer is None:
                assert right.index(True) + 1 == query.rank
            else:
                assert not any(right) and query.rank > 5
        assert all(query.answer is None for query in direction.found)
        lows = [query.rank for query in direction.worst]
        assert lows == sorted(lows)[::-1] and len(lows) == 4


def test_equal_captions_are_asked_once():
    same = np.eye(4, dtype=np.float32)
    captions = ["A frog", " a  frog", "a bat", "A FROG"]
    positives = RetrievalPositives([[0, 1, 3]] * 4, [[0, 1, 3]] * 4)
    ranks = {"t2i": np.zeros(4, int), "i2t": np.zeros(4, int)}
    made = retrieval_examples(
        same, same, IMAGES, captions, np.arange(4), positives, ranks
    )
    assert [query.caption for query in made["t2i"].found] == ["A frog", "a bat"]
    assert len(made["i2t"].found) == 4
