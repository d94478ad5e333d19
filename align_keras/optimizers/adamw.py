"""AdamW, and Muon, which uses AdamW for variables that aren't matrices.

Both accept weight-decay exclusions and learning-rate multipliers by variable path.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from align_keras.optimizers.fused_updates import apply_fused_adam
from align_keras.optimizers.multipliers import (
    LearningRateMultipliers,
    checked_patterns,
)

# Paths of matrices that Muon doesn't orthogonalize. The gradients of embeddings are
# sparse. Depthwise kernels aren't matrices of inputs by outputs. The biases of
# attention have the shape of a matrix, and the gradients of key biases are only
# rounding errors.
DEFAULT_BY_ADAM = ("embedding", "depthwise", "bias$")
# Coefficients of the polynomial in a Newton–Schulz step. Its slope at 0 is large, for
# fast convergence (Jordan et al. 2024).
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
# Number of Newton–Schulz steps.
_STEPS = 5
# Root mean square of an update, about that of Adam (Liu et al. 2025, section 2.2).
_RMS = 0.2
# Paths of the attention kernels of KerasHub with two output axes. Other kernels have
# one output axis.
_TWO_OUTPUT_AXES = re.compile("(query|key|value)/kernel$")


class _DecayedAdam(keras.optimizers.Adam):
    """Adam with decoupled weight decay, scaled by the variable's learning rate."""

    def update_step(
        self,
        gradient: tf.Tensor,
        variable: keras.Variable | tf.Variable,
        learning_rate: tf.Tensor,
    ) -> None:
        if not self.is_excluded(variable):
            rate = ops.cast(learning_rate, variable.dtype)
            self.assign_sub(variable, variable * (rate * self.decay))
        self._undecayed_update(gradient, variable, learning_rate)

    def _undecayed_update(
        self,
        gradient: tf.Tensor,
        variable: keras.Variable | tf.Variable,
        learning_rate: tf.Tensor,
    ) -> None:
        """Applies the Adam update of Keras without weight decay."""
        # For float32, one fused kernel replaces a dozen operations.
        if self.amsgrad or variable.dtype != "float32":
            super().update_step(gradient, variable, learning_rate)
            return
        index = self._get_variable_index(variable)
        step = tf.cast(self.iterations + 1, "float32")
        correction = tf.sqrt(1.0 - self.beta_2**step) / (1.0 - self.beta_1**step)
        apply_fused_adam(
            variable,
            self._momentums[index],
            self._velocities[index],
            gradient,
            learning_rate * correction,
            self.beta_1,
            self.beta_2,
            self.epsilon,
        )


