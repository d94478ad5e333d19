"""Ghost batches and groups of replicas: each part as if it came alone."""

import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from align_keras.layers import FusedBatchNormalization
from align_keras.models import ImageEncoder
from align_keras.utils.errors import InputError
from tests.layers import groups_script

SCRIPT = pathlib.Path(groups_script.__file__)


def built(**arguments):
    layer = FusedBatchNormalization(momentum=0.9, **arguments)
    layer.build((None, 5, 4, 3))
    random = np.random.default_rng(1)
    layer.set_weights([random.uniform(0.5, 2.0, size=3) for _ in range(4)])
    return layer


def test_the_gradient_is_that_of_the_formula():
    """In float64, by automatic differentiation; the tolerance is float32's."""
    inputs = tf.random.stateless_normal((4, 6, 5, 8), (1, 2)) * 3 + 5
    layer = FusedBatchNormalization(gamma_initializer="random_normal")
    layer.build(inputs.shape)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        total = tf.reduce_sum(tf.sin(layer(inputs, training=True)))
    found = tape.gradient(total, [inputs, layer.gamma.value, layer.beta.value])
    wide, gamma, beta = (
        tf.cast(value, "float64")
        for value in (inputs, layer.gamma.value, layer.beta.value)
    )
    with tf.GradientTape() as tape:
        tape.watch([wide, gamma, beta])
        mean, variance = tf.nn.moments(wide, (0, 1, 2))
        normalized = (wide - mean) * tf.math.rsqrt(variance + layer.epsilon)
        total = tf.reduce_sum(tf.sin(normalized * gamma + beta))
    expected = tape.gradient(total, [wide, gamma, beta])
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def results_of(layer, rows):
    """Returns outputs, gradients and statistics of a step, and outputs after it."""
    inputs = tf.constant(rows)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = layer(inputs, training=True)
        loss = tf.reduce_sum(tf.sin(outputs))
    variables = [variable.value for variable in layer.trainable_variables]
    gradients = tape.gradient(loss, [inputs, *variables])
    inference = layer(inputs, training=False)
    return [outputs, *gradients, *layer.get_weights(), inference]


@pytest.mark.parametrize(
    "arguments",
    [
        {"scale": False},
        {"center": False},
        {"scale": False, "center": False},
        {"axis": 1},
        {"axis": 3},
        {"axis": -2},
        {"renorm": True},
    ],
    ids=str,
)
def test_arguments_give_what_the_layer_of_keras_gives(arguments):
    arguments |= {"gamma_initializer": keras.initializers.RandomUniform(1, 2, seed=1)}
    arguments |= {"beta_initializer": keras.initializers.RandomUniform(1, 2, seed=2)}
    rows = np.random.default_rng(0).normal(2, 3, (4, 6, 5, 8)).astype("float32")
    actual = results_of(FusedBatchNormalization(**arguments), rows)
    expected = results_of(keras.layers.BatchNormalization(**arguments), rows)
    for ours, theirs in zip(actual, expected, strict=True):
        # The kernel sums in another order. Sums over a channel have 120 values.
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-5)


def test_a_ghost_batch_without_scale_is_a_separate_batch():
    rows = np.random.default_rng(0).normal(size=(4, 5, 4, 3)).astype("float32")
    layer = FusedBatchNormalization(scale=False, virtual_batch_size=2)
    outputs = layer(tf.constant(rows), training=True)
    keras_layer = keras.layers.BatchNormalization(scale=False)
    expected = [keras_layer(part, training=True) for part in np.split(rows, 2)]
    np.testing.assert_allclose(outputs, np.concatenate(expected), atol=1e-5)


