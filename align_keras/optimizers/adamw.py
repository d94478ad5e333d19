"""AdamW with exclusions and learning-rate multipliers by the variables' paths."""

import math

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from align_keras.optimizers.multipliers import LearningRateMultipliers


class _DecayedAdam(keras.optimizers.Adam):
    """Adam whose update begins with the decay, at the variable's rate."""

    def update_step(self, gradient, variable, learning_rate):
        if not self.is_excluded(variable):
            rate = ops.cast(learning_rate, variable.dtype)
            self.assign_sub(variable, variable * (rate * self.decoupled_decay))
        self._undecayed_update(gradient, variable, learning_rate)

    def _undecayed_update(self, gradient, variable, learning_rate):
        if self.amsgrad or variable.dtype != "float32":
            super().update_step(gradient, variable, learning_rate)
        else:
            self._fused_update(gradient, variable, learning_rate)

    def _fused_update(self, gradient, variable, learning_rate):
        """Keras's update by one kernel instead of a dozen."""
        index = self._get_variable_index(variable)
        step = tf.cast(self.iterations + 1, "float32")
        scale_1, scale_2 = (_rounding(b) for b in (self.beta_1, self.beta_2))
        correction = tf.sqrt(1.0 - self.beta_2**step) / (1.0 - self.beta_1**step)
        tf.raw_ops.ResourceApplyAdam(
            var=_tensorflow_variable(variable).handle,
            m=_tensorflow_variable(self._momentums[index]).handle,
            v=_tensorflow_variable(self._velocities[index]).handle,
            # The correction of the bias is in the learning rate.
            beta1_power=0.0,
            beta2_power=0.0,
            lr=learning_rate * correction * (math.sqrt(scale_2) / scale_1),
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon * math.sqrt(scale_2),
            # Dense: an embedding's slices may repeat a row, and count as its sum.
            grad=tf.cast(tf.convert_to_tensor(gradient), "float32"),
        )


def _rounding(beta):
    """The factor by which the kernel's float32 `1 - beta`, so its moments, is too
    large.
    """
    return float(np.float32(1.0) - np.float32(beta)) / (1.0 - beta)


def _tensorflow_variable(variable):
    """Keras's variable or, inside an update of a strategy, TensorFlow's."""
    return variable.value if isinstance(variable, keras.Variable) else variable


@keras.saving.register_keras_serializable(package="align_keras")
class AdamW(LearningRateMultipliers, _DecayedAdam):
    """`keras.optimizers.AdamW`, with the arguments of our `Lamb`.

    Its numbers are Keras's, by one kernel a variable. Of an embedding's gradient
    with repeated rows it takes the sum, as of a dense one; Keras would square
    each by itself.

    Args:
        learning_rate: float or `keras.optimizers.schedules.LearningRateSchedule`.
        beta_1: float in [0, 1), decay of the first moment.
        beta_2: float in [0, 1), decay of the second moment.
        epsilon: float > 0.
        weight_decay: float ≥ 0, decoupled: learning rate · decay · weight.
        **kwargs: as `LearningRateMultipliers` (`exclusions` aren't decayed) and
            `keras.optimizers.Adam`.

    References:
        Loshchilov and Hutter 2019, "Decoupled weight decay regularization".

    Example:

    >>> weight = keras.Variable([1.0], name="kernel")
    >>> optimizer = AdamW(0.1, weight_decay=0.0,
    ...     learning_rate_multipliers={"kernel": 0.5})
    >>> optimizer.apply([keras.ops.array([3.0])], [weight])
    >>> round(float(weight.numpy()[0]), 3)
    0.95
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 1e-3,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        weight_decay: float = 1e-5,
        name: str = "adamw",
        **kwargs,
    ):
        super().__init__(
            learning_rate=learning_rate,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            name=name,
            **kwargs,
        )
        self.decoupled_decay = weight_decay

    def get_config(self) -> dict:
        return {**super().get_config(), "weight_decay": self.decoupled_decay}
