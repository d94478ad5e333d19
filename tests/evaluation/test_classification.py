import numpy as np
import pytest

from align_keras.evaluation.class_metrics import (
    Classification,
    as_labels,
    classification_metrics,
    mean_per_class,
)
from align_keras.utils.errors import InputError
from tests.helpers.oracle_process import needs


def test_metrics_by_hand():
    # Two of class 0, right and wrong; one of class 2, wrong beyond the fifth.
    found = Classification(np.array([0, 4, 5]), np.array([0, 1, 1]))
    assert dict(classification_metrics("x", found, [0, 0, 2], 6)) == {
        "x/top_1": 1 / 3,
        "x/top_5": 2 / 3,
        "x/mean_per_class": 0.25,
    }


def test_five_of_five_classes_tell_nothing():
    found = Classification(np.array([0, 4]), np.array([0, 1]))
    metrics = dict(classification_metrics("x", found, [0, 0], 5))
    assert metrics == {"x/top_1": 0.5, "x/mean_per_class": 0.5}


@pytest.mark.ci
@needs("sklearn")
def test_mean_per_class_is_scikit_learns_balanced_accuracy():
    from sklearn.metrics import balanced_accuracy_score

    random = np.random.default_rng(0)
    labels = random.choice([0, 1, 1, 1, 4, 7], 300)  # Classes 2, 3, 5, 6 are absent.
    predictions = np.where(random.random(300) < 0.6, labels, 1)
    assert mean_per_class(predictions == labels, labels) == pytest.approx(
        balanced_accuracy_score(labels, predictions), abs=1e-12
    )


def test_mean_per_class_of_many_draws_is_that_of_each():
    random = np.random.default_rng(1)
    labels, right = random.integers(0, 5, (7, 40)), random.random((7, 40)) < 0.5
    found = mean_per_class(right, labels)
    assert found.shape == (7,)
    for row in range(7):
        assert found[row] == pytest.approx(mean_per_class(right[row], labels[row]))


def test_labels_are_checked():
    assert as_labels("labels", [1, 0], 2, 2).dtype == np.int64
    with pytest.raises(InputError, match=r"`labels` must lie in \[0, 2\).*received 2"):
        as_labels("labels", [1, 2], 2, 2)
    with pytest.raises(
        InputError, match="one integer for each of 2 images, received shape"
    ):
        as_labels("labels", [1, 0, 1], 2, 2)
