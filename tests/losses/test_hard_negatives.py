"""Tests of the weight of mined negatives in the contrastive loss."""

import numpy as np
import pytest
import tensorflow as tf

from align_keras.losses import ContrastiveLoss, MatryoshkaLoss
from align_keras.utils.errors import InputError

ROWS = 10
WEIGHT = 3.0
# Each pair is followed by its mined negative, except for the last two pairs.
NEGATIVE_GROUPS = np.array([0, 0, 1, 1, 2, 2, 3, 3, 4, 5])
# Pairs 0 and 1 have the same caption, so they are no negatives of each other.
CAPTIONS = np.array([7, 7, 8, 9, 1, 2, 3, 4, 5, 5])


def unit_rows(seed, width=6):
    rows = np.random.default_rng(seed).normal(size=(ROWS, width))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


IMAGES, TEXTS = unit_rows(0), unit_rows(1)
TEMPERATURE = 0.125


def expected_loss(share_equal_captions, label_smoothing=0.1):
    """Returns the loss by its formula in NumPy."""
    positives = np.eye(ROWS, dtype=bool)
    if share_equal_captions:
        positives |= CAPTIONS[:, None] == CAPTIONS
    mined = (NEGATIVE_GROUPS[:, None] == NEGATIVE_GROUPS) & ~positives
    weights = np.where(mined, WEIGHT, 1.0)
    targets = positives / positives.sum(1, keepdims=True)
    targets = (1 - label_smoothing) * targets + label_smoothing / ROWS
    logits = IMAGES @ TEXTS.T / TEMPERATURE
    return sum(
        np.mean(np.log((weights * np.exp(rows)).sum(1)) - (targets * rows).sum(1))
        for rows in (logits, logits.T)
    )


def with_gradients(loss, rows=slice(None), temperature=TEMPERATURE):
    values = [tf.constant(IMAGES), tf.constant(TEXTS)]
    values.append(tf.constant(temperature, tf.float64))
    with tf.GradientTape() as tape:
        tape.watch(values)
        total = loss(
            values[0][rows],
            values[1][rows],
            values[2],
            tf.constant(CAPTIONS[:, None])[rows],
            negative_groups=tf.constant(NEGATIVE_GROUPS)[rows],
        )
    return total, *tape.gradient(total, values)


@pytest.mark.parametrize("share", [False, True])
def test_the_loss_with_weighted_negatives_equals_numpy(share):
    options = {"hard_negative_weight": WEIGHT, "share_equal_captions": share}
    plain = with_gradients(ContrastiveLoss(**options))
    assert float(plain[0]) == pytest.approx(expected_loss(share), rel=1e-12)
    unweighted = ContrastiveLoss(share_equal_captions=share)
    assert float(with_gradients(unweighted)[0]) < float(plain[0])
    # Tiles of 4 rows have a padded last tile. "auto" stores the tiles.
    for tile_size in (4, "auto"):
        tiled = with_gradients(ContrastiveLoss(**options, tile_size=tile_size))
        for actual, value in zip(tiled, plain, strict=True):
            np.testing.assert_allclose(actual, value, rtol=1e-9, atol=1e-11)


def test_large_logits_do_not_overflow():
    options = {"hard_negative_weight": WEIGHT}
    plain = with_gradients(ContrastiveLoss(**options), temperature=1e-4)
    tiled = with_gradients(ContrastiveLoss(**options, tile_size=4), temperature=1e-4)
    assert np.isfinite(plain[0])
    for actual, value in zip(tiled, plain, strict=True):
        np.testing.assert_allclose(actual, value, rtol=1e-9, atol=1e-9)


def test_the_negatives_of_each_part_are_weighted():
    loss = ContrastiveLoss(hard_negative_weight=WEIGHT, negatives_fraction=0.5)
    halves = ContrastiveLoss(hard_negative_weight=WEIGHT)
    parts = [with_gradients(halves, rows)[0] for rows in (slice(0, 5), slice(5, ROWS))]
    assert float(with_gradients(loss)[0]) == pytest.approx(np.mean(parts), rel=1e-12)


@pytest.mark.ci
@pytest.mark.parametrize(
    "tile_size", [None, pytest.param(2, marks=pytest.mark.release)]
)
def test_mined_negatives_are_weighted_across_replicas(two_replicas, tile_size):
    options = {"hard_negative_weight": WEIGHT}
    expected = with_gradients(ContrastiveLoss(**options))
    loss = ContrastiveLoss(**options, tile_size=tile_size)
    half = ROWS // 2

    def replica():
        first = tf.distribute.get_replica_context().replica_id_in_sync_group * half
        total, *gradients = with_gradients(loss, slice(first, first + half))
        return [total / 2, *(gradient / 2 for gradient in gradients)]

    results = two_replicas.run(tf.function(replica))
    for result, value in zip(results, expected, strict=True):
        total = two_replicas.reduce(tf.distribute.ReduceOp.SUM, result, None)
        np.testing.assert_allclose(total, value, rtol=1e-9, atol=1e-12)


def test_losses_that_weight_negatives_need_their_groups():
    loss = ContrastiveLoss(hard_negative_weight=WEIGHT)
    assert loss.required_inputs == ("negative_groups",)
    assert MatryoshkaLoss(loss, [2]).required_inputs == ("negative_groups",)
    assert ContrastiveLoss.from_config(loss.get_config()).hard_negative_weight == WEIGHT
    with pytest.raises(InputError, match="negative_groups must not be None"):
        loss(IMAGES, TEXTS, TEMPERATURE)
    with pytest.raises(InputError, match="hard_negative_weight must be"):
        ContrastiveLoss(hard_negative_weight=0.0)
