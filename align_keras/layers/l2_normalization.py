"""Normalization of embeddings to unit length."""

from typing import Any

import keras
import tensorflow as tf
from keras import ops


@keras.saving.register_keras_serializable(package="align_keras")
class L2Normalization(keras.layers.Layer):
    """Layer that scales each row to unit length, in float32 under any policy.

    Args:
        epsilon: > 0, smallest divisor. With it, a row of zeros stays zero and has
            a finite gradient.

    Call arguments:
        inputs: float tensor (n, d).

    References:
        Jia et al. 2021, section 4.1 (cosine similarity).

    Example:

    >>> float(tf.norm(L2Normalization()(tf.constant([[3.0, 4.0]]))))
    1.0
    """

    def __init__(self, epsilon: float = 1e-12, **kwargs: Any) -> None:
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        self.epsilon = epsilon

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        square = ops.sum(ops.square(inputs), axis=-1, keepdims=True)
        return inputs * ops.rsqrt(ops.maximum(square, self.epsilon**2))

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return input_shape

    def get_config(self) -> dict:
        return {**super().get_config(), "epsilon": self.epsilon}
