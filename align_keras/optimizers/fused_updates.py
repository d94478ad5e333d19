"""Updates of Adam and SGD by one operation of TensorFlow instead of many."""

import math

import keras
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
    """Updates the moments m and v of a variable w, and then the variable.

        m ← beta_1 · m + (1 - beta_1) · gradient
        v ← beta_2 · v + (1 - beta_2) · gradient²
        w ← w - learning_rate · m / (√v + epsilon)

    The learning rate and epsilon must contain the bias correction. The kernel computes
    `1 - beta` in the dtype of the variable, so the stored moments are larger than those
    of the formula by the factors that `moment_scales` returns.

    Args:
        variable: variable of float32 or float64.
        first_moment: variable of the same shape and dtype.
        second_moment: variable of the same shape and dtype.
        gradient: float tensor of the same shape, or the slices of an embedding. A row
            may occur several times in the slices. Their values are summed before they
            are squared.
        learning_rate: float or scalar tensor. 0 only updates the moments.
        beta_1: float in [0, 1).
        beta_2: float in [0, 1).
        epsilon: float or scalar tensor > 0.
    """
    dtype = variable.dtype
    first_scale, second_scale = moment_scales(beta_1, beta_2, dtype)
    tf.raw_ops.ResourceApplyAdam(
        var=_tensorflow_variable(variable).handle,
        m=_tensorflow_variable(first_moment).handle,
        v=_tensorflow_variable(second_moment).handle,
        # A power of 0 turns off the bias correction of the kernel.
        beta1_power=tf.constant(0.0, dtype),
        beta2_power=tf.constant(0.0, dtype),
        lr=tf.cast(learning_rate * (math.sqrt(second_scale) / first_scale), dtype),
        beta1=tf.constant(beta_1, dtype),
        beta2=tf.constant(beta_2, dtype),
        epsilon=tf.cast(epsilon * math.sqrt(second_scale), dtype),
        # The conversion to a dense tensor sums the rows of slices.
        grad=tf.cast(tf.convert_to_tensor(gradient), dtype),
    )


def apply_fused_sgd(
    variable: keras.Variable | tf.Variable,
    update: tf.Tensor,
    learning_rate: tf.Tensor,
) -> None:
    """Subtracts learning_rate · update from a variable, without a copy."""
    tf.raw_ops.ResourceApplyGradientDescent(
        var=_tensorflow_variable(variable).handle,
        alpha=tf.cast(learning_rate, variable.dtype),
        delta=update,
    )


def moment_scales(beta_1: float, beta_2: float, dtype: str) -> tuple[float, float]:
    """Returns the stored moments of `apply_fused_adam`, divided by the exact ones."""
    return _rounding(beta_1, dtype), _rounding(beta_2, dtype)


def _rounding(beta: float, dtype: str) -> float:
    """Returns `1 - beta` computed in a dtype, divided by its exact value."""
    number = tf.as_dtype(dtype).as_numpy_dtype
    return float(number(1.0) - number(beta)) / (1.0 - beta)


def _tensorflow_variable(variable: keras.Variable | tf.Variable) -> tf.Variable:
    """Returns the TensorFlow variable of a Keras variable."""
    # Distribution strategies pass TensorFlow variables to updates.
    return variable.value if isinstance(variable, keras.Variable) else variable
