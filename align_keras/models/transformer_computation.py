"""Faster computation of KerasHub's transformer layers, with the same weights."""

import functools
import operator
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from align_keras.layers.activation import activate
from align_keras.utils.errors import InputError

# Newest versions with which the tests pass. This module uses private attributes, so a
# later version may break it.
TESTED = {"keras": "3.15", "keras-hub": "0.32"}
_ATTENTION = ("_query_dense", "_key_dense", "_value_dense", "_output_dense")
_PRIVATE = (
    "_self_attention_layer._query_dense",
    "_self_attention_layer._key_dense",
    "_self_attention_layer._value_dense",
    "_self_attention_layer._output_dense",
    "_self_attention_dropout",
    "_self_attention_layer_norm",
    "_feedforward_intermediate_dense",
    "_feedforward_output_dense",
    "_feedforward_dropout",
    "_feedforward_layer_norm",
)


def set_transformer_computation(
    layers: Sequence[keras.layers.Layer], activation: str, first_token_only: bool
) -> None:
    """Replaces the computation of the layers of a text backbone.

    The weights and their paths don't change. The attention of KerasHub uses batched
    matrix products, whose gradients are computed for each row of the batch. The
    replacement computes one product over all tokens.

    Args:
        layers: sequence of `TransformerEncoder`.
        activation: activation of the feed-forward layers.
        first_token_only: compute only the [CLS] token in the last layer, if the
            pooling uses no other token.
    """
    _check_parts(layers)
    for layer in layers:
        for name in _ATTENTION:
            dense = getattr(layer._self_attention_layer, name)
            dense.call = functools.partial(_product, dense)
        intermediate = layer._feedforward_intermediate_dense
        intermediate.activation = functools.partial(activate, activation)
        intermediate.call = functools.partial(_activated, intermediate, activation)
    if first_token_only:
        last = layers[-1]
        last.call = functools.partial(_first_token, last)


def infer_while_frozen(
    layer: keras.layers.Layer, flagged_layer: keras.layers.Layer
) -> None:
    """Replaces `call` of a layer, so that it has no dropout while it is frozen.

    Args:
        layer: Keras layer with one tensor as its first input.
        flagged_layer: layer whose `trainable` decides. It is read when the layer is
            called.
    """
    call = layer.call

    def guarded(
        inputs: tf.Tensor, *, training: bool | None = None, **arguments: Any
    ) -> tf.Tensor:
        is_training = training and flagged_layer.trainable
        return call(inputs, training=is_training, **arguments)

    layer.call = guarded


def _check_parts(layers: Sequence[keras.layers.Layer]) -> None:
    """Raises unless the layers have the private attributes that this module uses."""
    for layer in layers:
        for name in _PRIVATE:
            try:
                operator.attrgetter(name)(layer)
            except AttributeError:
                import keras_hub

                versions = " ".join(f"'{name}=={TESTED[name]}.*'" for name in TESTED)
                raise InputError(
                    "keras and keras-hub must have versions whose transformer layers "
                    f"have {name}. Received: keras {keras.__version__} and keras-hub "
                    f"{keras_hub.__version__}. Run `pip install {versions}`."
                ) from None


def _first_token(
    layer: keras.layers.Layer,
    inputs: tf.Tensor,
    padding_mask: tf.Tensor | None = None,
    training: bool | None = None,
) -> tf.Tensor:
    """Returns the first output token of a `TransformerEncoder`, (n, 1, width)."""
    x = inputs[:, :1]
    attended = layer._self_attention_layer(
        query=x,
        value=inputs,
        # LiteRT can't convert the index `[:, None]`.
        attention_mask=keras.ops.expand_dims(padding_mask, 1),
        training=training,
    )
    x = x + layer._self_attention_dropout(attended, training=training)
    x = layer._self_attention_layer_norm(x)
    hidden = layer._feedforward_intermediate_dense(x, training=training)
    hidden = layer._feedforward_output_dense(hidden)
    x = x + layer._feedforward_dropout(hidden, training=training)
    return layer._feedforward_layer_norm(x)


def _product(
    dense: keras.layers.Layer, inputs: tf.Tensor, training: bool | None = None
) -> tf.Tensor:
    """Computes an `EinsumDense` over the last axes as one matrix product."""
    contracted = inputs.shape[2:]
    outer = dense.kernel.shape[len(contracted) :]
    width = contracted.num_elements()
    rows = keras.ops.reshape(inputs, (-1, width))
    outputs = rows @ keras.ops.reshape(dense.kernel, (width, -1))
    outputs += keras.ops.reshape(dense.bias, (-1,))
    length = inputs.shape[1] or keras.ops.shape(inputs)[1]
    return keras.ops.reshape(outputs, (-1, length, *outer))


def _activated(
    dense: keras.layers.Layer,
    activation: str,
    inputs: tf.Tensor,
    training: bool | None = None,
) -> tf.Tensor:
    """Computes a `Dense` layer whose activation depends on `training`."""
    outputs = keras.ops.matmul(inputs, dense.kernel)
    return activate(activation, keras.ops.add(outputs, dense.bias), training)
