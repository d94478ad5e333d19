"""The learned temperature that the similarities are divided by."""

import math

import keras
import tensorflow as tf
from keras import ops

from align_keras.utils.errors import InputError


@keras.saving.register_keras_serializable(package="align_keras")
class Temperature(keras.layers.Layer):
    """Holds the temperature; called on cosines, it divides them by it.

    The variable is the temperature's logarithm, so that no optimizer step can
    make the temperature zero or negative. (The paper doesn't say; Hugging
    Face's port holds the temperature itself.)

    Args:
        initial_temperature: float > 0.
        trainable: bool; False for the paper's fixed-temperature ablation.

    Call arguments:
        inputs: float tensor of cosines, any shape.

    References:
        Jia et al. 2021, section 4.1 and table 8: initialized to 1.0, learned.

    Example:

    >>> float(Temperature(0.5)(tf.constant(0.25)))
    0.5
    """

    def __init__(self, initial_temperature: float = 1.0, **kwargs):
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        if not initial_temperature > 0:
            raise InputError(
                "initial_temperature must be positive, received "
                f"{initial_temperature}; the paper starts at 1.0."
            )
        self.initial_temperature = float(initial_temperature)
        self.log_temperature = self.add_weight(
            name="log_temperature",
            shape=(),
            initializer=keras.initializers.Constant(math.log(initial_temperature)),
        )

    @property
    def temperature(self) -> tf.Tensor:
        """Scalar float32 tensor."""
        return ops.exp(self.log_temperature)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return inputs / self.temperature

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return input_shape

    def get_config(self) -> dict:
        return {**super().get_config(), "initial_temperature": self.initial_temperature}
