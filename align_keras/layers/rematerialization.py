"""Memory for time: a layer's inner activations are computed twice, not kept."""

from collections.abc import Callable

import keras
import tensorflow as tf


def rematerialized_call(
    layer: keras.layers.Layer, call: Callable, inputs: tf.Tensor
) -> tf.Tensor:
    """Calls a layer so that the backward pass computes `call`, of its variables, again.

    Values, gradients and state (seeds of dropout, moving statistics) equal those of a
    plain call, unlike `tf.recompute_grad`'s. Chen et al. 2016, "Training Deep Nets with
    Sublinear Memory Cost".
    """
    state = layer.non_trainable_variables
    before = [tf.identity(variable.value) for variable in state]

    @tf.custom_gradient
    def run(inputs):
        def gradient(upstream, variables=None):
            variables = variables or []
            after = [tf.identity(variable.value) for variable in state]
            _assign(state, before)
            # All of it waits for the gradient from above. Both computations could
            # be merged into one otherwise, whose activations would be kept, and the
            # 16-bit copies of the weights would be made when the step begins.
            with tf.control_dependencies([upstream]), tf.GradientTape() as tape:
                again = _after(inputs, upstream)
                tape.watch(again)
                outputs = call(again)
            gradients = tape.gradient(outputs, [again, *variables], upstream)
            _assign(state, after)
            return gradients[0], gradients[1:]

        return call(inputs), gradient

    return run(inputs)


def _after(values, upstream):
    """Returns the values by operations that need the gradient from above.

    XLA heeds no control dependencies between operations without side effects. What is
    added is 0, which XLA cannot know.
    """
    if tf.executing_eagerly():
        return tf.identity(values)
    element = tf.reshape(upstream, [-1])[0]
    zero = tf.minimum(tf.abs(element), tf.zeros_like(element))
    return values + tf.cast(zero, values.dtype)


def rematerialize_in_training(layer: keras.layers.Layer) -> None:
    """Makes a built-in layer of one tensor compute again in its backward pass."""
    call = layer.call

    def rematerialized(inputs, training=None, **arguments):
        def forward(inputs):
            return call(inputs, training=training, **arguments)

        if training and layer.trainable:
            return rematerialized_call(layer, forward, inputs)
        return forward(inputs)

    layer.call = rematerialized


def _assign(variables, values):
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
