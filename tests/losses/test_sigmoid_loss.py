"""Tests of the sigmoid loss of SigLIP."""

import math

import numpy as np
import pytest
import tensorflow as tf

from align_keras.config import load_config
from align_keras.losses import SigmoidLoss
from align_keras.runs.model_from_config import build_loss
from align_keras.utils.errors import InputError
from tests.helpers.recorded_oracles import recorded

NAMES = ("images", "texts", "temperature", "bias")
# No tiles, a single tile, and tiles that don't divide 7, 12 and 13 rows.
TILE_SIZES = (None, "auto", 5)


def with_gradients(loss, *values):
    tensors = [tf.constant(value) for value in values]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        total = loss(*tensors)
    return total, tape.gradient(total, tensors)


def loss_with_bias(tile_size):
    """Returns a function of the embeddings, the temperature and the bias."""

    def loss(images, texts, temperature, bias):
        return SigmoidLoss(bias, tile_size=tile_size)(images, texts, temperature)

    return loss


def assert_equal(total, gradients, results, number=()):
    # Both are computed in float64, but sum in another order.
    assert float(total) == pytest.approx(float(results["loss"][number]), rel=1e-11)
    for gradient, name in zip(gradients, NAMES, strict=True):
        expected = results[name][number]
        np.testing.assert_allclose(gradient, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("tile_size", TILE_SIZES)
@pytest.mark.parametrize("number", [0, 1])
def test_the_loss_and_its_gradients_equal_those_of_open_clip(number, tile_size):
    """Compares with recorded results (see `tests.helpers.recorded_oracles`)."""
    inputs, results = recorded("siglip_loss")[number]
    values = [inputs[name].astype("float64") for name in NAMES]
    assert_equal(*with_gradients(loss_with_bias(tile_size), *values), results)


@pytest.mark.parametrize("tile_size", [None, 5])
def test_the_loss_equals_that_of_four_processes_of_open_clip(tile_size):
    """Each of open_clip's exchanges of captions between processes has one result."""
    [(inputs, results)] = recorded("siglip_replicas_loss")
    values = [inputs[name].astype("float64") for name in NAMES]
    total, gradients = with_gradients(loss_with_bias(tile_size), *values)
    assert len(results["loss"]) == 4
    for exchange in range(4):
        assert_equal(total, gradients, results, exchange)


def test_tiles_of_batches_of_unknown_size_and_half_precision_are_supported():
    loss = SigmoidLoss(share_equal_captions=True, tile_size=4)

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, 6], tf.float16),
            tf.TensorSpec([None, 6], tf.float16),
            tf.TensorSpec([None, 2], tf.int32),
        ]
    )
    def compiled_loss(images, texts, tokens):
        return loss(images, texts, 0.1, tokens)

    (inputs, _), (larger_inputs, _) = recorded("siglip_loss")
    for values in (inputs, larger_inputs):
        images = tf.cast(values["images"], tf.float16)
        texts = tf.cast(values["texts"], tf.float16)
        tokens = tf.constant([[row % 5, 1] for row in range(len(images))])
        total = compiled_loss(images, texts, tokens)
        assert total.dtype == tf.float32
        plain = SigmoidLoss(share_equal_captions=True)
        expected = plain(
            tf.cast(images, tf.float64), tf.cast(texts, tf.float64), 0.1, tokens
        )
        assert float(total) == pytest.approx(float(expected), rel=1e-5)


def test_pairs_with_equal_captions_are_positives_of_each_other():
    tokens = tf.constant([[5, 6], [7, 8], [5, 6]])
    loss = SigmoidLoss(bias=-1.0, share_equal_captions=True)
    total = float(loss(tf.eye(3), tf.eye(3), 0.5, tokens))
    logits = 2 * np.eye(3) - 1
    signs = np.where([[1, 0, 1], [0, 1, 0], [1, 0, 1]], 1, -1)
    expected = np.log1p(np.exp(-signs * logits)).sum() / 3
    assert total == pytest.approx(expected, rel=1e-6)


def test_the_default_bias_is_the_logit_of_a_random_guess():
    rows = tf.linalg.l2_normalize(tf.ones((8, 3)), 1)
    expected = SigmoidLoss(bias=-math.log(8))(rows, rows, 0.5)
    assert float(SigmoidLoss()(rows, rows, 0.5)) == pytest.approx(float(expected))


def test_a_configuration_selects_the_sigmoid_loss():
    override = "task.loss.type=sigmoid,task.loss.sigmoid.bias=-4"
    loss = build_loss(load_config(params_override=override).task.loss, 16)
    assert isinstance(loss, SigmoidLoss)
    assert loss.get_config() == {
        "bias": -4.0,
        "share_equal_captions": False,
        "share_equal_images": False,
        "tile_size": "auto",
    }
    override += ",task.loss.sigmoid.tile_size=512"
    loss = build_loss(load_config(params_override=override).task.loss, 16)
    assert loss.tile_size == 512
    with pytest.raises(InputError, match="mean bias"):
        SigmoidLoss(bais=-4)
    with pytest.raises(InputError, match="tile_size"):
        SigmoidLoss(tile_size=0)
