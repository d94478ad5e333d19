import types

import numpy as np
import pytest

from align_keras.evaluation import metrics_of_retrieval_ranks, retrieval_ranks
from align_keras.protocols.paper_results import paper_results
from tests.helpers.oracle_process import call_oracle, needs


def unit_rows(rng, rows, dimension=8):
    values = rng.normal(size=(rows, dimension)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def papers_names(protocol):
    return {r.metric for r in paper_results() if r.protocol == protocol}


def random_positives(rng, images, texts):
    def lists(queries, gallery, own):
        return [
            [r for r in rng.integers(0, gallery, rng.integers(0, 4)) if own or r != q]
            for q in range(queries)
        ]

    return types.SimpleNamespace(
        image_to_text=lists(images, texts, True),
        text_to_image=lists(texts, images, True),
        text_to_text=lists(texts, texts, False),
        image_to_image=lists(images, images, False),
    )


@pytest.mark.parametrize("block_size", [3, 4096])
def test_retrieval_equals_a_sorted_list_without_the_query(block_size):
    rng = np.random.default_rng(0)
    images, texts = unit_rows(rng, 20), unit_rows(rng, 50)
    right = random_positives(rng, 20, 50)
    found = dict(
        metrics_of_retrieval_ranks(
            retrieval_ranks(images, texts, right, block_size), right
        )
    )
    for name, queries, gallery, positives in (
        ("i2t", images, texts, right.image_to_text),
        ("t2i", texts, images, right.text_to_image),
        ("t2t", texts, texts, right.text_to_text),
        ("i2i", images, images, right.image_to_image),
    ):
        hits = {1: [], 5: [], 10: []}
        for query, own in enumerate(positives):
            if not own:
                continue
            order = np.argsort(-(gallery @ queries[query]))
            order = [r for r in order if name in ("i2t", "t2i") or r != query]
            for k, of_k in hits.items():
                of_k.append(bool(set(order[:k]) & set(own)))
        for k, of_k in hits.items():
            assert found[f"{name}/recall_at_{k}"] == pytest.approx(np.mean(of_k))
        assert found[f"{name}/queries"] == len(hits[1])
        assert found[f"{name}/queries_without_positives"] == sum(
            not own for own in positives
        )
    assert 0 < found["t2t/recall_at_5"] < 1


@pytest.mark.ci
@needs("torch", "clip_benchmark")
def test_against_clip_benchmark():
    rng = np.random.default_rng(1)
    images, texts = unit_rows(rng, 20), unit_rows(rng, 50)
    right = random_positives(rng, 20, 50)
    found = dict(
        metrics_of_retrieval_ranks(retrieval_ranks(images, texts, right), right)
    )
    for name, queries, gallery, positives in (
        ("i2t", images, texts, right.image_to_text),
        ("t2t", texts, texts, right.text_to_text),
        ("i2i", images, images, right.image_to_image),
    ):
        scores = queries @ gallery.T
        if name != "i2t":
            np.fill_diagonal(scores, -np.inf)
        pairs = np.zeros(scores.shape, bool)
        for query, own in enumerate(positives):
            pairs[query, np.array(own, int)] = True
        recalls = call_oracle("clip_benchmark_metrics", "recall_at_k", scores, pairs)
        for k, recall in zip((1, 5, 10), recalls, strict=True):
            assert found[f"{name}/recall_at_{k}"] == pytest.approx(recall)


def test_a_query_would_always_find_itself():
    # Two captions a point: with itself in the gallery every query would miss at 1.
    texts = np.repeat(np.eye(4), 2, axis=0)
    partner = np.arange(8) ^ 1
    right = types.SimpleNamespace(
        image_to_text=[[0, 1], [2, 3], [4, 5], [6, 7]],
        text_to_image=np.arange(8) // 2,
        text_to_text=partner,
        image_to_image=[[1], [0], [], []],
    )
    ranks = retrieval_ranks(np.eye(4), texts, right)
    found = dict(metrics_of_retrieval_ranks(ranks, right, ks=(1,)))
    assert found["t2t/recall_at_1"] == 1.0
    assert found["t2t/chance_recall_at_1"] == pytest.approx(1 / 7)
    assert found["i2i/recall_at_1"] == 0.0  # A tie with the wrong ones.


def test_metrics_have_the_papers_names():
    rng = np.random.default_rng(2)
    images, texts = unit_rows(rng, 20), unit_rows(rng, 50)
    right = random_positives(rng, 20, 50)
    found = dict(
        metrics_of_retrieval_ranks(retrieval_ranks(images, texts, right), right)
    )
    papers = [own for own in paper_results() if own.protocol == "cxc_retrieval"]
    assert {own.metric for own in papers} <= set(found)
