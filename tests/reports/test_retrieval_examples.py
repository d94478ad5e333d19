"""Choice of example queries and their hits."""

import numpy as np
import pytest

from align_keras.evaluation import rank_of_best_positive
from align_keras.evaluation.retrieval import RetrievalPositives
from align_keras.reports.examples import choose_queries, retrieval_examples


def unit(values):
    values = np.asarray(values, np.float32)
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def test_queries_are_chosen_by_their_ranks():
    ranks = np.array([0, 4, 5, 9, -1, 100, 3, 70, 8])
    groups = choose_queries(ranks, k=5, count=2, worst=2)
    assert groups.worst.tolist() == [5, 7]
    assert len(groups.successes) == 2 and set(groups.successes) <= {0, 1, 6}
    assert len(groups.failures) == 2 and set(groups.failures) <= {2, 3, 8}
    repeated = choose_queries(ranks, k=5, count=2, worst=2)
    for first_rows, second_rows in zip(groups, repeated, strict=True):
        assert first_rows.tolist() == second_rows.tolist()
    successes = {
        tuple(choose_queries(ranks, count=1, seed=seed).successes) for seed in range(20)
    }
    assert len(successes) > 1
    groups = choose_queries(np.array([-1, -1]))
    assert [rows.tolist() for rows in groups] == [[], [], []]


# Image 0 has two captions, and each other image has one. The functions do not read the
# images, so this test uses strings.
IMAGES = ["p0", "p1", "p2", "p3"]
CAPTIONS = ["sun", "day", "moon", "tree", "leaf"]
CAPTION_IMAGES = np.array([0, 0, 1, 2, 3])
IMAGE_EMBEDDINGS = unit([[1, 0.1, 0], [0, 1, 0], [0.9, 0.3, 0], [0, 0.2, 1]])
TEXT_EMBEDDINGS = unit([[1, 0, 0], [0, 0, 1], [0, 1, 0], [0, 0.1, 1], [0, 0.3, 1]])
POSITIVES = RetrievalPositives([[0, 1], [2], [3], [4]], [[0], [0], [1], [2], [3]])


def examples(images=IMAGE_EMBEDDINGS, texts=TEXT_EMBEDDINGS, **options):
    ranks = {
        "t2i": rank_of_best_positive(texts, images, POSITIVES.text_to_image),
        "i2t": rank_of_best_positive(images, texts, POSITIVES.image_to_text),
    }
    return retrieval_examples(
        images, texts, IMAGES, CAPTIONS, CAPTION_IMAGES, POSITIVES, ranks, **options
    )


def test_text_queries_match_a_manual_ranking():
    successes, failures, worst = examples(k=2, worst=1)["t2i"]
    assert [query.caption for query in successes] == ["sun", "moon", "leaf"]
    sun = successes[0]
    assert [(hit.image, hit.caption, hit.correct) for hit in sun.hits] == [
        ("p0", "sun", True),
        ("p2", "tree", False),
    ]
    assert (sun.rank, sun.total, sun.answer) == (1, 4, None)
    assert sun.hits[0].score == pytest.approx(1 / np.sqrt(1.01), abs=1e-6)
    (tree,) = failures
    (day,) = worst
    # The ranking for "tree" is p3, p1, p0, p2. Its correct image is p2.
    assert [hit.image for hit in tree.hits] == ["p3", "p1"]
    assert (tree.rank, tree.answer.image, tree.answer.correct) == (3, "p2", True)
    assert day.rank == 4 and day.answer.image == "p0"


def test_image_queries_match_a_manual_ranking():
    successes, failures, worst = examples(k=1, worst=1)["i2t"]
    assert [query.image for query in successes] == ["p0", "p1", "p3"]
    first = successes[0]
    assert [(hit.caption, hit.correct, hit.image) for hit in first.hits] == [
        ("sun", True, None)
    ]
    assert (first.caption, first.rank, first.total) == ("sun", 1, 5)
    assert failures == []
    (last,) = worst
    assert (last.image, last.answer.caption, last.rank) == ("p2", "tree", 4)


def test_wrong_answers_precede_correct_answers_with_equal_scores():
    # A collapsed model has equal embeddings for all inputs.
    images = unit(np.ones((4, 3), np.float32))
    texts = unit(np.ones((5, 3), np.float32))
    _, failures, worst = examples(images, texts, k=2, worst=0)["t2i"]
    assert len(failures) == 5 and worst == []
    for query in failures:
        assert not any(hit.correct for hit in query.hits)
        assert query.rank == 4


def test_hits_of_memory_mapped_embeddings_match_the_ranks(tmp_path):
    rng = np.random.default_rng(0)
    images = unit(rng.normal(size=(300, 8)))
    np.save(tmp_path / "texts.npy", unit(images + rng.normal(size=images.shape)))
    texts = np.load(tmp_path / "texts.npy", mmap_mode="r")
    positives = RetrievalPositives([[row] for row in range(300)], np.arange(300))
    ranks = {
        "t2i": rank_of_best_positive(texts, images, positives.text_to_image),
        "i2t": rank_of_best_positive(images, texts, positives.image_to_text),
    }
    examples_by_direction = retrieval_examples(
        images,
        texts,
        list(range(300)),
        [f"caption {row}" for row in range(300)],
        np.arange(300),
        positives,
        ranks,
        count=50,
    )
    for groups in examples_by_direction.values():
        for query in [*groups.successes, *groups.failures, *groups.worst]:
            is_correct = [hit.correct for hit in query.hits]
            assert len(is_correct) == 5
            if query.answer is None:
                assert is_correct.index(True) + 1 == query.rank
            else:
                assert not any(is_correct) and query.rank > 5
        assert all(query.answer is None for query in groups.successes)
        worst_ranks = [query.rank for query in groups.worst]
        assert worst_ranks == sorted(worst_ranks)[::-1] and len(worst_ranks) == 4


def test_equal_captions_are_one_query():
    embeddings = np.eye(4, dtype=np.float32)
    captions = ["A frog", " a  frog", "a bat", "A FROG"]
    positives = RetrievalPositives([[0, 1, 3]] * 4, [[0, 1, 3]] * 4)
    ranks = {"t2i": np.zeros(4, int), "i2t": np.zeros(4, int)}
    groups = retrieval_examples(
        embeddings, embeddings, IMAGES, captions, np.arange(4), positives, ranks
    )
    assert [query.caption for query in groups["t2i"].successes] == ["A frog", "a bat"]
    assert len(groups["i2t"].successes) == 4
