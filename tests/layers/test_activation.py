"""Tests that compare activations with compiled gradients with those of Keras."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from align_keras.layers import Activation
from align_keras.layers.activation import activate

REFERENCES = {
    "silu": keras.activations.silu,
    "gelu_approximate": lambda x: keras.ops.gelu(x, approximate=True),
    "gelu": lambda x: keras.ops.gelu(x, approximate=False),
    "relu6": keras.activations.relu6,
}


def value_and_gradient(function, inputs, upstream, in_graph):
    def compute(inputs, upstream):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = function(inputs)
        return outputs, tape.gradient(outputs, inputs, upstream)

    return (tf.function(compute) if in_graph else compute)(inputs, upstream)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", REFERENCES)
def test_values_and_gradients_equal_those_of_keras(name, training):
    random = np.random.default_rng(0)
    inputs = random.normal(0, 4, (50, 7)).astype("float32")
    inputs[0] = [0.0, -100.0, 100.0, -1e-30, 1e4, -1e4, 30.0]
    inputs = tf.constant(inputs)
    upstream = tf.constant(random.normal(size=(50, 7)).astype("float32"))
    actual = value_and_gradient(
        lambda x: activate(name, x, training), inputs, upstream, in_graph=True
    )
    expected = value_and_gradient(REFERENCES[name], inputs, upstream, in_graph=True)
    for values, expected_values in zip(actual, expected, strict=True):
        # The same formula is rounded differently in float32. GELU of Keras adds 1 to a
        # tanh near -1, which loses digits.
        np.testing.assert_allclose(values, expected_values, rtol=2e-5, atol=1e-5)


def test_bfloat16_inputs_have_bfloat16_outputs_and_gradients():
    inputs = tf.cast(tf.linspace(-3.0, 3.0, 20), "bfloat16")
    outputs, gradient = value_and_gradient(
        lambda x: activate("silu", x, True), inputs, tf.ones_like(inputs), True
    )
    assert outputs.dtype == gradient.dtype == "bfloat16"
    _, expected = value_and_gradient(
        tf.nn.silu, tf.cast(inputs, "float32"), tf.ones(20), True
    )
    # bfloat16 has 8 significant bits, and the slope is at most 1.1.
    np.testing.assert_allclose(tf.cast(gradient, "float32"), expected, atol=0.02)


def test_silu_has_equal_outputs_in_training_and_inference():
    inputs = keras.random.normal((40, 8), seed=0)
    layer = Activation("silu")
    np.testing.assert_array_equal(layer(inputs, training=True), layer(inputs))
    assert Activation.from_config(layer.get_config()).activation == "silu"


def test_the_layer_passes_masks_on():
    values = tf.ones((2, 3, 4))
    values._keras_mask = tf.constant([[True, True, False]] * 2)
    for layer in (Activation("gelu"), keras.layers.Activation("gelu")):
        assert layer.supports_masking
        assert layer(values)._keras_mask is values._keras_mask
