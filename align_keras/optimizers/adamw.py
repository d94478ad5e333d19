"""AdamW, and Muon, which leaves to it what isn't a matrix.

With exclusions and learning-rate multipliers by the variables' paths.
"""

import math
import re
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from align_keras.optimizers.multipliers import LearningRateMultipliers

# Embeddings, whose gradients are sparse, kernels of a channel each, and biases, which
# attention keeps as matrices: the keys' have no gradient but rounding.
DEFAULT_BY_ADAM = ("embedding", "depthwise", "bias$")
# The steps' polynomial, whose slope at 0 is large (Jordan et al. 2024).
_COEFFICIENTS, _STEPS = (3.4445, -4.7750, 2.0315), 5
# Root of the mean square of an update, as Adam's (Liu et al. 2025, section 2.2).
_RMS = 0.2
# Kernels of KerasHub's attention whose outputs, not inputs, are two axes.
_TWO_OUTPUT_AXES = re.compile("(query|key|value)/kernel$")


class _DecayedAdam(keras.optimizers.Adam):
    """Adam whose update begins with the decay, at the variable's rate."""

    def update_step(self, gradient, variable, learning_rate):
        if not self.is_excluded(variable):
            rate = ops.cast(learning_rate, variable.dtype)
            self.assign_sub(variable, variable * (rate * self.decay))
        self._undecayed_update(gradient, variable, learning_rate)

    def _undecayed_update(self, gradient, variable, learning_rate):
        """Makes Keras's update, in float32 by one kernel instead of a dozen."""
        if self.amsgrad or variable.dtype != "float32":
            super().update_step(gradient, variable, learning_rate)
            return
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
    """By what factor the kernel's float32 `1 - beta`, so its moments, is too large."""
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
            weight_decay=weight_decay,
            name=name,
            **kwargs,
        )


@keras.saving.register_keras_serializable(package="align_keras")
class Muon(AdamW):
    """Momentum of a matrix, made orthogonal; other weights are AdamW's.

    The quickstart takes a quarter of AdamW's steps to the same recall. A kernel of a
    dense layer, of attention or of a convolution is a matrix of inputs by outputs, W,
    with the moment M, the gradient G and the learning rate η:

        M ← momentum · M + G
        W ← W - η · (weight_decay · W + 0.2 · √max(inputs, outputs) · U Vᵀ)

    where U S Vᵀ is the singular value decomposition of G + momentum · M, about: five
    Newton–Schulz steps. The factor makes updates as large as AdamW's, whose learning
    rates and decay suit it too.

    Args:
        learning_rate: float or `keras.optimizers.schedules.LearningRateSchedule`.
        momentum: float in [0, 1).
        beta_1: float in [0, 1), AdamW's, as the next two.
        beta_2: float in [0, 1).
        epsilon: float > 0.
        weight_decay: float ≥ 0, decoupled: learning rate · decay · weight.
        by_adam: sequence of regular expressions, searched in a variable's path, of
            matrices that AdamW updates, as it does vectors and scalars.
        **kwargs: as `LearningRateMultipliers` (`exclusions` aren't decayed) and
            `keras.optimizers.Optimizer`.

    References:
        Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks";
        Liu et al. 2025, arXiv:2502.16982, whose decay and scale these are. The paper
        of ALIGN trains with LAMB.

    Example:

    Both directions of the gradient count alike, about 0.2 · √2:

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
        **kwargs,
    ):
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
        self.by_adam = tuple(by_adam)

    def _matrix_shape(self, variable):
        """Returns the (inputs, outputs) of a kernel, or None for what Adam updates."""
        shape, path = tuple(variable.shape), self.path_of(variable)
        if len(shape) < 2 or any(re.search(rule, path) for rule in self.by_adam):
            return None
        axes = 1 if _TWO_OUTPUT_AXES.search(path) else len(shape) - 1
        return math.prod(shape[:axes]), math.prod(shape[axes:])

    def _undecayed_update(self, gradient, variable, learning_rate):
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
    """Returns U Vᵀ of U S Vᵀ, about: singular values are between 0.7 and 1.2."""
    a, b, c = _COEFFICIENTS
    wide = matrix.shape[0] <= matrix.shape[1]
    matrix = matrix if wide else tf.transpose(matrix)
    matrix /= tf.norm(matrix) + 1e-7
    for _ in range(_STEPS):
        square = tf.matmul(matrix, matrix, transpose_b=True)
        matrix = a * matrix + (b * square + c * square @ square) @ matrix
    return matrix if wide else tf.transpose(matrix)
