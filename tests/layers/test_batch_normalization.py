"""Tests of `FusedBatchNormalization`, ghost batches and groups of replicas."""

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
needs_renorm = pytest.mark.skipif(
    not hasattr(keras.layers.BatchNormalization(), "renorm"),
    reason="Keras 3.12 has no batch renormalization",
)


def build_layer(**arguments):
    layer = FusedBatchNormalization(momentum=0.9, **arguments)
    layer.build((None, 5, 4, 3))
    random = np.random.default_rng(1)
    layer.set_weights([random.uniform(0.5, 2.0, size=3) for _ in range(4)])
    return layer


def test_the_gradient_equals_that_of_the_formula():
    """Compares with automatic differentiation in float64."""
    inputs = tf.random.stateless_normal((4, 6, 5, 8), (1, 2)) * 3 + 5
    layer = FusedBatchNormalization(gamma_initializer="random_normal")
    layer.build(inputs.shape)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        total = tf.reduce_sum(tf.sin(layer(inputs, training=True)))
    actual = tape.gradient(total, [inputs, layer.gamma.value, layer.beta.value])
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
    for gradient, expected_gradient in zip(actual, expected, strict=True):
        # The tolerance allows for the rounding of float32.
        np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-4, atol=1e-4)


def results_of(layer, rows):
    """Returns the results of a training step, and the outputs in inference.

    The results are the outputs, the gradients and the weights after the step.
    """
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
        pytest.param({"renorm": True}, marks=needs_renorm),
    ],
    ids=str,
)
def test_results_with_all_arguments_equal_those_of_keras(arguments):
    arguments |= {"gamma_initializer": keras.initializers.RandomUniform(1, 2, seed=1)}
    arguments |= {"beta_initializer": keras.initializers.RandomUniform(1, 2, seed=2)}
    rows = np.random.default_rng(0).normal(2, 3, (4, 6, 5, 8)).astype("float32")
    actual = results_of(FusedBatchNormalization(**arguments), rows)
    expected = results_of(keras.layers.BatchNormalization(**arguments), rows)
    for values, expected_values in zip(actual, expected, strict=True):
        # The kernel sums the 120 values of a channel in another order.
        np.testing.assert_allclose(values, expected_values, rtol=1e-4, atol=2e-5)


def test_ghost_batches_without_scale_equal_separate_batches():
    rows = np.random.default_rng(0).normal(size=(4, 5, 4, 3)).astype("float32")
    layer = FusedBatchNormalization(scale=False, virtual_batch_size=2)
    outputs = layer(tf.constant(rows), training=True)
    keras_layer = keras.layers.BatchNormalization(scale=False)
    expected = [keras_layer(part, training=True) for part in np.split(rows, 2)]
    np.testing.assert_allclose(outputs, np.concatenate(expected), atol=1e-5)


