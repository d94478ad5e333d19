import numpy as np
import pytest

from align_keras.evaluation import (
    fine_tuned_metrics,
    fine_tuned_statistics,
    sliced_metrics,
    whole_metrics,
)
from align_keras.reports.result_tables import paper_results
from align_keras.utils.errors import InputError
from tests.helpers.oracle_process import needs


def scored(classes, seed=0, pictures=200):
    """Labels, and the scores of two runs' classifiers, better than chance."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, pictures)
    scores = random.normal(size=(2, pictures, classes))
    return labels, scores + np.eye(classes)[labels]


def ranks_of(scores, labels):
    own = scores[np.arange(len(labels)), labels][:, None]
    return np.sum(scores >= own, axis=1) - 1


@pytest.mark.ci
@needs("sklearn")
@pytest.mark.parametrize("classes", [3, 12])
def test_agrees_with_scikit_learn(classes):
    from sklearn import metrics

    labels, scores = scored(classes)
    ranks = [ranks_of(of_run, labels) for of_run in scores]
    found = dict(fine_tuned_metrics(ranks, labels, classes))
    for k in (1, 5):
        if classes <= k:
            assert f"top_{k}" not in found
            continue
        theirs = [
            metrics.top_k_accuracy_score(labels, own, k=k, labels=range(classes))
            for own in scores
        ]
        assert found[f"top_{k}"] == pytest.approx(np.mean(theirs))
        assert found[f"top_{k}_std"] == pytest.approx(np.std(theirs, ddof=1))
    balanced = [
        metrics.balanced_accuracy_score(labels, own.argmax(axis=1)) for own in scores
    ]
    assert found["mean_per_class"] == pytest.approx(np.mean(balanced))


def test_one_run_has_no_spread_and_the_papers_names():
    labels, scores = scored(12)
    found = dict(fine_tuned_metrics([ranks_of(scores[0], labels)], labels, 12))
    assert set(found) == {"top_1", "top_5", "mean_per_class"}
    trained = ("imagenet_frozen", "imagenet_full", "fine_grained")
    papers = [own.metric for own in paper_results() if own.protocol in trained]
    assert papers and set(papers) <= set(found)


def test_slices_are_the_groups_accuracies():
    labels, scores = scored(12)
    ranks = np.array([ranks_of(own, labels) for own in scores])
    groups = np.where(labels < 4, "few", "many")
    statistics = fine_tuned_statistics(ranks, labels, 12)
    whole = dict(fine_tuned_metrics(ranks, labels, 12))
    assert list(statistics) == [name for name in whole if not name.endswith("_std")]
    for name, value in whole_metrics(statistics):
        assert value == pytest.approx(whole[name])
    found = dict(sliced_metrics(statistics, groups, samples=9))
    for group in ("few", "many"):
        for k in (1, 5):
            expected = np.mean(ranks[:, groups == group] < k)
            assert found[f"top_{k}[{group}]"] == pytest.approx(expected)
        of_classes = [
            np.mean(ranks[:, (groups == group) & (labels == own)] < 1)
            for own in np.unique(labels[groups == group])
        ]
        assert found[f"mean_per_class[{group}]"] == pytest.approx(np.mean(of_classes))


def test_ranks_must_fit_the_labels():
    with pytest.raises(
        InputError, match=r"`labels` must .* received \(2,\) .* \(1, 3\)"
    ):
        list(fine_tuned_metrics([[0, 1, 2]], [0, 1], 3))
