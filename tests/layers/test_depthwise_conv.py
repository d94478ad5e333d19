"""Test that the faster gradients of depthwise convolutions equal those of Keras."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from align_keras.layers.depthwise_conv import depthwise_conv


def outputs_and_gradients(function, inputs, kernel, upstream):
    """Returns the outputs and both gradients in a graph, which oneDNN changes."""

    @tf.function
    def compute():
        with tf.GradientTape() as tape:
            tape.watch([inputs, kernel])
            outputs = function(inputs, kernel)
        gradients = tape.gradient(outputs, [inputs, kernel], output_gradients=upstream)
        return outputs, *gradients

    return compute()


@pytest.mark.parametrize(
    "side, size, strides, padding",
    [(7, 3, 1, "same"), (8, 5, 2, "same"), (7, 3, 2, "valid"), (8, 5, 1, "valid")],
)
def test_gradients_equal_those_of_keras(side, size, strides, padding):
    random = np.random.default_rng(0)
    inputs = tf.constant(random.normal(size=(2, side, side + 2, 6)), tf.float32)
    kernel = tf.constant(random.normal(size=(size, size, 6, 1)), tf.float32)

    def of_keras(inputs, kernel):
        return keras.ops.depthwise_conv(
            inputs, kernel, strides=strides, padding=padding
        )

    def fast(inputs, kernel):
        return depthwise_conv(inputs, kernel, strides, padding, training=True)

    shape = of_keras(inputs, kernel).shape
    upstream = tf.constant(random.normal(size=shape), tf.float32)
    expected = outputs_and_gradients(of_keras, inputs, kernel, upstream)
    actual = outputs_and_gradients(fast, inputs, kernel, upstream)
    for value, expected_value in zip(actual, expected, strict=True):
        # The kernels sum up to 126 products in float32 in another order.
        np.testing.assert_allclose(value, expected_value, rtol=1e-5, atol=1e-4)


def test_inference_has_the_operation_of_keras():
    inputs = tf.zeros((1, 8, 8, 6))
    kernel = tf.zeros((5, 5, 6, 1))

    def operations(training):
        graph = tf.function(
            lambda: depthwise_conv(inputs, kernel, 1, "same", training)
        ).get_concrete_function()
        return {operation.type for operation in graph.graph.get_operations()}

    # Other runtimes do not support the operation IdentityN.
    assert "IdentityN" not in operations(False) | operations(None)
    assert "IdentityN" in operations(True)