@keras.saving.register_keras_serializable(package="align_keras")
class AdamW(LearningRateMultipliers, _DecayedAdam):
    """AdamW with weight-decay exclusions and learning-rate multipliers.

    The results equal those of `keras.optimizers.AdamW`, but each variable is updated by
    one fused kernel. If the gradient of an embedding contains a row several times, the
    values are summed before they are squared. Keras squares each of them.

    Args:
        learning_rate: float or `keras.optimizers.schedules.LearningRateSchedule`.
        beta_1: in [0, 1), decay of the first moment.
        beta_2: in [0, 1), decay of the second moment.
        epsilon: float > 0.
        weight_decay: ≥ 0, decoupled weight decay. An update subtracts learning
            rate · weight_decay · weight, except for variables that match `exclusions`.
        **kwargs: arguments of `LearningRateMultipliers` and of
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
        **kwargs: Any,
    ) -> None:
        super().__init__(
            learning_rate=learning_rate,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            weight_decay=weight_decay,
            name=name,
            **kwargs,
        )


@keras.saving.register_keras_serializable(package="align_keras")
class Muon(AdamW):
    """Muon for matrices, and AdamW for other weights.

    Muon orthogonalizes the momentum. In the quickstart, it reaches the recall of AdamW
    in a quarter of the steps. The kernel of a dense layer, of attention or of a
    convolution is treated as a matrix W of inputs by outputs. With the momentum M, the
    gradient G and the learning rate η, the update is:

        M ← momentum · M + G
        W ← W - η · (weight_decay · W + 0.2 · √max(inputs, outputs) · U Vᵀ)

    where U S Vᵀ is the singular value decomposition of G + momentum · M, approximated
    by five Newton–Schulz steps. The factor makes updates as large as those of AdamW, so
    that the learning rates and the weight decay of AdamW can be used.

    Args:
        learning_rate: float or `keras.optimizers.schedules.LearningRateSchedule`.
        momentum: in [0, 1), of matrices.
        beta_1: in [0, 1), decay of the first moment of AdamW.
        beta_2: in [0, 1), decay of the second moment of AdamW.
        epsilon: > 0, of AdamW.
        weight_decay: ≥ 0, as in `AdamW`.
        by_adam: sequence of regular expressions. AdamW updates the matrices with a
            match in their path, and all vectors and scalars.
        **kwargs: arguments of `LearningRateMultipliers` and of
            `keras.optimizers.Optimizer`.

    References:
        Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks",
        and Liu et al. 2025, arXiv:2502.16982 (weight decay and scale). The paper of
        ALIGN uses LAMB.

    Example:

    The update is about 0.2 · √2 in both directions, although the gradients differ:

    >>> weight = keras.Variable([[3.0, 0.0], [0.0, 3.0]], name="kernel")
    >>> optimizer = Muon(1.0, weight_decay=0.0)
    >>> optimizer.apply([keras.ops.array([[5.0, 0.0], [0.0, 0.1]])], [weight])
    >>> [round(float(value), 1) for value in weight.numpy().ravel()]
    [2.8, 0.0, 0.0, 2.8]
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 1e-3,
        momentum: float = 0.95,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        weight_decay: float = 1e-5,
        by_adam: Sequence[str] = DEFAULT_BY_ADAM,
        name: str = "muon",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            learning_rate=learning_rate,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            weight_decay=weight_decay,
            name=name,
            **kwargs,
        )
        self.momentum = momentum
        self.by_adam = checked_patterns("by_adam", by_adam)

    def _matrix_shape(
        self, variable: keras.Variable | tf.Variable
    ) -> tuple[int, int] | None:
        """Returns (inputs, outputs) of a kernel, or None if AdamW updates it."""
        shape = tuple(variable.shape)
        path = self.path_of(variable)
        if len(shape) < 2 or any(re.search(rule, path) for rule in self.by_adam):
            return None
        axes = 1 if _TWO_OUTPUT_AXES.search(path) else len(shape) - 1
        return math.prod(shape[:axes]), math.prod(shape[axes:])

    def _undecayed_update(
        self,
        gradient: tf.Tensor,
        variable: keras.Variable | tf.Variable,
        learning_rate: tf.Tensor,
    ) -> None:
        matrix_shape = self._matrix_shape(variable)
        if matrix_shape is None:
            super()._undecayed_update(gradient, variable, learning_rate)
            return
        gradient = tf.convert_to_tensor(gradient)
        average = self._momentums[self._get_variable_index(variable)]
        self.assign(average, self.momentum * average + gradient)
        ahead = gradient + self.momentum * average
        update = orthogonalized(tf.reshape(ahead, matrix_shape))
        scale = learning_rate * (_RMS * math.sqrt(max(matrix_shape)))
        self.assign_sub(variable, scale * tf.reshape(update, variable.shape))

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "by_adam": self.by_adam,
        }


def orthogonalized(matrix: tf.Tensor) -> tf.Tensor:
    """Returns an approximation of U Vᵀ for a matrix U S Vᵀ.

    The singular values of the result are between 0.7 and 1.2.
    """
    is_wide = matrix.shape[0] <= matrix.shape[1]
    matrix = matrix if is_wide else tf.transpose(matrix)
    matrix /= tf.norm(matrix) + 1e-7
    rows, columns = matrix.shape
    if columns >= 2 * rows:
        matrix = _newton_schulz_of_gram_matrix(matrix)
    else:
        matrix = _newton_schulz(matrix)
    return matrix if is_wide else tf.transpose(matrix)


def _newton_schulz(matrix: tf.Tensor) -> tf.Tensor:
    """Returns X after the steps X ← (a + b X Xᵀ + c (X Xᵀ)²) X."""
    a, b, c = _COEFFICIENTS
    for _ in range(_STEPS):
        square = tf.matmul(matrix, matrix, transpose_b=True)
        matrix = a * matrix + (b * square + c * square @ square) @ matrix
    return matrix


def _newton_schulz_of_gram_matrix(matrix: tf.Tensor) -> tf.Tensor:
    """Returns `_newton_schulz` of a wide matrix with fewer operations."""
    # The steps multiply X by the polynomials P of G = X Xᵀ. These commute, so G
    # changes to P² G, and only the product of all P is multiplied by X.
    a, b, c = _COEFFICIENTS
    gram = tf.matmul(matrix, matrix, transpose_b=True)
    identity = tf.eye(matrix.shape[0], dtype=matrix.dtype)
    product = identity
    for step in range(_STEPS):
        polynomial = a * identity + b * gram + c * gram @ gram
        product = polynomial if step == 0 else polynomial @ product
        if step < _STEPS - 1:
            gram = polynomial @ (polynomial @ gram)
    return product @ matrix
