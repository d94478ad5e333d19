"""Tests of the contrastive loss, by hand-computed cases and recorded PyTorch values."""

import numpy as np
import pytest
import tensorflow as tf

from align_keras.losses import contrastive_loss
from align_keras.utils.errors import InputError
from tests.helpers.recorded_oracles import recorded


def unit_rows(count, width, seed):
    rows = np.random.default_rng(seed).normal(size=(count, width))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_the_loss_of_two_pairs_equals_the_hand_computed_one():
    images = tf.constant([[1.0, 0.0], [0.0, 1.0]])
    # The logits are [[1, 0], [0, 1]], so the loss of each direction is log(1 + e⁻¹).
    loss = contrastive_loss(images, images, 1.0, label_smoothing=0.0)
    assert float(loss) == pytest.approx(2 * np.log1p(np.exp(-1)), rel=1e-6)


def test_the_reduction_mean_is_half_of_the_sum():
    images, texts = unit_rows(5, 3, 0), unit_rows(5, 3, 1)
    total = contrastive_loss(images, texts, 0.1)
    mean = contrastive_loss(images, texts, 0.1, reduction="mean")
    assert float(total) == pytest.approx(2 * float(mean), rel=1e-12)


@pytest.mark.parametrize("number", range(9))
def test_the_loss_and_its_gradients_equal_those_of_pytorch(number):
    """Compares with recorded results of the cross-entropy of PyTorch."""
    inputs, results = recorded("contrastive_loss")[number]
    names = ("images", "texts", "temperature")
    smoothing = float(inputs["smoothing"])
    arguments = [tf.constant(inputs[name], tf.float64) for name in names]
    with tf.GradientTape() as tape:
        tape.watch(arguments)
        loss = contrastive_loss(*arguments, label_smoothing=smoothing)
    # Both are computed in float64, but sum in another order.
    assert float(loss) == pytest.approx(float(results["loss"]), rel=1e-10)
    for name, gradient in zip(names, tape.gradient(loss, arguments), strict=True):
        np.testing.assert_allclose(gradient, results[name], rtol=1e-8, atol=1e-10)


def test_equal_captions_share_the_target():
    images = unit_rows(3, 4, 4)
    texts = np.stack([images[0], images[0], images[2]])
    logits = images @ texts.T / 0.1
    targets = np.array([[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 1]])

    def entropy(logits):
        log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        return -(targets * log_p).sum(1).mean()

    expected = entropy(logits) + entropy(logits.T)
    for kind in (tf.constant, np.array, list):
        options = {"label_smoothing": 0.0, "pair_groups": kind([7, 7, 9])}
        loss = contrastive_loss(images, texts, 0.1, **options)
        assert float(loss) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("tile_size", [None, 2])
@pytest.mark.parametrize("fraction", [1 / 2, 1 / 3])
def test_the_negatives_of_a_pair_are_in_its_part(fraction, tile_size):
    images, texts = unit_rows(6, 4, 5), unit_rows(6, 4, 6)
    losses = []
    for part in np.split(np.arange(6), round(1 / fraction)):
        logits = images[part] @ texts[part].T / 0.1
        for rows in (logits, logits.T):
            losses.append(np.log(np.exp(rows).sum(1)) - np.diag(rows))
    loss = contrastive_loss(
        images,
        texts,
        0.1,
        label_smoothing=0.0,
        tile_size=tile_size,
        negatives_fraction=fraction,
    )
    assert float(loss) == pytest.approx(2 * np.mean(losses), rel=1e-11)


def test_pairs_of_different_parts_are_not_positives_of_each_other():
    images, texts = unit_rows(4, 4, 7), unit_rows(4, 4, 8)
    # Both groups have one pair in each part.
    groups = np.array([1, 2, 1, 2])
    options = {"negatives_fraction": 0.5}
    with_groups = contrastive_loss(images, texts, 0.1, pair_groups=groups, **options)
    without_groups = contrastive_loss(images, texts, 0.1, **options)
    assert float(with_groups) == pytest.approx(float(without_groups), rel=1e-12)


@pytest.mark.parametrize(
    "images",
    [np.zeros((3, 4)), np.ones((3, 4)) / 2, np.ones((1, 4)) / 2],
    ids=["zero embeddings", "duplicate pairs", "batch of one"],
)
def test_degenerate_inputs_have_finite_losses_and_gradients(images):
    images = tf.constant(images, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(images)
        loss = contrastive_loss(images, images, 1 / 128)
    assert np.isfinite(loss)
    assert np.isfinite(tape.gradient(loss, images)).all()
    assert float(loss) == pytest.approx(2 * np.log(len(images)), abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"reduction": "max"}, "reduction"),
        ({"label_smoothing": 1.5}, "label_smoothing"),
        ({"tile_size": 0}, "tile_size"),
        ({"negatives_fraction": 0.4}, "negatives_fraction"),
        ({"negatives_fraction": 1 / 3}, "2 rows"),
        ({"matmul_dtype": "float16", "tile_size": 2}, "matmul_dtype"),
        ({"matmul_dtype": "bfloat16"}, "tile_size"),
    ],
)
def test_errors_name_the_argument(arguments, words):
    with pytest.raises(InputError, match=words):
        contrastive_loss(np.eye(2), np.eye(2), 1.0, **arguments)
