"""Tests of the bounds of losses, with scipy's minimizer as the oracle."""

import math

import numpy as np
import pytest
import scipy.optimize
import tensorflow as tf

from align_keras.losses import ContrastiveLoss, SigmoidLoss

# Groups of one, two and three equal captions.
GROUPS = np.array([0, 1, 1, 2, 2, 2])


def lowest_by_minimizing(loss, groups):
    """Returns the lowest loss over all logits with equal columns for equal captions.

    With embeddings (n, n) that are the logits and unit vectors, the cosines of the loss
    are free logits. The logits of equal captions are one variable.
    """
    count = len(groups)
    _, columns = np.unique(groups, return_inverse=True)
    texts = tf.eye(count, dtype=tf.float64)
    tokens = tf.constant(groups[:, None])

    def value(flat):
        variables = tf.constant(flat.reshape(count, columns.max() + 1))
        with tf.GradientTape() as tape:
            tape.watch(variables)
            logits = tf.gather(variables, columns, axis=1)
            total = loss(logits, texts, 1.0, tokens)
        return float(total), tape.gradient(total, variables).numpy().reshape(-1)

    start = np.random.default_rng(0).normal(size=count * (columns.max() + 1))
    result = scipy.optimize.minimize(
        value, start, jac=True, method="L-BFGS-B", options={"maxiter": 3000}
    )
    return result.fun


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_bound_of_the_contrastive_loss_equals_its_minimum(
    share, smoothing, reduction
):
    loss = ContrastiveLoss(smoothing, reduction, share_equal_captions=share)
    expected = lowest_by_minimizing(loss, GROUPS)
    # Without smoothing, the bound is at infinite logits.
    assert loss.lowest_loss(GROUPS) == pytest.approx(expected, abs=1e-3)
    assert loss.lowest_loss(GROUPS) <= expected + 1e-9


@pytest.mark.parametrize("share", [False, True])
def test_the_bound_of_the_sigmoid_loss_equals_its_minimum(share):
    loss = SigmoidLoss(bias=0.0, share_equal_captions=share)
    expected = lowest_by_minimizing(loss, GROUPS)
    assert loss.lowest_loss(GROUPS) == pytest.approx(expected, abs=1e-3)


def test_the_loss_of_a_random_guess_is_that_of_equal_embeddings():
    same = tf.ones((6, 1))
    for loss in (
        ContrastiveLoss(),
        ContrastiveLoss(0.0, "mean"),
        ContrastiveLoss(negatives_fraction=0.5),
    ):
        chance = float(loss(same, same, 0.1))
        assert loss.chance_loss(6) == pytest.approx(chance, rel=1e-6)
    # The best bias of equal logits is log(1 / (n - 1)).
    best = min(
        float(SigmoidLoss(bias)(0 * same, same, 0.1))
        for bias in [-math.log(5), *np.linspace(-4, 4, 81)]
    )
    assert SigmoidLoss().chance_loss(6) == pytest.approx(best, rel=1e-6)


def test_parts_of_a_batch_have_their_own_bound():
    loss = ContrastiveLoss(0.0, "mean", negatives_fraction=0.5)
    # Equal captions in different parts don't compete.
    assert loss.lowest_loss(np.array([0, 1, 0, 1])) == pytest.approx(0.0)
    assert loss.lowest_loss(np.array([0, 0, 1, 2])) == pytest.approx(math.log(2) / 2)
