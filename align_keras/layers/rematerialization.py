"""Rematerialization, which computes activations again instead of storing them."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf


def rematerialized_call(
    layer: keras.layers.Layer, call: Callable, inputs: tf.Tensor
) -> tf.Tensor:
    """Calls a layer whose activations the backward pass computes again.

    The values, the gradients and the state (dropout seeds and moving statistics) equal
    those of a plain call. `tf.recompute_grad` would change the state twice.

    Args:
        layer: Keras layer.
        call: function of one tensor that uses the variables of the layer.
        inputs: float tensor.

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
            # The second computation must wait for the upstream gradient. Otherwise
            # TensorFlow could merge both computations and store the activations, and it
            # would create the 16-bit copies of the weights at the start of the step.
            with tf.control_dependencies([upstream]), tf.GradientTape() as tape:
                delayed_inputs = _after(inputs, upstream)
                tape.watch(delayed_inputs)
                outputs = call(delayed_inputs)
            gradients = tape.gradient(outputs, [delayed_inputs, *variables], upstream)
            _assign(state, after)
            return gradients[0], gradients[1:]

        return call(inputs), gradient

    return run(inputs)


def _after(values: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
    """Returns the values with a data dependency on the upstream gradient."""
    # XLA ignores control dependencies between operations without side effects. A
    # number that is always 0 is therefore added, which XLA can't infer.
    if tf.executing_eagerly():
        return tf.identity(values)
    element = tf.reshape(upstream, [-1])[0]
    zero = tf.minimum(tf.abs(element), tf.zeros_like(element))
    return values + tf.cast(zero, values.dtype)


def rematerialize_in_training(layer: keras.layers.Layer) -> None:
    """Replaces `call` of a Keras layer by a rematerialized call.

    The layer must have a single tensor as input.
    """
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
