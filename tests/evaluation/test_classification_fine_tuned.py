"""Accuracies of fine-tuned classifiers over several runs."""

import numpy as np
import pytest

from align_keras.evaluation import (
    fine_tuned_metrics,
    fine_tuned_statistics,
    sliced_metrics,
    whole_metrics,
)
from align_keras.protocols.paper_results import paper_results
from tests.helpers.oracle_process import needs


def labels_and_scores(classes, seed=0, images=200):
    """Returns labels and the scores of two runs, which are better than chance."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, images)
    scores = random.normal(size=(2, images, classes))
    return labels, scores + np.eye(classes)[labels]


def ranks_of(scores, labels):
    label_scores = scores[np.arange(len(labels)), labels][:, None]
    return np.sum(scores >= label_scores, axis=1) - 1


@pytest.mark.ci
@needs("sklearn")
@pytest.mark.parametrize("classes", [3, 12])
def test_accuracies_agree_with_scikit_learn(classes):
    from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score

    labels, scores = labels_and_scores(classes)
    ranks = [ranks_of(run_scores, labels) for run_scores in scores]
    metrics = dict(fine_tuned_metrics(ranks, labels, classes))
    for k in (1, 5):
        if classes <= k:
            assert f"top_{k}" not in metrics
            continue
        accuracies = [
            top_k_accuracy_score(labels, run_scores, k=k, labels=range(classes))
            for run_scores in scores
        ]
        assert metrics[f"top_{k}"] == pytest.approx(np.mean(accuracies))
        assert metrics[f"top_{k}_std"] == pytest.approx(np.std(accuracies, ddof=1))
    balanced_accuracies = [
        balanced_accuracy_score(labels, run_scores.argmax(axis=1))
        for run_scores in scores
    ]
    assert metrics["mean_per_class"] == pytest.approx(np.mean(balanced_accuracies))


def test_a_single_run_has_the_metrics_of_the_paper_and_no_standard_deviation():
    labels, scores = labels_and_scores(12)
    metrics = dict(fine_tuned_metrics([ranks_of(scores[0], labels)], labels, 12))
    assert set(metrics) == {"top_1", "top_5", "mean_per_class"}
    protocols = ("imagenet_frozen", "imagenet_full", "fine_grained")
    names = {
        result.metric for result in paper_results() if result.protocol in protocols
    }
    assert names and names <= set(metrics)


def test_slices_equal_the_accuracies_of_the_groups():
    labels, scores = labels_and_scores(12)
    ranks = np.array([ranks_of(run_scores, labels) for run_scores in scores])
    groups = np.where(labels < 4, "few", "many")
    statistics = fine_tuned_statistics(ranks, labels, 12)
    metrics = dict(fine_tuned_metrics(ranks, labels, 12))
    assert list(statistics) == [name for name in metrics if not name.endswith("_std")]
    for name, value in whole_metrics(statistics):
        assert value == pytest.approx(metrics[name])
    slices = dict(sliced_metrics(statistics, groups, samples=9))
    for group in ("few", "many"):
        for k in (1, 5):
            expected = np.mean(ranks[:, groups == group] < k)
            assert slices[f"top_{k}[{group}]"] == pytest.approx(expected)
        class_accuracies = [
            np.mean(ranks[:, (groups == group) & (labels == label)] < 1)
            for label in np.unique(labels[groups == group])
        ]
        assert slices[f"mean_per_class[{group}]"] == pytest.approx(
            np.mean(class_accuracies)
        )
