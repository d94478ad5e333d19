"""Linear probe with a search over penalties."""

import tracemalloc

import numpy as np
import pytest

from align_keras.evaluation import linear_probe
from align_keras.evaluation.linear_probe import PENALTIES, probe
from align_keras.utils.errors import InputError
from tests.helpers.oracle_process import needs


def make_blobs(items):
    """Returns unit features in four overlapping clusters, and their labels."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, items)
    features = random.normal(size=(4, 6))[labels] + random.normal(0, 0.8, (items, 6))
    return features / np.linalg.norm(features, axis=1, keepdims=True), labels


def two_splits():
    features, labels = make_blobs(500)
    return (features[:300], labels[:300]), (features[300:], labels[300:])


@pytest.mark.ci
@needs("sklearn")
def test_the_probe_agrees_with_the_same_sweep_in_scikit_learn():
    from sklearn.linear_model import LogisticRegression

    (train, labels), (test, test_labels) = two_splits()
    penalties = PENALTIES[1:4]  # scikit-learn takes seconds for weaker penalties.
    classification, metrics = probe(train, labels, test, test_labels, 4, penalties)
    metrics = dict(metrics)

    held_out = np.zeros(len(labels), bool)
    for label in range(4):
        held_out[np.flatnonzero(labels == label)[4::5]] = True

    def fit(features, labels, penalty):
        return LogisticRegression(
            C=1 / (penalty * len(labels)), tol=1e-7, max_iter=10_000
        ).fit(features, labels)

    scores = [
        fit(train[~held_out], labels[~held_out], penalty).score(
            train[held_out], labels[held_out]
        )
        for penalty in penalties
    ]
    best = int(np.argmax(scores))  # The first, strongest penalty wins a tie.
    assert len(set(scores)) > 1
    assert metrics["linear_probe/penalty"] == penalties[best]
    assert metrics["linear_probe/held_out_top_1"] == pytest.approx(scores[best])
    sklearn = fit(train, labels, penalties[best])
    np.testing.assert_array_equal(classification.predictions, sklearn.predict(test))
    assert np.mean(classification.ranks == 0) == sklearn.score(test, test_labels)


def test_the_strongest_penalty_wins_a_tie():
    labels = np.arange(60) % 3  # The classes are separable with each penalty.
    _, metrics = probe(np.eye(3)[labels], labels, np.eye(3), [0, 1, 2], 3)
    assert dict(metrics)["linear_probe/penalty"] == PENALTIES[0]


def test_ranks_do_not_depend_on_the_block_size(monkeypatch):
    (train, labels), (test, test_labels) = two_splits()
    one_block, _ = probe(train, labels, test, test_labels, 4, penalties=(1e-3,))
    monkeypatch.setattr(linear_probe, "PROBE_ITEMS_PER_BLOCK", 7)
    small_blocks, _ = probe(train, labels, test, test_labels, 4, penalties=(1e-3,))
    np.testing.assert_array_equal(small_blocks.ranks, one_block.ranks)


def test_the_training_features_are_not_copied(monkeypatch):
    monkeypatch.setattr(linear_probe, "PROBE_ITEMS_PER_BLOCK", 256)
    labels = np.arange(8_000) % 4
    features = np.random.default_rng(0).normal(np.eye(4, 64)[labels]).astype("float32")
    tracemalloc.start()
    try:
        probe(features, labels, features[:9], labels[:9], 4, penalties=(1e-2,))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < features.nbytes / 2


def test_a_class_without_training_items_is_never_predicted():
    (train, labels), (test, test_labels) = two_splits()
    classification, _ = probe(train, labels, test, test_labels, classes=6)
    assert classification.predictions.max() == 3


def test_invalid_arguments_are_refused():
    features, labels = make_blobs(30)
    with pytest.raises(InputError, match="labels"):
        probe(features, labels, features, labels, classes=3)
    with pytest.raises(InputError, match="five"):
        probe(features[:4], [0, 1, 2, 3], features, labels, classes=4)
