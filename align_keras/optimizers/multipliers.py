"""Learning-rate multipliers and exclusions from weight decay, by variable path."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from align_keras.optimizers.replica_gradients import ReplicaGradients
from align_keras.utils.errors import InputError

# Patterns for the paths of vectors and scalars, which have no layer-wise scale and
# shouldn't be decayed.
DEFAULT_EXCLUSIONS = ("bias", "gamma", "beta", "temperature")


def checked_patterns(name: str, patterns: Sequence[str]) -> tuple[str, ...]:
    """Returns a list of regular expressions as a tuple, or raises for a single str."""
    if isinstance(patterns, str):
        raise InputError(
            f"{name} must be a list of regular expressions. Received: "
            f"{name}={patterns!r}. Write [{patterns!r}]."
        )
    return tuple(patterns)


class LearningRateMultipliers(ReplicaGradients):
    """Mixin of a Keras optimizer that scales the learning rate of each variable.

    Args:
        exclusions: sequence of regular expressions. Variables with a match in their
            path have no weight decay.
        learning_rate_multipliers: dict from regular expression to float > 0. The first
            expression with a match in the path of a variable applies. Variables without
            a match use the full learning rate.
        weight_decay: float ≥ 0. It is stored in the attribute `decay`, because Keras
            would apply an attribute `weight_decay` a second time.
    """

    # The optimizer that is combined with this mixin defines these attributes.
    _trainable_variables: list[keras.Variable]
    _get_variable_index: Callable

    def __init__(
        self,
        *args: Any,
        exclusions: Sequence[str] = DEFAULT_EXCLUSIONS,
        learning_rate_multipliers: dict[str, float] | None = None,
        weight_decay: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.decay = weight_decay
        self.exclusions = checked_patterns("exclusions", exclusions)
        self.learning_rate_multipliers = dict(learning_rate_multipliers or {})

    def multiplier(self, path: str) -> float:
        """Returns the learning-rate multiplier of the variable with this path."""
        for pattern, factor in self.learning_rate_multipliers.items():
            if re.search(pattern, path):
                return factor
        return 1.0

    def is_excluded(self, variable: keras.Variable | tf.Variable) -> bool:
        """Returns True if an exclusion matches the path of the variable."""
        path = self.path_of(variable)
        return any(re.search(pattern, path) for pattern in self.exclusions)

    def path_of(self, variable: keras.Variable | tf.Variable) -> str:
        """Returns the path of a Keras or TensorFlow variable."""
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
