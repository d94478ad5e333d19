"""AdamW with exclusions and learning-rate multipliers by the variables' paths."""

import re

import keras
from keras import ops

from align_keras.optimizers.lamb import DEFAULT_EXCLUSIONS
from align_keras.optimizers.multipliers import LearningRateMultipliers


class _DecayedAdam(keras.optimizers.Adam):
    """Adam whose update begins with the decay, at the variable's own rate."""

    def update_step(self, gradient, variable, learning_rate):
        path = self.path_of(variable)
        if not any(re.search(pattern, path) for pattern in self.exclusions):
            rate = ops.cast(learning_rate, variable.dtype)
            self.assign_sub(variable, variable * (rate * self.decoupled_decay))
        super().update_step(gradient, variable, learning_rate)


@keras.saving.register_keras_serializable(package="align_keras")
class AdamW(LearningRateMultipliers, _DecayedAdam):
    """`keras.optimizers.AdamW`, with the arguments of our `Lamb`.

    Args:
        learning_rate: float or `keras.optimizers.schedules.LearningRateSchedule`.
        beta_1: float in [0, 1), decay of the first moment.
        beta_2: float in [0, 1), decay of the second moment.
        epsilon: float > 0.
        weight_decay: float ≥ 0, decoupled: learning rate · decay · weight.
        exclusions: sequence of regular expressions, searched in the variable's
            path: no decay.
        learning_rate_multipliers: dict from regular expression to float > 0, as
            `LearningRateMultipliers`.
        **kwargs: as `keras.optimizers.Adam`.

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
        learning_rate=1e-3,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-7,
        weight_decay=1e-5,
        exclusions=DEFAULT_EXCLUSIONS,
        learning_rate_multipliers=None,
        name="adamw",
        **kwargs,
    ):
        super().__init__(
            learning_rate=learning_rate,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            learning_rate_multipliers=learning_rate_multipliers,
            name=name,
            **kwargs,
        )
        self.decoupled_decay = weight_decay
        self.exclusions = tuple(exclusions)

    def get_config(self):
        return {
            **super().get_config(),
            "weight_decay": self.decoupled_decay,
            "exclusions": self.exclusions,
        }
