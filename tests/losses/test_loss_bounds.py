"""Tests of the bounds of losses, with scipy's minimizer as the oracle."""

import math

import numpy as np
import pytest
import tensorflow as tf

from align_keras.losses import ContrastiveLoss, MatryoshkaLoss, SigmoidLoss
from tests.helpers.oracle_process import needs

# Groups of one, two and three equal captions.
GROUPS = np.array([0, 1, 1, 2, 2, 2])
# Images of these pairs. Two captions of an image are equal, and two are not.
IMAGES = np.array([0, 0, 1, 1, 1, 2])


def needs_scipy(test):
    """Moves a test to the ci tier, which has scipy."""
    return pytest.mark.ci(needs("scipy")(test))


def lowest_by_minimizing(loss, groups, image_ids=None):
    """Returns the lowest loss over all logits with equal columns for equal captions.

    With embeddings (n, n) that are the logits and unit vectors, the cosines of the loss
    are free logits. The logits of equal captions are one variable.
    """
    import scipy.optimize

    count = len(groups)
    _, columns = np.unique(groups, return_inverse=True)
    texts = tf.eye(count, dtype=tf.float64)
    tokens = tf.constant(groups[:, None])

    @tf.function(autograph=False)
    def loss_and_gradient(variables):
        with tf.GradientTape() as tape:
            tape.watch(variables)
            logits = tf.gather(variables, columns, axis=1)
            total = loss(logits, texts, 1.0, tokens, image_ids=image_ids)
        return total, tape.gradient(total, variables)

    def value(flat):
        shape = (count, columns.max() + 1)
        total, gradient = loss_and_gradient(tf.constant(flat.reshape(shape)))
        return float(total), gradient.numpy().reshape(-1)

    start = np.random.default_rng(0).normal(size=count * (columns.max() + 1))
    result = scipy.optimize.minimize(
        value, start, jac=True, method="L-BFGS-B", options={"maxiter": 1000}
    )
    return result.fun


@needs_scipy
@pytest.mark.parametrize(
    "smoothing, reduction, share",
    [
        (0.0, "sum", False),
        (0.0, "mean", True),
        (0.1, "mean", False),
        (0.1, "sum", True),
    ],
)
def test_the_bound_of_the_contrastive_loss_equals_its_minimum(
    smoothing, reduction, share
):
    loss = ContrastiveLoss(smoothing, reduction, share_equal_captions=share)
    expected = lowest_by_minimizing(loss, GROUPS)
    # Without smoothing, the bound is at infinite logits.
    assert loss.lowest_loss(GROUPS) == pytest.approx(expected, abs=1e-3)
    assert loss.lowest_loss(GROUPS) <= expected + 1e-9


@needs_scipy
@pytest.mark.parametrize("share", [False, True])
def test_the_bound_of_the_sigmoid_loss_equals_its_minimum(share):
    loss = SigmoidLoss(bias=0.0, share_equal_captions=share)
    expected = lowest_by_minimizing(loss, GROUPS)
    assert loss.lowest_loss(GROUPS) == pytest.approx(expected, abs=1e-3)


@needs_scipy
@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_bound_with_shared_images_equals_the_minimum(share, smoothing):
    groups = np.stack([GROUPS, IMAGES], axis=1)
    loss = ContrastiveLoss(
        smoothing, share_equal_captions=share, share_equal_images=True
    )
    expected = lowest_by_minimizing(loss, GROUPS, IMAGES)
    # The best logits of the two directions differ slightly.
    assert loss.lowest_loss(groups) == pytest.approx(expected, abs=2e-3)
    assert loss.lowest_loss(groups) <= expected + 1e-9
    captions_only = ContrastiveLoss(smoothing, share_equal_captions=share)
    assert captions_only.lowest_loss(groups) == captions_only.lowest_loss(GROUPS)


@needs_scipy
@pytest.mark.parametrize("share", [False, True])
def test_the_sigmoid_bound_with_shared_images_equals_the_minimum(share):
    groups = np.stack([GROUPS, IMAGES], axis=1)
    loss = SigmoidLoss(0.0, share, share_equal_images=True)
    expected = lowest_by_minimizing(loss, GROUPS, IMAGES)
    assert loss.lowest_loss(groups) == pytest.approx(expected, abs=1e-3)


