"""Accuracies of a classification."""

import numpy as np
import pytest

from align_keras.evaluation.class_metrics import (
    Classification,
    classification_metrics,
    mean_per_class,
)
from tests.helpers.oracle_process import needs


def test_metrics_of_a_small_example_match_a_calculation():
    # The first two images are of class 0. One is classified correctly. The third is of
    # class 2, which has rank 5 and is thus a miss at 5.
    classification = Classification(np.array([0, 4, 5]), np.array([0, 1, 1]))
    assert dict(classification_metrics("x", classification, [0, 0, 2], 6)) == {
        "x/top_1": 1 / 3,
        "x/top_5": 2 / 3,
        "x/mean_per_class": 0.25,
    }


def test_top_5_is_omitted_for_five_classes():
    classification = Classification(np.array([0, 4]), np.array([0, 1]))
    metrics = dict(classification_metrics("x", classification, [0, 0], 5))
    assert metrics == {"x/top_1": 0.5, "x/mean_per_class": 0.5}


@pytest.mark.ci
@needs("sklearn")
def test_mean_per_class_equals_the_balanced_accuracy_of_scikit_learn():
    from sklearn.metrics import balanced_accuracy_score

    random = np.random.default_rng(0)
    labels = random.choice([0, 1, 1, 1, 4, 7], 300)  # Four classes have no items.
    predictions = np.where(random.random(300) < 0.6, labels, 1)
    assert mean_per_class(predictions == labels, labels) == pytest.approx(
        balanced_accuracy_score(labels, predictions), abs=1e-12
    )


def test_mean_per_class_of_a_matrix_is_computed_per_row():
    random = np.random.default_rng(1)
    labels, is_correct = random.integers(0, 5, (7, 40)), random.random((7, 40)) < 0.5
    means = mean_per_class(is_correct, labels)
    assert means.shape == (7,)
    for row in range(7):
        expected = mean_per_class(is_correct[row], labels[row])
        assert means[row] == pytest.approx(expected)
