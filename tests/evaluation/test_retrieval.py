import numpy as np
import pytest

from align_keras.evaluation.retrieval import (
    RetrievalPositives,
    flatten_captions,
    metrics_of_retrieval_ranks,
    retrieval_metrics,
    retrieval_ranks,
    shared_positives,
)
from align_keras.utils.errors import InputError


def test_metrics_by_hand_with_several_captions_a_picture():
    images = np.eye(3)
    texts = np.array(
        [
            [1.0, 0.9, 0.0],  # of picture 0, found first
            [0.2, 0.3, 0.9],  # of picture 0, found last
            [0.6, 0.5, 0.4],  # of picture 1, found second
            [0.0, 0.1, 1.0],  # of picture 2, found first
        ]
    )
    metrics = dict(retrieval_metrics(images, texts, [0, 0, 1, 2], ks=(1, 2)))
    assert metrics == pytest.approx(
        {
            "i2t/recall_at_1": 2 / 3,  # any of its captions; picture 1 finds text 0
            "i2t/chance_recall_at_1": (2 / 4 + 1 / 4 + 1 / 4) / 3,
            "i2t/recall_at_2": 1.0,
            "i2t/chance_recall_at_2": (1 - 2 / 12 + 1 / 2 + 1 / 2) / 3,
            "i2t/queries": 3,
            "i2t/queries_without_positives": 0,
            "i2t/candidates": 4,
            "t2i/recall_at_1": 2 / 4,
            "t2i/chance_recall_at_1": 1 / 3,
            "t2i/recall_at_2": 3 / 4,
            "t2i/chance_recall_at_2": 2 / 3,
            "t2i/queries": 4,
            "t2i/queries_without_positives": 0,
            "t2i/candidates": 3,
        }
    )
    assert all(type(value) is float for value in metrics.values())


def test_metrics_leave_out_and_count_pictures_without_captions():
    metrics = dict(retrieval_metrics(np.eye(3), np.eye(3)[:2], [0, 1], ks=(1,)))
    assert metrics["i2t/recall_at_1"] == 1.0
    assert metrics["i2t/queries"] == 2.0
    assert metrics["i2t/queries_without_positives"] == 1.0
    assert metrics["t2i/chance_recall_at_1"] == pytest.approx(1 / 3)


def test_given_positives_replace_the_index():
    right = RetrievalPositives([[1], [0]], [[1], [0]])
    metrics = dict(retrieval_metrics(np.eye(2), np.eye(2), positives=right, ks=(1,)))
    assert metrics["i2t/recall_at_1"] == metrics["t2i/recall_at_1"] == 0.0


def test_metrics_do_not_depend_on_the_block_size():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(23, 9)).astype(np.float32)
    texts = np.repeat(images, 3, axis=0) + rng.normal(size=(69, 9))
    texts = texts.astype(np.float32)
    index = np.repeat(np.arange(23), 3)
    expected = list(retrieval_metrics(images, texts, index))
    for block_size in (1, 4, 23, 50):
        again = list(retrieval_metrics(images, texts, index, block_size=block_size))
        assert again == expected


def test_ranks_and_their_metrics():
    images, texts = np.eye(3), np.eye(3)[[1, 0, 2, 2]]
    right = RetrievalPositives([[0], [], [2, 3]], [[0], [0], [2], [1]])
    ranks = retrieval_ranks(images, texts, right)
    assert ranks["i2t"][[0, 2]].tolist() == [3, 0]
    assert ranks["t2i"].tolist() == [2, 0, 0, 2]
    found = dict(metrics_of_retrieval_ranks(ranks, right, ks=(1,)))
    assert found == dict(retrieval_metrics(images, texts, positives=right, ks=(1,)))
    assert found["i2t/queries"] == 2 and found["i2t/queries_without_positives"] == 1
    assert found["i2t/recall_at_1"] == found["t2i/recall_at_1"] == 0.5
    # Two of four captions, or one, at random; one of three pictures.
    assert found["i2t/chance_recall_at_1"] == pytest.approx((1 / 4 + 2 / 4) / 2)
    assert found["t2i/chance_recall_at_1"] == pytest.approx(1 / 3)


def test_targets_are_shared_where_images_have_keys():
    points = {"sun": 0, "Sun ": 0, "moon": 1, "star": 2}
    images = np.eye(3, dtype=np.float32)[[0, 0, 1]]

    def metrics_of(captions, keys=None):
        texts, image_of = flatten_captions(captions)
        embeddings = np.eye(3, dtype=np.float32)[[points[text] for text in texts]]
        positives = None if keys is None else shared_positives(keys, texts, image_of)
        options = {"positives": positives, "ks": (1,)}
        return dict(retrieval_metrics(images, embeddings, image_of, **options))

    captions = ["sun", ["Sun "], ["moon"]]
    # Images 0 and 1 tie, and so do their captions: without keys each misses.
    metrics = metrics_of(captions)
    assert metrics["i2t/recall_at_1"] == pytest.approx(1 / 3)
    assert metrics["t2i/recall_at_1"] == pytest.approx(1 / 3)
    # With keys of images that differ, the shared caption is right for both.
    metrics = metrics_of(captions, ["k", "l", "m"])
    assert metrics["i2t/recall_at_1"] == metrics["t2i/recall_at_1"] == 1.0
    captions = ["sun", ["star"], ["moon"]]
    assert metrics_of(captions)["t2i/recall_at_1"] == pytest.approx(1 / 3)
    metrics = metrics_of(captions, ["k", "k", "other"])
    assert metrics["i2t/recall_at_1"] == 1.0
    assert metrics["t2i/recall_at_1"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: list(retrieval_metrics(np.eye(2), np.eye(3))),
            "received None for 3 captions of 2",
        ),
        (
            lambda: list(retrieval_metrics(np.eye(2), np.eye(2), [0])),
            r"one integer for each of 2 captions, received shape \(1,\)",
        ),
        (
            lambda: list(retrieval_metrics(np.eye(2), np.eye(2), [0, 2])),
            r"in \[0, 2\).*received 2",
        ),
        (
            lambda: list(retrieval_metrics(np.full((2, 2), np.nan), np.eye(2))),
            "must be finite, received NaN or infinity in 2 rows: 0, 1",
        ),
    ],
)
def test_errors(call, message):
    with pytest.raises(InputError, match=message):
        call()
