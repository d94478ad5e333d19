"""Two replicas in this process: what each one counts for in the sum."""

import numpy as np
import pytest
import tensorflow as tf

from align_keras.losses.cross_replica import gather_replicas
from align_keras.optimizers import SGD
from align_keras.training.strategies import strategy_scope
from tests.helpers.small import small_batch
from tests.helpers.updates_script import make_model


def on_each(strategy, values):
    """Gives each replica its rows of the values."""
    count = len(values) // strategy.num_replicas_in_sync
    return strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(
            values[context.replica_id_in_sync_group * count :][:count]
        )
    )


def test_gradients_flow_through_the_gather(two_replicas):
    rows = np.arange(8, dtype="float32").reshape(4, 2)
    # A replica weighs each row of all replicas by factors of its own.
    factors = np.random.default_rng(0).normal(size=(2, 4, 2)).astype("float32")

    @tf.function
    def step(rows, factors):
        def each(rows, factors):
            with tf.GradientTape() as tape:
                tape.watch(rows)
                gathered, offset = gather_replicas(rows)
                total = tf.reduce_sum(gathered * factors[0])
            return gathered, offset, tape.gradient(total, rows)

        return two_replicas.run(each, (rows, factors))

    answers = step(on_each(two_replicas, rows), on_each(two_replicas, factors))
    gathered, offsets, gradients = (
        [value.numpy() for value in two_replicas.experimental_local_results(answer)]
        for answer in answers
    )
    np.testing.assert_array_equal(gathered, [rows, rows])
    assert offsets == [0, 2]
    # A row's gradient is the sum of what both replicas weigh it by.
    np.testing.assert_allclose(
        np.concatenate(gradients), factors.sum(axis=0), rtol=1e-6
    )


def updated(strategy):
    """The weights after a step of gradient descent, and what `fit` reports.

    The image encoder is locked: its statistics would be those of a replica's rows.
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


# Replicas wait for each other at each sum: long where other processes want the cores.
@pytest.mark.timeout(900)
def test_a_step_on_two_replicas_is_that_of_one_device(two_replicas):
    before, expected, reported = updated(None)
    start, actual, also = updated(two_replicas)
    moved = max(
        np.abs(new - old).max() for new, old in zip(expected, before, strict=True)
    )
    assert moved > 1e-2
    for ours, theirs in zip(start, before, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for ours, theirs in zip(actual, expected, strict=True):
        # float32, summed in another order.
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6)
    for name, values in reported.items():
        assert also[name] == pytest.approx(values, rel=1e-5), name