@pytest.mark.parametrize("sharing", ["virtual_batch_size", "replicas_per_group"])
def test_shared_statistics_of_another_axis_are_refused(sharing):
    layer = FusedBatchNormalization(axis=1, **{sharing: 2})
    with pytest.raises(InputError, match=r"axis must be the last.*Received: axis=1"):
        layer.build((None, 3, 5, 4))
    with pytest.raises(InputError, match="renorm must be False"):
        FusedBatchNormalization(renorm=True, **{sharing: 2})


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


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_ghost_batches_of_other_dtypes(dtype):
    """Which the fused kernel hasn't, but which are no reason to take all rows."""
    rows = np.random.default_rng(0).normal(size=(6, 5, 4, 3)).astype(dtype)
    ghost, plain = built(virtual_batch_size=2, dtype=dtype), built(dtype=dtype)
    outputs = ghost(tf.constant(rows), training=True)
    parts = [plain(tf.constant(part), training=True) for part in np.split(rows, 3)]
    assert outputs.dtype == dtype
    # float16 has 11 bits; gamma and offset are about 2.
    tolerance = {"float16": 1e-2, "float64": 1e-6}[dtype]
    np.testing.assert_allclose(outputs, np.concatenate(parts), atol=tolerance)


def test_a_group_of_two_replicas_is_one_batch(two_replicas):
    """Value, gradients and moving statistics are those of both replicas' rows."""
    assert groups_script.difference(two_replicas, 2, 2, 2) < 1e-5
    # Up to eight replicas each is by itself, as in the open-source EfficientNet.
    assert groups_script.difference(two_replicas, 2, "auto", 1) < 1e-5


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "count",
    [
        pytest.param(1, marks=pytest.mark.release),
        pytest.param(4, marks=pytest.mark.release),
        pytest.param(16, marks=pytest.mark.release),
    ],
)
def test_groups_of_replicas_are_ghost_batches_of_their_rows(count):
    ran = subprocess.run(
        [sys.executable, str(SCRIPT), str(count)],
        env={**os.environ, "PYTHONPATH": str(SCRIPT.parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    differences = json.loads(ran.stdout.strip().splitlines()[-1])
    sizes = {1: {"auto", "1"}, 4: {"auto", "1", "2", "4"}, 16: {"auto"}}
    assert set(differences) == sizes[count]
    # float32, added up in another order; the variance from the mean square.
    assert max(differences.values()) < 1e-5


def test_the_replicas_must_make_whole_groups(two_replicas):
    layer = groups_script.built(two_replicas, replicas_per_group=3)
    inputs = tf.zeros((3, 5, 4, 3))
    with pytest.raises(InputError, match="must divide the 2 replicas, received 3"):
        two_replicas.run(lambda: layer(inputs, training=True))
    # Where nothing is normalized by the batch it doesn't matter.
    two_replicas.run(lambda: layer(inputs, training=False))


def test_errors():
    with pytest.raises(InputError, match="synchronized is True, received 2"):
        FusedBatchNormalization(virtual_batch_size=2, synchronized=True)
    with pytest.raises(InputError, match=r"multiple of virtual_batch_size \(4\)"):
        built(virtual_batch_size=4)(tf.zeros((6, 5, 4, 3)), training=True)
    with pytest.raises(InputError, match="synchronized is True, received auto"):
        FusedBatchNormalization(replicas_per_group="auto", synchronized=True)
    with pytest.raises(InputError, match="virtual_batch_size is 2, received 2"):
        FusedBatchNormalization(replicas_per_group=2, virtual_batch_size=2)
    for wrong in (0, -1, 1.5, True, "all"):
        with pytest.raises(InputError, match=f"at least 1, received {wrong!r}"):
            FusedBatchNormalization(replicas_per_group=wrong)


def test_it_is_saved_with_the_encoder():
    encoder = ImageEncoder(
        width_coefficient=0.25, depth_coefficient=0.3, replicas_per_group="auto"
    )
    again = ImageEncoder.from_config(encoder.get_config())
    norms = [
        layer
        for layer in again._flatten_layers()
        if isinstance(layer, FusedBatchNormalization)
    ]
    assert len(norms) > 10
    assert {layer.replicas_per_group for layer in norms} == {"auto"}
    assert FusedBatchNormalization.from_config(norms[0].get_config()).get_config() == (
        norms[0].get_config()
    )
