"""SGD with weight-decay exclusions and learning-rate multipliers."""

from typing import Any

import keras
import tensorflow as tf

from align_keras.optimizers.multipliers import LearningRateMultipliers


class _DecayedSGD(keras.optimizers.SGD):
    """SGD that adds the weight decay to the gradient."""

    def update_step(
        self,
        gradient: tf.Tensor,
        variable: keras.Variable | tf.Variable,
        learning_rate: tf.Tensor,
    ) -> None:
        if not self.is_excluded(variable):
            gradient = gradient + self.decay * variable
        super().update_step(gradient, variable, learning_rate)


@keras.saving.register_keras_serializable(package="align_keras")
class SGD(LearningRateMultipliers, _DecayedSGD):
    """SGD with L2 penalty, weight-decay exclusions and learning-rate multipliers.

    Args:
        learning_rate: float or `keras.optimizers.schedules.LearningRateSchedule`.
        momentum: float in [0, 1). The paper uses 0.9.
        nesterov: use Nesterov momentum.
        weight_decay: ≥ 0, factor of the L2 penalty ½ · weight_decay · ‖w‖².
            Variables that match `exclusions` have no penalty.
        **kwargs: arguments of `LearningRateMultipliers` and of `keras.optimizers.SGD`.

    References:
        Jia et al. 2021, section 5.3 (fine-tuning with momentum 0.9).

    Example:

    >>> weight = keras.Variable([1.0], name="kernel")
    >>> optimizer = SGD(0.1, weight_decay=1.0)
    >>> optimizer.apply([keras.ops.array([3.0])], [weight])  # 1 - 0.1 · (3 + 1)
    >>> round(float(weight.numpy()[0]), 3)
    0.6
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 1e-2,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        name: str = "sgd",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            learning_rate=learning_rate,
            momentum=momentum,
            nesterov=nesterov,
            weight_decay=weight_decay,
            name=name,
            **kwargs,
        )
