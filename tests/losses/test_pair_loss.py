"""Tests of custom losses in training, on replicas and in files."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from align_keras.losses import (
    ContrastiveLoss,
    DistillationLoss,
    PairLoss,
)
from align_keras.losses.distillation_loss import TEACHER_INPUTS
from align_keras.losses.pair_loss import FunctionLoss, as_pair_loss
from align_keras.optimizers import SGD
from align_keras.training.strategies import strategy_scope
from align_keras.utils.errors import InputError
from tests.helpers.small import small_align
from tests.helpers.updates_script import ROWS, batch, make_model

LOSS_OPTIONS = {"label_smoothing": 0.3, "reduction": "mean", "tile_size": "auto"}


@keras.saving.register_keras_serializable(package="tests")
def sigmoid_loss(image_embeddings, text_embeddings, temperature):
    """Returns the sigmoid loss of each image, computed from the complete logits."""
    logits = tf.matmul(image_embeddings, text_embeddings, transpose_b=True)
    signs = 2.0 * tf.eye(tf.shape(logits)[0]) - 1.0
    return -tf.reduce_sum(tf.math.log_sigmoid(signs * logits / temperature), axis=1)


@keras.saving.register_keras_serializable(package="tests")
class TwoTerms(PairLoss):
    """Loss of two parts, one of which depends on the captions."""

    parts = ("distance", "length")

    def __init__(self, weight=0.5):
        self.weight = weight

    def call(self, image_embeddings, text_embeddings, temperature, token_ids):
        distance = tf.reduce_sum((image_embeddings - text_embeddings) ** 2, axis=1)
        words = tf.reduce_mean(tf.cast(token_ids, tf.float32))
        return distance, self.weight * words * temperature

    def get_config(self):
        return {"weight": self.weight}


def train_step(loss, strategy=None):
    """Returns a model without dropout after a step, and the reported metrics."""
    with strategy_scope(strategy):
        model = make_model(synchronized=True)
        optimizer = SGD(0.05, momentum=0.0, weight_decay=0.0)
        model.compile(optimizer, loss, run_eagerly=strategy is None)
    batches = tf.data.Dataset.from_tensor_slices(batch()).batch(ROWS, True)
    history = model.fit(batches, verbose=0).history
    return model, {name: values[0] for name, values in history.items()}


@pytest.mark.ci
def test_a_function_is_accepted_as_loss():
    model, metrics = train_step(sigmoid_loss)
    assert {*metrics} >= {"loss", "pair_loss", "temperature", "gradient_norm"}
    assert metrics["loss"] == metrics["pair_loss"] > 0 < metrics["gradient_norm"]
    assert "loss_i2t" not in metrics
    outputs = model(batch())
    embeddings = outputs["image_embedding"], outputs["text_embedding"]
    expected = sigmoid_loss(*embeddings, model.temperature).numpy().mean()
    inputs = tf.data.Dataset.from_tensors(batch())
    losses = model.evaluate(inputs, verbose=0, return_dict=True)
    assert losses["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.release
@pytest.mark.parametrize("loss", [TwoTerms(), sigmoid_loss, ContrastiveLoss()])
def test_replicas_make_the_update_of_one_device(two_replicas, loss):
    expected_model, expected_metrics = train_step(loss)
    model, metrics = train_step(loss, two_replicas)
    for name, expected in expected_metrics.items():
        np.testing.assert_allclose(expected, metrics[name], rtol=1e-3)
    for actual, expected in zip(model.weights, expected_model.weights, strict=True):
        np.testing.assert_allclose(actual, expected, atol=2e-5, err_msg=actual.path)


@pytest.mark.ci
def test_a_keras_file_restores_the_loss(tmp_path):
    model = small_align()
    model.compile(SGD(0.1), ContrastiveLoss(**LOSS_OPTIONS))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras").loss
    assert loaded.get_config() == model.loss.get_config()


def test_the_parts_of_a_custom_loss_are_summed():
    loss = TwoTerms()
    tokens = tf.constant([[2, 4], [6, 8]])
    losses = loss.replica_losses(tf.eye(2), -tf.eye(2), tf.constant(2.0), tokens)
    assert [float(part) for part in losses] == [4.0, 5.0]
    assert float(loss(tf.eye(2), -tf.eye(2), tf.constant(2.0), tokens)) == 9.0
    loss.parts = ("distance",)
    with pytest.raises(InputError, match="parts"):
        loss(tf.eye(2), -tf.eye(2), tf.constant(2.0), tokens)


def test_objects_that_are_not_pair_losses_are_refused():
    assert isinstance(as_pair_loss(sigmoid_loss), FunctionLoss)
    for wrong in ("mse", keras.losses.MeanSquaredError(), 3):
        with pytest.raises(InputError, match="loss must be"):
            as_pair_loss(wrong)
    with pytest.raises(InputError, match="label_smoothing"):
        ContrastiveLoss(label_smothing=0.1)


def test_other_numbers_of_teacher_rows_are_refused():
    rows = tf.eye(4)
    teacher = {TEACHER_INPUTS[0]: rows, TEACHER_INPUTS[1]: rows[:1]}
    with pytest.raises(InputError, match="teacher_text_embeddings"):
        DistillationLoss()(rows, rows, 1.0, **teacher)
    with pytest.raises(InputError, match="pair_groups"):
        ContrastiveLoss()(rows, rows, 1.0, pair_groups=tf.range(3))
