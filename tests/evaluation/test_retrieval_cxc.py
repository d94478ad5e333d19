"""Retrieval of Crisscrossed Captions (CxC) within and between images and texts."""

import types

import numpy as np
import pytest

from align_keras.evaluation import metrics_of_retrieval_ranks, retrieval_ranks
from align_keras.protocols.paper_results import paper_results
from tests.helpers.oracle_process import call_oracle, needs


def unit_rows(rng, rows, dimension=8):
    values = rng.normal(size=(rows, dimension)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def random_positives(rng, images, texts):
    def lists(queries, gallery, allow_query):
        return [
            [
                row
                for row in rng.integers(0, gallery, rng.integers(0, 4))
                if allow_query or row != query
            ]
            for query in range(queries)
        ]

    return types.SimpleNamespace(
        image_to_text=lists(images, texts, True),
        text_to_image=lists(texts, images, True),
        text_to_text=lists(texts, texts, False),
        image_to_image=lists(images, images, False),
    )


@pytest.mark.parametrize("block_size", [3, 4096])
def test_recall_equals_that_of_a_sorted_gallery_without_the_query(block_size):
    rng = np.random.default_rng(0)
    images, texts = unit_rows(rng, 20), unit_rows(rng, 50)
    positives = random_positives(rng, 20, 50)
    metrics = dict(
        metrics_of_retrieval_ranks(
            retrieval_ranks(images, texts, positives, block_size), positives
        )
    )
    for name, queries, gallery, positive_lists in (
        ("i2t", images, texts, positives.image_to_text),
        ("t2i", texts, images, positives.text_to_image),
        ("t2t", texts, texts, positives.text_to_text),
        ("i2i", images, images, positives.image_to_image),
    ):
        hits = {1: [], 5: [], 10: []}
        for query, query_positives in enumerate(positive_lists):
            if not query_positives:
                continue
            order = np.argsort(-(gallery @ queries[query]))
            order = [row for row in order if name in ("i2t", "t2i") or row != query]
            for k, hits_at_k in hits.items():
                hits_at_k.append(bool(set(order[:k]) & set(query_positives)))
        for k, hits_at_k in hits.items():
            recall = metrics[f"{name}/recall_at_{k}"]
            assert recall == pytest.approx(np.mean(hits_at_k))
        assert metrics[f"{name}/queries"] == len(hits[1])
        assert metrics[f"{name}/queries_without_positives"] == sum(
            not query_positives for query_positives in positive_lists
        )
    assert 0 < metrics["t2t/recall_at_5"] < 1


@pytest.mark.ci
@needs("torch", "clip_benchmark")
def test_recall_agrees_with_clip_benchmark():
    rng = np.random.default_rng(1)
    images, texts = unit_rows(rng, 20), unit_rows(rng, 50)
    positives = random_positives(rng, 20, 50)
    metrics = dict(
        metrics_of_retrieval_ranks(retrieval_ranks(images, texts, positives), positives)
    )
    for name, queries, gallery, positive_lists in (
        ("i2t", images, texts, positives.image_to_text),
        ("t2t", texts, texts, positives.text_to_text),
        ("i2i", images, images, positives.image_to_image),
    ):
        scores = queries @ gallery.T
        if name != "i2t":
            np.fill_diagonal(scores, -np.inf)
        pairs = np.zeros(scores.shape, bool)
        for query, query_positives in enumerate(positive_lists):
            pairs[query, np.array(query_positives, int)] = True
        recalls = call_oracle("clip_benchmark_metrics", "recall_at_k", scores, pairs)
        for k, recall in zip((1, 5, 10), recalls, strict=True):
            assert metrics[f"{name}/recall_at_{k}"] == pytest.approx(recall)


def test_the_gallery_excludes_the_query():
    # Two captions have equal embeddings. If the gallery contained the query, it would
    # tie with the positive, and the recall at 1 would be 0.
    texts = np.repeat(np.eye(4), 2, axis=0)
    partner = np.arange(8) ^ 1
    positives = types.SimpleNamespace(
        image_to_text=[[0, 1], [2, 3], [4, 5], [6, 7]],
        text_to_image=np.arange(8) // 2,
        text_to_text=partner,
        image_to_image=[[1], [0], [], []],
    )
    ranks = retrieval_ranks(np.eye(4), texts, positives)
    metrics = dict(metrics_of_retrieval_ranks(ranks, positives, ks=(1,)))
    assert metrics["t2t/recall_at_1"] == 1.0
    assert metrics["t2t/chance_recall_at_1"] == pytest.approx(1 / 7)
    assert metrics["i2i/recall_at_1"] == 0.0  # The positives tie with wrong images.


def test_metric_names_are_those_of_the_paper_results():
    rng = np.random.default_rng(2)
    images, texts = unit_rows(rng, 20), unit_rows(rng, 50)
    positives = random_positives(rng, 20, 50)
    metrics = dict(
        metrics_of_retrieval_ranks(retrieval_ranks(images, texts, positives), positives)
    )
    names = {
        result.metric
        for result in paper_results()
        if result.protocol == "cxc_retrieval"
    }
    assert names <= set(metrics)
