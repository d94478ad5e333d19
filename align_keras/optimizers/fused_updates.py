"""Updates of Adam and SGD by one operation of TensorFlow instead of many."""

import math

import keras
import numpy as np
import tensorflow as tf


def apply_fused_adam(
    variable: keras.Variable | tf.Variable,
    first_moment: keras.Variable | tf.Variable,
    second_moment: keras.Variable | tf.Variable,
    gradient: tf.Tensor,
    learning_rate: tf.Tensor | float,
    beta_1: float,
    beta_2: float,
    epsilon: tf.Tensor | float,
) -> None:
    """Updates the moments m and v of a float32 variable w, and then the variable.

        m ← beta_1 · m + (1 - beta_1) · gradient
        v ← beta_2 · v + (1 - beta_2) · gradient²
        w ← w - learning_rate · m / (√v + epsilon)

    The learning rate and epsilon must contain the bias correction. The kernel computes
    `1 - beta` in float32, so the stored moments are larger than those of the formula by
    the factors that `moment_scales` returns.

    Args:
        variable: float32 variable.
        first_moment: float32 variable of the same shape.
        second_moment: float32 variable of the same shape.
        gradient: float tensor of the same shape, or the slices of an embedding. A row
            may occur several times in the slices. Their values are summed before they
            are squared.
        learning_rate: float or scalar tensor. 0 only updates the moments.
        beta_1: float in [0, 1).
        beta_2: float in [0, 1).
        epsilon: float or scalar tensor > 0.
    """
    first_scale, second_scale = moment_scales(beta_1, beta_2)
    tf.raw_ops.ResourceApplyAdam(
        var=_tensorflow_variable(variable).handle,
        m=_tensorflow_variable(first_moment).handle,
        v=_tensorflow_variable(second_moment).handle,
        # A power of 0 turns off the bias correction of the kernel.
        beta1_power=0.0,
        beta2_power=0.0,
        lr=learning_rate * (math.sqrt(second_scale) / first_scale),
        beta1=beta_1,
        beta2=beta_2,
        epsilon=epsilon * math.sqrt(second_scale),
        # The conversion to a dense tensor sums the rows of slices.
        grad=tf.cast(tf.convert_to_tensor(gradient), "float32"),
    )


def apply_fused_sgd(
    variable: keras.Variable | tf.Variable,
    update: tf.Tensor,
    learning_rate: tf.Tensor,
) -> None:
    """Subtracts learning_rate · update from a float32 variable, without a copy."""
    tf.raw_ops.ResourceApplyGradientDescent(
        var=_tensorflow_variable(variable).handle, alpha=learning_rate, delta=update
    )


def moment_scales(beta_1: float, beta_2: float) -> tuple[float, float]:
    """Returns the stored moments of `apply_fused_adam`, divided by the exact ones."""
    return _rounding(beta_1), _rounding(beta_2)


def _rounding(beta: float) -> float:
    """Returns `1 - beta` computed in float32, divided by its exact value."""
    return float(np.float32(1.0) - np.float32(beta)) / (1.0 - beta)


def _tensorflow_variable(variable: keras.Variable | tf.Variable) -> tf.Variable:
    """Returns the TensorFlow variable of a Keras variable.

    Distribution strategies pass TensorFlow variables to updates. These are returned
    unchanged.
    """
    return variable.value if isinstance(variable, keras.Variable) else variable
