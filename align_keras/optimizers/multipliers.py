"""Other learning rates and no decay for some variables, by their paths."""

import re
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from align_keras.optimizers.replica_gradients import ReplicaGradients
from align_keras.utils.errors import InputError

# Vectors have no layer-wise scale to adapt to, and shouldn't be decayed.
DEFAULT_EXCLUSIONS = ("bias", "gamma", "beta", "temperature")


class LearningRateMultipliers(ReplicaGradients):
    """Mixin of a Keras optimizer: its `update_step` sees a scaled learning rate.

    Args:
        exclusions: sequence of regular expressions, searched in a variable's path,
            whose variables `is_excluded` names.
        learning_rate_multipliers: dict from regular expression to float > 0; the first
            that is found in a variable's path counts, others learn at the full rate.
        weight_decay: float ≥ 0, kept as `decay`: of its own, Keras would apply it too.
    """

    # The optimizer's, that the mixin is mixed into.
    _trainable_variables: list[keras.Variable]
    _get_variable_index: Callable

    def __init__(
        self,
        *args,
        exclusions: Sequence[str] = DEFAULT_EXCLUSIONS,
        learning_rate_multipliers: dict[str, float] | None = None,
        weight_decay: float = 0.0,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.decay = weight_decay
        self.exclusions = tuple(exclusions)
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

    def is_excluded(self, variable: keras.Variable | tf.Variable) -> bool:
        """Tells whether an exclusion is found in the variable's path."""
        path = self.path_of(variable)
        return any(re.search(pattern, path) for pattern in self.exclusions)

    def path_of(self, variable: keras.Variable | tf.Variable) -> str:
        """Returns the path of a variable, Keras's or TensorFlow's."""
        return self._trainable_variables[self._get_variable_index(variable)].path

    def update_step(
        self,
        gradient: tf.Tensor,
        variable: keras.Variable | tf.Variable,
        learning_rate: tf.Tensor,
    ) -> None:
        rate = learning_rate * self.multiplier(self.path_of(variable))
        super().update_step(gradient, variable, rate)  # type: ignore[misc]

    def get_config(self) -> dict:
        return {
            **super().get_config(),  # type: ignore[misc]
            "exclusions": self.exclusions,
            "learning_rate_multipliers": self.learning_rate_multipliers,
            "weight_decay": self.decay,
        }
