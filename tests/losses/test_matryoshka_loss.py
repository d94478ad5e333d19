"""Tests of the loss at several widths."""

import numpy as np
import pytest
import tensorflow as tf

from align_keras.config import load_config
from align_keras.losses import ContrastiveLoss, MatryoshkaLoss
from align_keras.optimizers import SGD
from align_keras.runs.model_from_config import build_loss
from align_keras.utils.errors import InputError
from tests.helpers.small import small_align, small_batch


def unit_rows(seed, rows=12, width=6):
    values = np.random.default_rng(seed).normal(size=(rows, width))
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def numpy_loss(images, texts, temperature, width):
    """Returns the contrastive loss of the first components, without smoothing."""
    images, texts = images[:, :width], texts[:, :width]
    images = images / np.linalg.norm(images, axis=1, keepdims=True)
    texts = texts / np.linalg.norm(texts, axis=1, keepdims=True)
    logits = images @ texts.T / temperature
    return sum(
        np.mean(np.logaddexp.reduce(rows, axis=1) - np.diag(rows))
        for rows in (logits, logits.T)
    )


@pytest.mark.parametrize("tile_size", [None, 5])
def test_the_loss_is_the_weighted_sum_of_the_losses_of_all_widths(tile_size):
    images, texts = unit_rows(0), unit_rows(1)
    inner = ContrastiveLoss(label_smoothing=0.0, tile_size=tile_size)
    loss = MatryoshkaLoss(inner, [2, 3, 6], [0.5, 1.0, 2.0])
    temperature = tf.constant(0.25, tf.float64)
    parts = loss.replica_losses(images, texts, temperature)
    expected = [numpy_loss(images, texts, 0.25, width) for width in (2, 3, 6)]
    np.testing.assert_allclose(parts, expected, rtol=1e-12)
    total = 0.5 * expected[0] + expected[1] + 2.0 * expected[2]
    assert float(loss(images, texts, temperature)) == pytest.approx(total, rel=1e-12)


@pytest.mark.ci
def test_training_reports_the_loss_of_each_width():
    model = small_align()
    inner = ContrastiveLoss(share_equal_images=True)
    loss = MatryoshkaLoss(inner, [4, 16], [2.0, 1.0])
    model.compile(SGD(0.01), loss, run_eagerly=True)
    batch = {**small_batch(), "image_ids": np.arange(4)}
    history = model.fit(tf.data.Dataset.from_tensors(batch), verbose=0).history
    expected = 2.0 * history["loss_4"][0] + history["loss_16"][0]
    assert history["loss"][0] == pytest.approx(expected, rel=1e-6)


def test_wrong_widths_are_refused():
    loss = ContrastiveLoss()
    with pytest.raises(InputError, match="widths must be"):
        MatryoshkaLoss(loss, [0])
    with pytest.raises(InputError, match="widths"):
        MatryoshkaLoss(loss, [8])(unit_rows(0), unit_rows(1), 0.1)


def test_a_configuration_sets_the_widths():
    override = "task.loss.matryoshka.widths=[4,8]"
    loss = build_loss(load_config(params_override=override).task.loss, 16)
    assert (loss.widths, loss.weights) == ((4, 8, 16), (1.0, 1.0, 1.0))
    weighted = f"{override},task.loss.matryoshka.weights=[0.5,2]"
    loss = build_loss(load_config(params_override=weighted).task.loss, 16)
    assert loss.weights == (0.5, 2.0, 1.0)
    with pytest.raises(InputError, match="widths"):
        build_loss(load_config(params_override=override).task.loss, 8)