def test_the_bound_of_several_blocks_of_rows_equals_that_of_one(monkeypatch):
    groups = np.stack([GROUPS, IMAGES], axis=1)
    losses = (
        ContrastiveLoss(share_equal_captions=True, share_equal_images=True),
        SigmoidLoss(share_equal_images=True),
    )
    expected = [loss.lowest_loss(groups) for loss in losses]
    monkeypatch.setattr("align_keras.losses.loss_bounds.COMPARED_AT_ONCE", 12)
    assert [loss.lowest_loss(groups) for loss in losses] == pytest.approx(expected)


@needs_scipy
@pytest.mark.parametrize("share", [False, True])
def test_the_random_guess_of_the_sigmoid_loss_counts_all_positives(share):
    import scipy.optimize

    groups = np.stack([GROUPS, IMAGES], axis=1)
    same = tf.ones((6, 1))
    tokens = tf.constant(GROUPS[:, None])
    best = scipy.optimize.minimize_scalar(
        lambda bias: float(
            SigmoidLoss(bias, share, share_equal_images=True)(
                0 * same, same, 0.1, tokens, image_ids=IMAGES
            )
        )
    )
    loss = SigmoidLoss(share_equal_captions=share, share_equal_images=True)
    assert loss.chance_loss(6, groups) == pytest.approx(best.fun, rel=1e-5)


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


def test_each_part_of_a_batch_has_a_bound():
    loss = ContrastiveLoss(0.0, "mean", negatives_fraction=0.5)
    # Equal captions in different parts don't compete.
    assert loss.lowest_loss(np.array([0, 1, 0, 1])) == pytest.approx(0.0)
    assert loss.lowest_loss(np.array([0, 0, 1, 2])) == pytest.approx(math.log(2) / 2)


def lowest_by_minimizing_embeddings(loss, temperature, count=4, width=4):
    """Returns the lowest loss over all unit vectors, from two starts."""
    import scipy.optimize

    temperature = tf.constant(temperature, tf.float64)

    @tf.function
    def loss_and_gradient(vectors):
        with tf.GradientTape() as tape:
            tape.watch(vectors)
            images, texts = tf.unstack(tf.math.l2_normalize(vectors, axis=2))
            total = loss(images, texts, temperature)
        return total, tape.gradient(total, vectors)

    def value(flat):
        total, gradient = loss_and_gradient(flat.reshape(2, count, width))
        return float(total), gradient.numpy().reshape(-1)

    random = np.random.default_rng(0)
    return min(
        scipy.optimize.minimize(
            value, random.normal(size=2 * count * width), jac=True, method="L-BFGS-B"
        ).fun
        for _ in range(2)
    )


# The best embeddings are the corners of a simplex, except for the sigmoid loss at high
# temperatures. At a temperature of 0.1, the smoothed targets limit the loss.
@needs_scipy
@pytest.mark.parametrize(
    "loss, temperature",
    [
        (ContrastiveLoss(0.0), 0.5),
        (ContrastiveLoss(0.1, "mean"), 0.1),
        (SigmoidLoss(), 0.1),
        (SigmoidLoss(), 2.0),
        (SigmoidLoss(bias=-4.0), 0.5),
    ],
)
def test_the_bound_at_a_temperature_equals_the_minimum(loss, temperature):
    expected = lowest_by_minimizing_embeddings(loss, temperature)
    bound = loss.lowest_loss_at(temperature, 4)
    assert bound == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_the_bounds_of_parts_and_widths_are_those_of_their_loss():
    loss = ContrastiveLoss()
    halves = ContrastiveLoss(negatives_fraction=0.5)
    assert halves.lowest_loss_at(0.5, 10) == loss.lowest_loss_at(0.5, 5)
    widths = MatryoshkaLoss(loss, [2, 4, 8], [0.5, 1.0, 2.0])
    assert widths.chance_loss(6) == pytest.approx(3.5 * loss.chance_loss(6))
    assert widths.lowest_loss(GROUPS) == pytest.approx(3.5 * loss.lowest_loss(GROUPS))
    assert widths.lowest_loss_at(0.5, 6) == pytest.approx(
        3.5 * loss.lowest_loss_at(0.5, 6)
    )
    same = tf.ones((6, 8))
    assert widths.chance_loss(6) == pytest.approx(float(widths(same, same, 0.1)))
    unknown = MatryoshkaLoss(lambda images, texts, temperature: 0.0, [2])
    assert unknown.chance_loss(6) is None
