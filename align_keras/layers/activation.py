"""Activations with fast gradients, which XLA compiles to one pass over memory.

Automatic differentiation needs six passes or more. Only activations are compiled,
because convolutions and matrix products of XLA are slow on CPUs.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from align_keras.utils.compiled import compiled

# The tanh approximation of GELU equals x · sigmoid(x · (a + b · x²)).
_A = 2.0 * math.sqrt(2.0 / math.pi)
_B = 0.044715 * _A


def activate(name: str, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
    """Applies an activation.

    In inference, the activation consists of plain operations, which converters to other
    runtimes support.

    Args:
        name: name of an activation of Keras. `"silu"`, `"gelu_approximate"` and
            `"gelu"` have compiled gradients.
        inputs: float tensor.
        training: use the compiled gradient.
    """
    if name not in _ACTIVATIONS:
        return keras.activations.get(name)(inputs)
    activation = _ACTIVATIONS[name]
    function = activation.training if training else activation.inference
    return function(inputs)


def _with_gradient(forward: Callable, slope: Callable) -> Callable:
    """Returns the function `forward` with the derivative `slope`."""
    gradient = compiled(lambda inputs, upstream: upstream * slope(inputs))

    @tf.custom_gradient
    def activation(inputs: tf.Tensor) -> tuple[tf.Tensor, Callable]:
        return forward(inputs), lambda upstream: gradient(inputs, upstream)

    return activation


# `tf.nn.silu` adds an IdentityN for its gradient, which other runtimes don't support.
def _silu(x: tf.Tensor) -> tf.Tensor:
    return x * tf.sigmoid(x)


def _silu_slope(x: tf.Tensor) -> tf.Tensor:
    sigmoid = tf.sigmoid(x)
    return sigmoid * (1.0 + x * (1.0 - sigmoid))


def _approximate_gelu(x: tf.Tensor) -> tf.Tensor:
    return x * tf.sigmoid(x * (_A + _B * x * x))


def _approximate_gelu_slope(x: tf.Tensor) -> tf.Tensor:
    square = x * x
    sigmoid = tf.sigmoid(x * (_A + _B * square))
    return sigmoid + x * sigmoid * (1.0 - sigmoid) * (_A + 3.0 * _B * square)


def _normal_cdf(x: tf.Tensor) -> tf.Tensor:
    """Returns the cumulative distribution function of the standard normal at `x`."""
    z = x * math.sqrt(0.5)
    # In TensorFlow 2.21, the `erf` of XLA returns at most 1 - 1.8e-7, and GELU
    # multiplies this error by `x`. Above 4, `erf` is exactly 1 in float32.
    erf = tf.where(tf.abs(z) < 4.0, tf.math.erf(z), tf.sign(z))
    return 0.5 * (1.0 + erf)


def _gelu(x: tf.Tensor) -> tf.Tensor:
    return x * _normal_cdf(x)


def _gelu_slope(x: tf.Tensor) -> tf.Tensor:
    density = tf.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)
    return _normal_cdf(x) + x * density


@dataclasses.dataclass(frozen=True)
class _Activation:
    """Implementations of an activation, functions of one tensor."""

    inference: Callable
    training: Callable


_ACTIVATIONS = {
    # The forward pass of silu isn't compiled, since oneDNN has a kernel for it.
    "silu": _Activation(
        inference=_silu,
        training=_with_gradient(_silu, _silu_slope),
    ),
    "gelu_approximate": _Activation(
        inference=functools.partial(tf.nn.gelu, approximate=True),
        training=_with_gradient(compiled(_approximate_gelu), _approximate_gelu_slope),
    ),
    "gelu": _Activation(
        inference=functools.partial(tf.nn.gelu, approximate=False),
        training=_with_gradient(compiled(_gelu), _gelu_slope),
    ),
}


@keras.saving.register_keras_serializable(package="align_keras")
class Activation(keras.layers.Layer):
    """Layer like `keras.layers.Activation`, but faster in training.

    Args:
        activation: name of an activation of Keras. `"silu"`, `"gelu_approximate"`
            and `"gelu"` have compiled gradients.

    Example:

    >>> Activation("relu6")(tf.constant([-1.0, 7.0])).numpy().tolist()
    [0.0, 6.0]
    """

    def __init__(self, activation: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.activation = activation
        self.supports_masking = True

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        return activate(self.activation, inputs, training)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return input_shape

    def get_config(self) -> dict:
        return {**super().get_config(), "activation": self.activation}
