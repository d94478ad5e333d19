"""Activations whose gradients are one pass over memory, compiled by XLA.

Automatic differentiation makes six and more. Convolutions and matrix products stay
outside: XLA is slow at those on CPU.
"""

import functools
import math
from collections.abc import Callable

import keras
import tensorflow as tf

from align_keras.utils.compiled import compiled

# GELU by tanh is x · sigmoid(x · (a + b · x²)).
_A = 2.0 * math.sqrt(2.0 / math.pi)
_B = 0.044715 * _A


def activate(name: str, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
    """Applies an activation, in inference by operations that other runtimes have.

    Others than `"silu"`, `"gelu_approximate"` and `"gelu"` are Keras's, never compiled.
    """
    if name not in _ACTIVATIONS:
        return keras.activations.get(name)(inputs)
    plain, trainable = _ACTIVATIONS[name]
    return (trainable if training else plain)(inputs)


def _with_gradient(forward, slope):
    """Returns `forward` of one tensor, with `slope(inputs)` as its derivative."""
    gradient = compiled(lambda inputs, upstream: upstream * slope(inputs))

    @tf.custom_gradient
    def activation(inputs):
        return forward(inputs), lambda upstream: gradient(inputs, upstream)

    return activation


# `tf.nn.silu` adds an IdentityN for its gradient, which other runtimes lack.
def _silu(x):
    return x * tf.sigmoid(x)


def _silu_slope(x):
    sigmoid = tf.sigmoid(x)
    return sigmoid * (1.0 + x * (1.0 - sigmoid))


def _approximate_gelu(x):
    return x * tf.sigmoid(x * (_A + _B * x * x))


def _approximate_gelu_slope(x):
    square = x * x
    sigmoid = tf.sigmoid(x * (_A + _B * square))
    return sigmoid + x * sigmoid * (1.0 - sigmoid) * (_A + 3.0 * _B * square)


def _normal_share(x):
    """Returns the standard normal distribution's share below `x`."""
    z = x * math.sqrt(0.5)
    # XLA's erf of TensorFlow 2.21 stays 1.8e-7 below 1, which GELU multiplies by `x`;
    # beyond 4 it is 1 in float32.
    erf = tf.where(tf.abs(z) < 4.0, tf.math.erf(z), tf.sign(z))
    return 0.5 * (1.0 + erf)


def _gelu(x):
    return x * _normal_share(x)


def _gelu_slope(x):
    density = tf.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)
    return _normal_share(x) + x * density


# Name → in inference, in training. Swish forwards is a kernel of oneDNN's.
_ACTIVATIONS: dict[str, tuple[Callable, Callable]] = {
    "silu": (_silu, _with_gradient(_silu, _silu_slope)),
    "gelu_approximate": (
        functools.partial(tf.nn.gelu, approximate=True),
        _with_gradient(compiled(_approximate_gelu), _approximate_gelu_slope),
    ),
    "gelu": (
        functools.partial(tf.nn.gelu, approximate=False),
        _with_gradient(compiled(_gelu), _gelu_slope),
    ),
}


@keras.saving.register_keras_serializable(package="align_keras")
class Activation(keras.layers.Layer):
    """`keras.layers.Activation`, faster in training.

    Args:
        activation: str, as Keras's; `"silu"`, `"gelu_approximate"` and `"gelu"` have
            compiled gradients.

    Example:

    >>> Activation("relu6")(tf.constant([-1.0, 7.0])).numpy().tolist()
    [0.0, 6.0]
    """

    def __init__(self, activation: str, **kwargs):
        super().__init__(**kwargs)
        self.activation = activation
        self.supports_masking = True

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        return activate(self.activation, inputs, training)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return input_shape

    def get_config(self) -> dict:
        return {**super().get_config(), "activation": self.activation}
