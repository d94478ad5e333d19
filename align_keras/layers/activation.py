"""An activation as a layer, compiled in training."""

import keras

from align_keras.layers.compiled_activations import activate


@keras.saving.register_keras_serializable(package="align_keras")
class Activation(keras.layers.Layer):
    """`keras.layers.Activation`, faster in training.

    Args:
        activation: str, as `activate`.

    Call arguments:
        inputs: float tensor.
        training: bool.

    Returns:
        Tensor like `inputs`.

    Example:

    >>> import numpy as np
    >>> Activation("relu6")(np.array([-1.0, 7.0], "float32")).numpy().tolist()
    [0.0, 6.0]
    """

    def __init__(self, activation, **kwargs):
        super().__init__(**kwargs)
        self.activation = activation

    def call(self, inputs, training=None):
        return activate(self.activation, inputs, training)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "activation": self.activation}
