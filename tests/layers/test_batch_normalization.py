"""Ghost batches are batches: each part as if it came alone."""

import numpy as np
import pytest
import tensorflow as tf

from align_keras.layers import FusedBatchNormalization
from align_keras.utils.errors import InputError


def built(**arguments):
    layer = FusedBatchNormalization(momentum=0.9, **arguments)
    layer.build((None, 5, 4, 3))
    random = np.random.default_rng(1)
    layer.set_weights([random.uniform(0.5, 2.0, size=3) for _ in range(4)])
    return layer


def test_ghost_batches_equal_batches_of_their_size():
    rows = np.random.default_rng(0).normal(size=(6, 5, 4, 3)).astype("float32")
    weights = np.random.default_rng(2).normal(size=rows.shape).astype("float32")
    ghost, plain = built(virtual_batch_size=2), built()
    before = [
        statistic.numpy() for statistic in (plain.moving_mean, plain.moving_variance)
    ]
    inputs = tf.constant(rows)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        loss = tf.reduce_sum(ghost(inputs, training=True) * weights)
    ours = tape.gradient(loss, [inputs, *ghost.trainable_variables])
    gradients, afters = [], []
    for part in (slice(0, 2), slice(2, 4), slice(4, 6)):
        plain.moving_mean.assign(before[0])
        plain.moving_variance.assign(before[1])
        inputs = tf.constant(rows[part])
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            loss = tf.reduce_sum(plain(inputs, training=True) * weights[part])
        gradients.append(tape.gradient(loss, [inputs, *plain.trainable_variables]))
        afters.append([plain.moving_mean.numpy(), plain.moving_variance.numpy()])
    # float32, where the fused kernel sums in another order.
    close = {"rtol": 1e-4, "atol": 1e-5}
    np.testing.assert_allclose(
        ours[0], np.concatenate([g[0] for g in gradients]), **close
    )
    for index in (1, 2):
        expected = sum(np.asarray(g[index]) for g in gradients)
        np.testing.assert_allclose(ours[index], expected, **close)
    means = [np.mean([after[index] for after in afters], axis=0) for index in (0, 1)]
    np.testing.assert_allclose(ghost.moving_mean.numpy(), means[0], **close)
    np.testing.assert_allclose(ghost.moving_variance.numpy(), means[1], **close)
    inference = ghost(tf.constant(rows), training=False)
    ghost.virtual_batch_size = None
    np.testing.assert_array_equal(inference, ghost(tf.constant(rows), training=False))


def test_errors():
    with pytest.raises(InputError, match="synchronized is true, received 2"):
        FusedBatchNormalization(virtual_batch_size=2, synchronized=True)
    with pytest.raises(InputError, match=r"multiple of virtual_batch_size \(4\)"):
        built(virtual_batch_size=4)(tf.zeros((6, 5, 4, 3)), training=True)
