"""Multinomial logistic regression by L-BFGS."""

import warnings

import numpy as np
import pytest

from align_keras.evaluation import linear_probe
from align_keras.evaluation.linear_probe import fit_logistic_regression
from tests.helpers.oracle_process import needs


def make_blobs(items=300, dimension=6, classes=4, spread=0.8, seed=0):
    """Returns features of unit length in overlapping clusters, and their labels."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, items)
    features = random.normal(0, 1, (classes, dimension))[labels]
    features = features + random.normal(0, spread, features.shape)
    return features / np.linalg.norm(features, axis=1, keepdims=True), labels


@pytest.mark.ci
@needs("sklearn")
@pytest.mark.parametrize("penalty", [1e-1, 1e-2, 1e-4])
def test_the_fit_agrees_with_scikit_learn(penalty):
    from sklearn.linear_model import LogisticRegression

    features, labels = make_blobs()
    fit = fit_logistic_regression(features, labels, 4, penalty, tolerance=1e-9)
    sklearn = LogisticRegression(
        C=1 / (penalty * len(labels)), tol=1e-10, max_iter=5000
    ).fit(features, labels)
    # Both fits are at the unique optimum, to about slope / penalty.
    np.testing.assert_allclose(fit.weights[:-1].T, sklearn.coef_, atol=2e-4)
    intercepts = sklearn.intercept_ - sklearn.intercept_.mean()
    np.testing.assert_allclose(
        fit.weights[-1] - fit.weights[-1].mean(), intercepts, atol=2e-4
    )
    logits = features @ fit.weights[:-1] + fit.weights[-1]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(
        probabilities, sklearn.predict_proba(features), atol=2e-5
    )
    assert fit.slope <= 1e-9 and fit.iterations < 1000


def objective(point, features, labels, penalty):
    """Computes the cross-entropy with a penalty on the weights without intercepts."""
    logits = features @ point[:-1] + point[-1]
    losses = np.logaddexp.reduce(logits, axis=1) - logits[range(len(labels)), labels]
    return losses.mean() + penalty / 2 * np.square(point[:-1]).sum()


def finite_differences(point, *arguments):
    gradient = np.zeros_like(point)
    for index in np.ndindex(point.shape):
        values = []
        for step in (1e-6, -1e-6):
            shifted_point = point.copy()
            shifted_point[index] += step
            values.append(objective(shifted_point, *arguments))
        gradient[index] = (values[0] - values[1]) / 2e-6
    return gradient


def test_the_gradient_equals_finite_differences():
    features, labels = make_blobs(20, 3, 3)
    start = np.random.default_rng(1).normal(size=(4, 3))
    for iterations in (1, 3, 1000):
        fit = fit_logistic_regression(
            features,
            labels,
            3,
            0.3,
            start=start,
            tolerance=1e-9,
            max_iterations=iterations,
        )
        gradient = finite_differences(fit.weights, features, labels, 0.3)
        assert np.abs(gradient).max() == pytest.approx(fit.slope, abs=1e-8)
    assert fit.slope <= 1e-9


def test_the_fit_does_not_depend_on_the_block_size(monkeypatch):
    features, labels = make_blobs()
    one_block = fit_logistic_regression(features, labels, 4, 1e-2, tolerance=1e-10)
    monkeypatch.setattr(linear_probe, "PROBE_ITEMS_PER_BLOCK", 17)
    small_blocks = fit_logistic_regression(features, labels, 4, 1e-2, tolerance=1e-10)
    # The order of summation changes the steps but not the optimum.
    np.testing.assert_allclose(small_blocks.weights, one_block.weights, atol=1e-7)


def test_the_fit_does_not_depend_on_its_start():
    features, labels = make_blobs()
    start = np.random.default_rng(2).normal(0, 3, (7, 4))
    first = fit_logistic_regression(features, labels, 4, 1e-2, tolerance=1e-9)
    second = fit_logistic_regression(features, labels, 4, 1e-2, start, tolerance=1e-9)
    np.testing.assert_allclose(second.weights[:-1], first.weights[:-1], atol=1e-6)
    at_optimum = fit_logistic_regression(features, labels, 4, 1e-2, first.weights)
    assert at_optimum.iterations == 0


def test_extreme_features_raise_no_warnings():
    """The features are separable and huge, or constant, and a class has no items."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for features in (np.eye(3) * 1e4, np.zeros((3, 3)), np.ones((3, 3))):
            fit = fit_logistic_regression(features, np.arange(3), 4, 1e-8)
            assert np.isfinite(fit.weights).all()
    fit = fit_logistic_regression(np.eye(3), np.arange(3), 4, 1e-3, max_iterations=2)
    # The result shows that the fit didn't converge.
    assert fit.iterations == 2 and fit.slope > 1e-6
