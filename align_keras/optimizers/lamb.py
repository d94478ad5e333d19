"""LAMB, with weight decay inside of the trust ratio as in its paper."""

import math
from typing import Any

import keras
import tensorflow as tf

from align_keras.optimizers.fused_updates import (
    apply_fused_adam,
    apply_fused_sgd,
    moment_scales,
)
from align_keras.optimizers.multipliers import LearningRateMultipliers
from align_keras.utils.errors import InputError


class _LambUpdate(keras.optimizers.Optimizer):
    """Optimizer variables and update of LAMB."""

    def build(self, variables: list[keras.Variable]) -> None:
        if self.built:
            return
        for variable in variables:
            if variable.dtype not in ("float32", "float64"):
                raise InputError(
                    "Lamb needs weights of float32 or float64, because its moments "
                    f"are rounded to 0 in 16 bits. Received: {variable.path} of "
                    f"{variable.dtype}. Use the policy mixed_bfloat16, which keeps "
                    "weights of float32."
                )
        super().build(variables)
        self._first_moments, self._second_moments = self.add_optimizer_variables(
            variables, ["first_moment", "second_moment"]
        )

    def update_step(
        self,
        gradient: tf.Tensor,
        variable: keras.Variable | tf.Variable,
        learning_rate: tf.Tensor,
    ) -> None:
        index = self._get_variable_index(variable)
        first = self._first_moments[index]
        second = self._second_moments[index]
        dtype = variable.dtype
        learning_rate = tf.cast(learning_rate, dtype)
        step = tf.cast(self.iterations + 1, dtype)
        # m̂ / (√v̂ + ε) equals scale · m / (√v + shifted_epsilon).
        second_correction = tf.sqrt(1.0 - self.beta_2**step)
        scale = second_correction / (1.0 - self.beta_1**step)
        shifted_epsilon = self.epsilon * second_correction
        is_excluded = self.is_excluded(variable)
        apply_fused_adam(
            variable,
            first,
            second,
            gradient,
            learning_rate * scale if is_excluded else 0.0,
            self.beta_1,
            self.beta_2,
            shifted_epsilon,
        )
        if is_excluded:
            return
        first_scale, second_scale = moment_scales(self.beta_1, self.beta_2, dtype)
        scale *= math.sqrt(second_scale) / first_scale
        shifted_epsilon *= math.sqrt(second_scale)
        # This is the update of the paper divided by `scale`, which cancels in the
        # product of the trust ratio and the update.
        update = first / (tf.sqrt(second) + shifted_epsilon)
        update += (self.decay / scale) * variable
        rate = learning_rate * _trust_ratio(variable, update, scale)
        apply_fused_sgd(variable, update, rate)


@keras.saving.register_keras_serializable(package="align_keras")
class Lamb(LearningRateMultipliers, _LambUpdate):
    """LAMB (layer-wise adaptive moments), the optimizer of the paper.

    `keras.optimizers.Lamb` applies the weight decay outside of the trust ratio, and
    uses a trust ratio for each variable. A scalar such as the temperature then changes
    by ± the learning rate for any gradient. This class computes

        u = m̂ / (√v̂ + ε) + weight_decay · w
        w ← w - learning_rate · (‖w‖ / ‖u‖) · u

    Variables whose path matches one of the `exclusions` have neither weight decay nor a
    trust ratio.

    Args:
        learning_rate: float or `keras.optimizers.schedules.LearningRateSchedule`.
        beta_1: in [0, 1), decay of the first moment.
        beta_2: in [0, 1), decay of the second moment.
        epsilon: float > 0.
        weight_decay: float ≥ 0.
        **kwargs: arguments of `LearningRateMultipliers` and of
            `keras.optimizers.Optimizer`.

    Raises:
        InputError: if a weight is neither of float32 nor of float64.

    References:
        You et al. 2020, "Large batch optimization for deep learning", algorithm 2. Jia
        et al. 2021, section 5 (weight decay 1e-5). This paper doesn't state the decays
        of the moments, ε and the exclusions, so those of TF Model Garden are used.

    Example:

    >>> weight = keras.Variable([3.0, 4.0], name="kernel")
    >>> optimizer = Lamb(0.1, weight_decay=0.0)
    >>> optimizer.apply([keras.ops.array([1.0, 1.0])], [weight])
    >>> [round(float(w), 3) for w in weight.numpy()]  # minus 0.1 · 5 / √2
    [2.646, 3.646]
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 1e-3,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-6,
        weight_decay: float = 1e-5,
        name: str = "lamb",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            learning_rate=learning_rate, weight_decay=weight_decay, name=name, **kwargs
        )
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
        }


def _trust_ratio(
    variable: keras.Variable | tf.Variable,
    update: tf.Tensor,
    default: tf.Tensor,
) -> tf.Tensor:
    """Returns ‖w‖ / ‖u‖, or `default` if one of them is zero."""
    # `l2_loss` is half the sum of squares, and makes no copy of its input.
    weight_norm = tf.sqrt(tf.nn.l2_loss(tf.convert_to_tensor(variable)))
    update_norm = tf.sqrt(tf.nn.l2_loss(update))
    usable = tf.logical_and(weight_norm > 0, update_norm > 0)
    safe_norm = tf.where(update_norm > 0, update_norm, 1.0)
    return tf.where(usable, weight_norm / safe_norm, default)
