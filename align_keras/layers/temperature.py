"""Learned temperature that divides the similarities."""

import math
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from align_keras.utils.errors import InputError


@keras.saving.register_keras_serializable(package="align_keras")
class Temperature(keras.layers.Layer):
    """Layer that divides cosines by a learned temperature.

    The variable is the logarithm of the temperature, so the temperature stays positive
    after any update. The paper doesn't describe the variable. In the port of Hugging
    Face, the variable is the temperature.

    Args:
        initial_temperature: > 0, temperature before training.
        trainable: train the temperature. False is the ablation of the paper with
            a fixed temperature.

    Call arguments:
        inputs: float tensor of cosines, any shape.

    References:
        Jia et al. 2021, section 5 (learned, initially 1) and table 8.

    Example:

    >>> float(Temperature(0.5)(tf.constant(0.25)))
    0.5
    """

    def __init__(self, initial_temperature: float = 1.0, **kwargs: Any) -> None:
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        if not initial_temperature > 0:
            raise InputError(
                "initial_temperature must be positive. Received: "
                f"initial_temperature={initial_temperature}. Use 1.0, as in the paper."
            )
        self.initial_temperature = float(initial_temperature)
        self.log_temperature = self.add_weight(
            name="log_temperature",
            shape=(),
            initializer=keras.initializers.Constant(math.log(initial_temperature)),
        )

    @property
    def temperature(self) -> tf.Tensor:
        """Current temperature, a scalar float32 tensor."""
        return ops.exp(self.log_temperature)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return inputs / self.temperature

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return input_shape

    def get_config(self) -> dict:
        return {**super().get_config(), "initial_temperature": self.initial_temperature}
