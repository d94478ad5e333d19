"""Tests of batch normalization, MBConv, L2 normalization and temperature."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from align_keras.layers import (
    FusedBatchNormalization,
    L2Normalization,
    MBConvBlock,
    Temperature,
)
from align_keras.utils.errors import InputError


def random_images(seed=0, shape=(4, 6, 6, 5)):
    return np.random.default_rng(seed).normal(2.0, 3.0, shape).astype("float32")


@pytest.mark.parametrize("training", [True, False])
def test_fused_batch_normalization_equals_that_of_keras(training):
    layers = [FusedBatchNormalization(), keras.layers.BatchNormalization()]
    results = []
    for layer in layers:
        layer.build((None, 6, 6, 5))
        layer.gamma.assign(np.linspace(0.5, 2.0, 5))
        inputs = tf.constant(random_images())
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = layer(inputs, training=training)
            loss = tf.reduce_sum(outputs**3)
        variables = [inputs, layer.gamma.value, layer.beta.value]
        results.append(
            [outputs, layer.moving_mean, layer.moving_variance]
            + tape.gradient(loss, variables)
        )
    for actual, expected in zip(*results, strict=True):
        # 144 float32 values of about 30 are summed in another order.
        np.testing.assert_allclose(actual, expected, rtol=2e-4, atol=2e-4)


def test_frozen_batch_normalization_does_not_update_its_statistics():
    layer = FusedBatchNormalization()
    layer.build((None, 6, 6, 5))
    layer.trainable = False
    layer(random_images(), training=True)
    assert not layer.moving_mean.numpy().any()


def test_a_block_adds_its_input_to_the_residual_branch():
    block = MBConvBlock(8, 8)
    inputs = random_images(shape=(2, 6, 6, 8))
    full = block(inputs)
    assert block.has_residual
    block.project_norm.gamma.assign(np.zeros(8))
    np.testing.assert_allclose(block(inputs), inputs, atol=1e-6)
    assert np.abs(full - inputs).max() > 1e-3


@pytest.mark.parametrize(("size", "expected"), [(8, 4), (9, 4), (7, 3)])
def test_a_block_of_stride_2_has_the_output_size_of_hugging_face(size, expected):
    block = MBConvBlock(4, 8, kernel_size=5, strides=2, padding="hugging_face")
    outputs = block(random_images(shape=(1, size, size, 4)))
    assert outputs.shape == (1, expected, expected, 8)
    assert block.compute_output_shape((1, size, size, 4)) == outputs.shape


@pytest.mark.parametrize("kernel_size", [3, 5])
def test_a_block_of_stride_2_has_equal_outputs_for_unknown_sizes(kernel_size):
    block = MBConvBlock(4, 8, kernel_size=kernel_size, strides=2)
    block.build((None, 8, 10, 4))
    inputs = random_images(shape=(2, 8, 10, 4))
    signature = [tf.TensorSpec((None, None, None, 4), "float32")]
    padded = tf.function(block.__call__, input_signature=signature)
    # Another kernel computes the same sums.
    np.testing.assert_allclose(block(inputs), padded(inputs), atol=1e-5)


def test_drop_connect_drops_the_branch_of_whole_examples():
    keras.utils.set_random_seed(0)
    block = MBConvBlock(8, 8, drop_connect_rate=0.5)
    inputs = random_images(shape=(64, 4, 4, 8))
    branch = np.abs(block(inputs, training=True) - inputs).max(axis=(1, 2, 3))
    dropped = (branch == 0).mean()
    assert 0.2 < dropped < 0.8


def test_l2_normalization_of_zero_is_zero():
    rows = L2Normalization()(np.array([[3.0, 4.0], [0.0, 0.0]], "float32"))
    np.testing.assert_allclose(rows, [[0.6, 0.8], [0.0, 0.0]], atol=1e-7)


def test_temperature_divides_its_inputs():
    layer = Temperature(0.1)
    assert float(layer.temperature) == pytest.approx(0.1)
    np.testing.assert_allclose(layer(np.array([0.5], "float32")), [5.0], rtol=1e-6)


@pytest.mark.parametrize(
    "layer", [MBConvBlock(8, 16, strides=2), L2Normalization(), Temperature(0.3)]
)
def test_a_copy_from_the_config_has_the_same_config(layer):
    assert (
        type(layer).from_config(layer.get_config()).get_config() == layer.get_config()
    )


@pytest.mark.parametrize("value", [0, -1.0, float("nan")])
def test_temperatures_that_are_not_positive_are_refused(value):
    with pytest.raises(InputError, match="initial_temperature"):
        Temperature(value)
