"""Tests of the sigmoid loss of SigLIP."""

import math

import numpy as np
import pytest
import tensorflow as tf

from align_keras.config import load_config
from align_keras.losses import SigmoidLoss
from align_keras.runs.assemble import build_loss
from align_keras.utils.errors import InputError
from tests.helpers.recorded_oracles import recorded


def with_gradients(loss, *values):
    tensors = [tf.constant(value) for value in values]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        total = loss(*tensors)
    return total, tape.gradient(total, tensors)


@pytest.mark.parametrize("number", [0, 1])
def test_the_loss_and_its_gradients_equal_those_of_open_clip(number):
    """Compares with recorded results (see `tests.helpers.recorded_oracles`)."""
    inputs, results = recorded("siglip_loss")[number]
    names = ("images", "texts", "temperature")
    values = [inputs[name].astype("float64") for name in names]
    loss = SigmoidLoss(bias=float(inputs["bias"]))
    total, gradients = with_gradients(loss, *values)
    assert float(total) == pytest.approx(float(results["loss"]), rel=1e-11)
    for gradient, name in zip(gradients, names, strict=True):
        np.testing.assert_allclose(gradient, results[name], rtol=1e-9, atol=1e-12)


def test_replicas_have_the_loss_and_the_gradients_of_one_device(two_replicas):
    (inputs, _), *_ = recorded("siglip_loss")
    rows = [inputs[name][:6] for name in ("images", "texts")]
    tokens = tf.constant([[1], [2], [3], [1], [2], [4]])
    loss = SigmoidLoss(-2.0, share_equal_captions=True)

    def loss_of_rows(images, texts):
        return loss(images, texts, 0.1, tokens)

    total, expected = with_gradients(loss_of_rows, *rows)

    def replica():
        part = tf.distribute.get_replica_context().replica_id_in_sync_group * 3
        with tf.GradientTape() as tape:
            all_rows = [tf.constant(values) for values in rows]
            tape.watch(all_rows)
            replica_rows = [values[part : part + 3] for values in all_rows]
            value = loss(*replica_rows, 0.1, tokens[part : part + 3]) / 2
        return value, tape.gradient(value, all_rows)

    values = two_replicas.run(tf.function(replica))
    add = tf.distribute.ReduceOp.SUM
    replica_total, gradients = tf.nest.map_structure(
        lambda value: two_replicas.reduce(add, value, None), values
    )
    assert float(replica_total) == pytest.approx(float(total), rel=1e-12)
    for actual_gradient, expected_gradient in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(
            actual_gradient, expected_gradient, rtol=1e-10, atol=1e-13
        )


def test_pairs_with_equal_captions_are_positives_of_each_other():
    tokens = tf.constant([[5, 6], [7, 8], [5, 6]])
    loss = SigmoidLoss(bias=-1.0, share_equal_captions=True)
    total = float(loss(tf.eye(3), tf.eye(3), 0.5, tokens))
    logits = 2 * np.eye(3) - 1
    signs = np.where([[1, 0, 1], [0, 1, 0], [1, 0, 1]], 1, -1)
    expected = np.log1p(np.exp(-signs * logits)).sum() / 3
    assert total == pytest.approx(expected, rel=1e-6)
    with pytest.raises(InputError, match="token_ids must not be None"):
        loss(tf.eye(3), tf.eye(3), 0.5)


def test_the_default_bias_is_the_logit_of_a_random_guess():
    rows = tf.linalg.l2_normalize(tf.ones((8, 3)), 1)
    expected = SigmoidLoss(bias=-math.log(8))(rows, rows, 0.5)
    assert float(SigmoidLoss()(rows, rows, 0.5)) == pytest.approx(float(expected))


def test_a_configuration_selects_the_sigmoid_loss():
    override = "task.loss.type=sigmoid,task.loss.sigmoid.bias=-4"
    loss = build_loss(load_config(params_override=override).task.loss)
    assert isinstance(loss, SigmoidLoss)
    assert loss.get_config() == {"bias": -4.0, "share_equal_captions": False}
    with pytest.raises(InputError, match="Did you mean 'bias'"):
        SigmoidLoss(bais=-4)
