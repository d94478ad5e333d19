"""Retrieval metrics of both directions."""

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


def test_metrics_with_several_captions_per_image_match_a_calculation():
    images = np.eye(3)
    texts = np.array(
        [
            [1.0, 0.9, 0.0],  # Caption of image 0, which ranks first.
            [0.2, 0.3, 0.9],  # Caption of image 0, which ranks last.
            [0.6, 0.5, 0.4],  # Caption of image 1, which ranks second.
            [0.0, 0.1, 1.0],  # Caption of image 2, which ranks first.
        ]
    )
    metrics = dict(retrieval_metrics(images, texts, [0, 0, 1, 2], ks=(1, 2)))
    assert metrics == pytest.approx(
        {
            # Caption 0 ranks first for images 0 and 1. Caption 3 ranks first for
            # image 2.
            "i2t/recall_at_1": 2 / 3,
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


def test_images_without_captions_are_counted_and_ignored():
    metrics = dict(retrieval_metrics(np.eye(3), np.eye(3)[:2], [0, 1], ks=(1,)))
    assert metrics["i2t/recall_at_1"] == 1.0
    assert metrics["i2t/queries"] == 2.0
    assert metrics["i2t/queries_without_positives"] == 1.0
    assert metrics["t2i/chance_recall_at_1"] == pytest.approx(1 / 3)


def test_positives_replace_the_caption_image_index():
    positives = RetrievalPositives([[1], [0]], [[1], [0]])
    metrics = dict(
        retrieval_metrics(np.eye(2), np.eye(2), positives=positives, ks=(1,))
    )
    assert metrics["i2t/recall_at_1"] == metrics["t2i/recall_at_1"] == 0.0


def test_metrics_do_not_depend_on_the_block_size():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(23, 9)).astype(np.float32)
    texts = np.repeat(images, 3, axis=0) + rng.normal(size=(69, 9))
    texts = texts.astype(np.float32)
    index = np.repeat(np.arange(23), 3)
    expected = list(retrieval_metrics(images, texts, index))
    for block_size in (1, 4, 23, 50):
        metrics = list(retrieval_metrics(images, texts, index, block_size=block_size))
        assert metrics == expected


def test_metrics_of_ranks_equal_the_retrieval_metrics():
    images, texts = np.eye(3), np.eye(3)[[1, 0, 2, 2]]
    positives = RetrievalPositives([[0], [], [2, 3]], [[0], [0], [2], [1]])
    ranks = retrieval_ranks(images, texts, positives)
    assert ranks["i2t"][[0, 2]].tolist() == [3, 0]
    assert ranks["t2i"].tolist() == [2, 0, 0, 2]
    metrics = dict(metrics_of_retrieval_ranks(ranks, positives, ks=(1,)))
    assert metrics == dict(
        retrieval_metrics(images, texts, positives=positives, ks=(1,))
    )
    assert metrics["i2t/queries"] == 2
    assert metrics["i2t/queries_without_positives"] == 1
    assert metrics["i2t/recall_at_1"] == metrics["t2i/recall_at_1"] == 0.5
    # One image has one of the four captions, and another has two. Each caption has one
    # of the three images.
    assert metrics["i2t/chance_recall_at_1"] == pytest.approx((1 / 4 + 2 / 4) / 2)
    assert metrics["t2i/chance_recall_at_1"] == pytest.approx(1 / 3)


def test_equal_images_and_captions_share_positives_if_image_keys_are_passed():
    points = {"sun": 0, "Sun ": 0, "moon": 1, "star": 2}
    images = np.eye(3, dtype=np.float32)[[0, 0, 1]]

    def metrics_of(captions, keys=None):
        texts, index = flatten_captions(captions)
        embeddings = np.eye(3, dtype=np.float32)[[points[text] for text in texts]]
        positives = None if keys is None else shared_positives(keys, texts, index)
        options = {"positives": positives, "ks": (1,)}
        return dict(retrieval_metrics(images, embeddings, index, **options))

    captions = ["sun", ["Sun "], ["moon"]]
    # Images 0 and 1 tie, and so do their captions. Without keys, both are misses.
    metrics = metrics_of(captions)
    assert metrics["i2t/recall_at_1"] == pytest.approx(1 / 3)
    assert metrics["t2i/recall_at_1"] == pytest.approx(1 / 3)
    # With different keys, the shared caption is correct for both images.
    metrics = metrics_of(captions, ["k", "l", "m"])
    assert metrics["i2t/recall_at_1"] == metrics["t2i/recall_at_1"] == 1.0
    captions = ["sun", ["star"], ["moon"]]
    assert metrics_of(captions)["t2i/recall_at_1"] == pytest.approx(1 / 3)
    metrics = metrics_of(captions, ["k", "k", "other"])
    assert metrics["i2t/recall_at_1"] == 1.0
    assert metrics["t2i/recall_at_1"] == pytest.approx(2 / 3)


def test_captions_without_their_images_are_refused():
    with pytest.raises(InputError, match="caption_image_index"):
        list(retrieval_metrics(np.eye(2), np.eye(3)))