def test_ghost_batches_equal_separate_batches():
    rows = np.random.default_rng(0).normal(size=(6, 5, 4, 3)).astype("float32")
    weights = np.random.default_rng(2).normal(size=rows.shape).astype("float32")
    ghost, plain = build_layer(virtual_batch_size=2), build_layer()
    before = [
        statistic.numpy() for statistic in (plain.moving_mean, plain.moving_variance)
    ]
    inputs = tf.constant(rows)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        loss = tf.reduce_sum(ghost(inputs, training=True) * weights)
    actual = tape.gradient(loss, [inputs, *ghost.trainable_variables])
    gradients, new_statistics = [], []
    for part in (slice(0, 2), slice(2, 4), slice(4, 6)):
        plain.moving_mean.assign(before[0])
        plain.moving_variance.assign(before[1])
        inputs = tf.constant(rows[part])
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            loss = tf.reduce_sum(plain(inputs, training=True) * weights[part])
        gradients.append(tape.gradient(loss, [inputs, *plain.trainable_variables]))
        new_statistics.append(
            [plain.moving_mean.numpy(), plain.moving_variance.numpy()]
        )
    # The fused kernel sums float32 in another order.
    tolerance = {"rtol": 1e-4, "atol": 1e-5}
    np.testing.assert_allclose(
        actual[0], np.concatenate([g[0] for g in gradients]), **tolerance
    )
    for index in (1, 2):
        expected = sum(np.asarray(g[index]) for g in gradients)
        np.testing.assert_allclose(actual[index], expected, **tolerance)
    means, variances = (
        np.mean([statistics[index] for statistics in new_statistics], axis=0)
        for index in (0, 1)
    )
    np.testing.assert_allclose(ghost.moving_mean.numpy(), means, **tolerance)
    np.testing.assert_allclose(ghost.moving_variance.numpy(), variances, **tolerance)
    inference = ghost(tf.constant(rows), training=False)
    ghost.virtual_batch_size = None
    np.testing.assert_array_equal(inference, ghost(tf.constant(rows), training=False))


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_ghost_batches_of_other_dtypes_equal_separate_batches(dtype):
    """The fused kernel doesn't support these dtypes."""
    rows = np.random.default_rng(0).normal(size=(6, 5, 4, 3)).astype(dtype)
    ghost = build_layer(virtual_batch_size=2, dtype=dtype)
    plain = build_layer(dtype=dtype)
    outputs = ghost(tf.constant(rows), training=True)
    parts = [plain(tf.constant(part), training=True) for part in np.split(rows, 3)]
    assert outputs.dtype == dtype
    # float16 has 11 significant bits, and gamma and the offset are about 2.
    tolerance = {"float16": 1e-2, "float64": 1e-6}[dtype]
    np.testing.assert_allclose(outputs, np.concatenate(parts), atol=tolerance)


def test_a_group_of_two_replicas_equals_one_batch(two_replicas):
    """Compares the outputs, the gradients and the moving statistics."""
    assert groups_script.difference(two_replicas, 2, 2, 2) < 1e-5
    # With "auto", up to eight replicas are normalized separately.
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
def test_groups_of_replicas_equal_ghost_batches(count):
    process = subprocess.run(
        [sys.executable, str(SCRIPT), str(count)],
        env={**os.environ, "PYTHONPATH": str(SCRIPT.parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    differences = json.loads(process.stdout.strip().splitlines()[-1])
    sizes = {1: {"auto", "1"}, 4: {"auto", "1", "2", "4"}, 16: {"auto"}}
    assert set(differences) == sizes[count]
    # The float32 sums have another order, and the variance of a group is computed from
    # the mean square.
    assert max(differences.values()) < 1e-5


def test_the_group_size_must_divide_the_number_of_replicas(two_replicas):
    layer = groups_script.build_layer(two_replicas, replicas_per_group=3)
    inputs = tf.zeros((3, 5, 4, 3))
    with pytest.raises(InputError, match="replicas_per_group=3"):
        two_replicas.run(lambda: layer(inputs, training=True))
    # Inference doesn't use batch statistics, so the group size doesn't matter.
    two_replicas.run(lambda: layer(inputs, training=False))


def test_invalid_arguments_are_refused():
    with pytest.raises(InputError, match="synchronized"):
        FusedBatchNormalization(virtual_batch_size=2, synchronized=True)
    with pytest.raises(InputError, match="virtual_batch_size=4"):
        build_layer(virtual_batch_size=4)(tf.zeros((6, 5, 4, 3)), training=True)


def test_the_config_of_an_encoder_restores_the_arguments():
    encoder = ImageEncoder(
        width_coefficient=0.25, depth_coefficient=0.3, replicas_per_group="auto"
    )
    copy = ImageEncoder.from_config(encoder.get_config())
    norms = [
        layer
        for layer in copy._flatten_layers()
        if isinstance(layer, FusedBatchNormalization)
    ]
    assert len(norms) > 10
    assert {layer.replicas_per_group for layer in norms} == {"auto"}
    assert FusedBatchNormalization.from_config(norms[0].get_config()).get_config() == (
        norms[0].get_config()
    )


def test_shared_statistics_need_the_last_axis():
    layer = FusedBatchNormalization(axis=1, virtual_batch_size=2)
    with pytest.raises(InputError, match="axis"):
        layer.build((None, 3, 5, 4))
