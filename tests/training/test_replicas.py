"""Tests of gradients and updates on two replicas in the test process."""

import types

import numpy as np
import pytest
import tensorflow as tf

from align_keras.losses import ContrastiveLoss
from align_keras.losses.cross_replica import gather_replicas
from align_keras.models.gradients import scaled_loss
from align_keras.optimizers import SGD
from align_keras.training.strategies import strategy_scope
from tests.helpers.small import small_batch
from tests.helpers.updates_script import make_model


def distribute(strategy, values):
    """Returns the rows of the values, divided among the replicas."""
    count = len(values) // strategy.num_replicas_in_sync
    return strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(
            values[context.replica_id_in_sync_group * count :][:count]
        )
    )


def test_gradients_flow_to_the_gathered_rows(two_replicas):
    rows = np.arange(8, dtype="float32").reshape(4, 2)
    # Each replica multiplies the rows of all replicas by different factors.
    factors = np.random.default_rng(0).normal(size=(2, 4, 2)).astype("float32")

    @tf.function
    def step(rows, factors):
        def replica_step(rows, factors):
            with tf.GradientTape() as tape:
                tape.watch(rows)
                gathered, offset = gather_replicas(rows)
                total = tf.reduce_sum(gathered * factors[0])
            return gathered, offset, tape.gradient(total, rows)

        return two_replicas.run(replica_step, (rows, factors))

    results = step(distribute(two_replicas, rows), distribute(two_replicas, factors))
    gathered, offsets, gradients = (
        [value.numpy() for value in two_replicas.experimental_local_results(result)]
        for result in results
    )
    np.testing.assert_array_equal(gathered, [rows, rows])
    assert offsets == [0, 2]
    # The gradient of a row is the sum of its factors on both replicas.
    np.testing.assert_allclose(
        np.concatenate(gradients), factors.sum(axis=0), rtol=1e-6
    )


def train_step(strategy):
    """Returns the weights before and after a step, and the history of `fit`.

    The image encoder is locked, since its batch statistics would depend on the number
    of replicas.
    """
    with strategy_scope(strategy):
        model = make_model(
            initial_temperature=0.5, image_size=32, sequence_length=8, locked=True
        )
        model.compile(SGD(0.05, momentum=0.0, weight_decay=0.0, global_clipnorm=1.0))
    before = model.get_weights()
    dataset = tf.data.Dataset.from_tensors(small_batch(8))
    history = model.fit(dataset, verbose=0).history
    return before, model.get_weights(), history


def test_replicas_sum_to_the_gradients_of_the_batch(two_replicas):
    random = np.random.default_rng(0)
    images, texts = random.normal(size=(2, 4, 3)).astype("float32")
    model = types.SimpleNamespace(
        loss=ContrastiveLoss(), temperature=tf.constant(0.5), optimizer=SGD(0.1)
    )

    tokens = np.arange(4, dtype="int32")[:, None]

    def gradients(images, texts, tokens):
        with tf.GradientTape() as tape:
            tape.watch([images, texts])
            losses, total = scaled_loss(model, images, texts, {"token_ids": tokens})
        return losses, tape.gradient(total, [images, texts])

    rows = (images, texts, tokens)
    expected_losses, expected = gradients(*(tf.constant(values) for values in rows))
    rows = [distribute(two_replicas, values) for values in rows]
    losses, actual = two_replicas.run(tf.function(gradients), rows)
    for loss, expected_loss in zip(losses, expected_losses, strict=True):
        parts = two_replicas.experimental_local_results(loss)
        assert np.mean(parts) == pytest.approx(float(expected_loss), rel=1e-5)
    for gradient, expected_gradient in zip(actual, expected, strict=True):
        parts = two_replicas.experimental_local_results(gradient)
        np.testing.assert_allclose(
            np.concatenate(parts), expected_gradient, rtol=1e-4, atol=1e-6
        )


# Replicas wait for each other at each sum, which may take long on a busy machine.
@pytest.mark.ci
@pytest.mark.timeout(900)
def test_a_step_on_two_replicas_equals_that_on_one_device(two_replicas):
    expected_start, expected_weights, expected_history = train_step(None)
    start, weights, history = train_step(two_replicas)
    largest_update = max(
        np.abs(new - old).max()
        for new, old in zip(expected_weights, expected_start, strict=True)
    )
    assert largest_update > 1e-2
    for actual, expected in zip(start, expected_start, strict=True):
        np.testing.assert_array_equal(actual, expected)
    for actual, expected in zip(weights, expected_weights, strict=True):
        # float32 is summed in another order.
        np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-6)
    for name, values in expected_history.items():
        assert history[name] == pytest.approx(values, rel=1e-5), name
