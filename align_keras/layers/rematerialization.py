"""Rematerialization: activations are computed twice instead of being kept."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf


def rematerialized_call(
    layer: keras.layers.Layer, call: Callable, inputs: tf.Tensor
) -> tf.Tensor:
    """Calls a layer so that the backward pass computes it again.

    Values, gradients and state (seeds of dropout, moving statistics) equal those of a
    plain call, unlike those of `tf.recompute_grad`.

    Args:
        layer: Keras layer.
        call: function of one tensor that uses the layer's variables.
        inputs: tensor.

    References:
        Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost".
    """
    state = layer.non_trainable_variables
    before = [tf.identity(variable.value) for variable in state]

    @tf.custom_gradient
    def run(inputs: tf.Tensor) -> tuple[tf.Tensor, Callable]:
        def gradient(
            upstream: tf.Tensor, variables: list[tf.Variable] | None = None
        ) -> tuple[tf.Tensor, list[tf.Tensor]]:
            variables = variables or []
            after = [tf.identity(variable.value) for variable in state]
            _assign(state, before)
            # The second computation waits for the upstream gradient. Otherwise
            # TensorFlow could merge both computations and keep the activations, and
            # would make the 16-bit copies of the weights at the start of the step.
            with tf.control_dependencies([upstream]), tf.GradientTape() as tape:
                again = _after(inputs, upstream)
                tape.watch(again)
                outputs = call(again)
            gradients = tape.gradient(outputs, [again, *variables], upstream)
            _assign(state, after)
            return gradients[0], gradients[1:]

        return call(inputs), gradient

    return run(inputs)


def _after(values: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
    """Returns the values by operations that depend on the upstream gradient.

    XLA ignores control dependencies between operations without side effects. The added
    number is 0, which XLA can't infer.
    """
    if tf.executing_eagerly():
        return tf.identity(values)
    element = tf.reshape(upstream, [-1])[0]
    zero = tf.minimum(tf.abs(element), tf.zeros_like(element))
    return values + tf.cast(zero, values.dtype)


def rematerialize_in_training(layer: keras.layers.Layer) -> None:
    """Makes a built-in layer of one tensor compute again in the backward pass."""
    call = layer.call

    def rematerialized(
        inputs: tf.Tensor, training: bool | None = None, **arguments: Any
    ) -> tf.Tensor:
        def forward(inputs: tf.Tensor) -> tf.Tensor:
            return call(inputs, training=training, **arguments)

        if training and layer.trainable:
            return rematerialized_call(layer, forward, inputs)
        return forward(inputs)

    layer.call = rematerialized


def _assign(variables: list[keras.Variable], values: list[tf.Tensor]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
