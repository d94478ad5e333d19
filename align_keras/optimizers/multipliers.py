"""Slower or faster learning for some variables."""

import re

import keras
import tensorflow as tf

from align_keras.optimizers.replica_gradients import ReplicaGradients
from align_keras.utils.errors import InputError


class LearningRateMultipliers(ReplicaGradients):
    """Mixin of a Keras optimizer: its `update_step` sees a scaled learning rate.

    Args:
        learning_rate_multipliers: dict from regular expression to float > 0, or
            None. The first expression that is found in a variable's path counts;
            variables without one learn at the full rate.
        **kwargs: of the optimizer.

    Raises:
        InputError: if a multiplier isn't positive.
    """

    def __init__(
        self, *args, learning_rate_multipliers: dict[str, float] | None = None, **kwargs
    ):
        super().__init__(*args, **kwargs)
        self.learning_rate_multipliers = dict(learning_rate_multipliers or {})
        for pattern, factor in self.learning_rate_multipliers.items():
            if not factor > 0:
                raise InputError(
                    f"learning_rate_multipliers[{pattern!r}] must be positive, "
                    f"received {factor}; lock a tower to keep its weights."
                )

    def multiplier(self, path: str) -> float:
        """Returns the factor of the learning rate of the variable at `path`."""
        for pattern, factor in self.learning_rate_multipliers.items():
            if re.search(pattern, path):
                return factor
        return 1.0

    def path_of(self, variable: keras.Variable | tf.Variable) -> str:
        """Returns the path of a variable, Keras's or TensorFlow's own."""
        return self._trainable_variables[self._get_variable_index(variable)].path

    def update_step(
        self,
        gradient: tf.Tensor,
        variable: keras.Variable | tf.Variable,
        learning_rate: tf.Tensor,
    ) -> None:
        rate = learning_rate * self.multiplier(self.path_of(variable))
        super().update_step(gradient, variable, rate)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "learning_rate_multipliers": self.learning_rate_multipliers,
        }
