"""Batch normalisation by TensorFlow's fused kernel."""

import keras
import tensorflow as tf
from keras import ops

from align_keras.utils.errors import InputError

_KERNEL_DTYPES = ("float32", "bfloat16")


@keras.saving.register_keras_serializable(package="align_keras")
class FusedBatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` of NHWC pictures, by the fused kernel.

    Keras 3 normalises with separate operations; the fused kernel gives the same
    numbers with the same variables in a fraction of the time. Synchronised
    training and other dtypes than float32 and bfloat16 are Keras's own layer.

    Under a strategy the statistics are those of the replica's own rows, as in
    the paper, and `ContrastiveModel.train_step` averages the moving ones over
    replicas; `synchronized` takes the rows of all replicas together.

    Args:
        freeze_statistics: bool, normalise by the moving statistics in training
            too and leave them as they are; gamma and beta go on learning.
        virtual_batch_size: int or None; in training each `virtual_batch_size`
            rows in turn are normalised by their own statistics ("ghost
            batches"), whose means go into the moving statistics.
        **kwargs: as `keras.layers.BatchNormalization`; the axis is the last.

    Call arguments:
        inputs: float tensor (n, height, width, channels).
        training: bool.

    Returns:
        Tensor like `inputs`.

    Raises:
        InputError: if `virtual_batch_size` comes with `synchronized`, or the
            rows aren't a multiple of it.

    References:
        Hoffer et al. 2017, "Train longer, generalize better" (ghost batches).

    Example:

    >>> import numpy as np
    >>> layer = FusedBatchNormalization()
    >>> layer(np.ones((2, 4, 4, 3), "float32"), training=True).shape
    TensorShape([2, 4, 4, 3])
    """

    def __init__(self, *, freeze_statistics=False, virtual_batch_size=None, **kwargs):
        super().__init__(**kwargs)
        if virtual_batch_size and self.synchronized:
            raise InputError(
                "virtual_batch_size must be None where synchronized is true, received "
                f"{virtual_batch_size}; choose one of them."
            )
        self.freeze_statistics = freeze_statistics
        self.virtual_batch_size = virtual_batch_size

    def call(self, inputs, training=None, mask=None):
        training = training and self.trainable and not self.freeze_statistics
        whole = mask is None and len(inputs.shape) == 4
        kernel_has = keras.backend.standardize_dtype(inputs.dtype) in _KERNEL_DTYPES
        if not (whole and kernel_has) or (training and self.synchronized):
            return super().call(inputs, training=training, mask=mask)
        if training and self.virtual_batch_size:
            return self._normalize_in_ghost_batches(inputs)
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=tf.cast(self.gamma, "float32"),
            offset=tf.cast(self.beta, "float32"),
            mean=tf.zeros((0,)) if training else self._statistic(self.moving_mean),
            variance=(
                tf.zeros((0,)) if training else self._statistic(self.moving_variance)
            ),
            epsilon=self.epsilon,
            exponential_avg_factor=1.0,
            is_training=bool(training),
        )
        if training:
            # The kernel reports the unbiased variance; Keras averages the biased.
            count = tf.cast(tf.reduce_prod(tf.shape(inputs)[:3]), "float32")
            self._update(self.moving_mean, mean)
            self._update(self.moving_variance, variance * (count - 1.0) / count)
        return outputs

    def _normalize_in_ghost_batches(self, inputs):
        rows, size = inputs.shape[0], self.virtual_batch_size
        if rows is not None and rows % size:
            raise InputError(
                "the rows of a replica's batch must be a multiple of "
                f"virtual_batch_size ({size}), received {rows}; change one of them."
            )
        grouped = tf.reshape(inputs, (-1, size, *ops.shape(inputs)[1:]))
        # (groups, 1, 1, 1, channels)
        mean, variance = tf.nn.moments(
            tf.cast(grouped, "float32"), axes=(1, 2, 3), keepdims=True
        )
        scale = tf.math.rsqrt(variance + self.epsilon) * tf.cast(self.gamma, "float32")
        offset = tf.cast(self.beta, "float32") - mean * scale
        outputs = grouped * tf.cast(scale, inputs.dtype) + tf.cast(offset, inputs.dtype)
        self._update(self.moving_mean, tf.reduce_mean(mean, axis=(0, 1, 2, 3)))
        self._update(self.moving_variance, tf.reduce_mean(variance, axis=(0, 1, 2, 3)))
        return tf.reshape(outputs, tf.shape(inputs))

    def _statistic(self, moving):
        return tf.cast(moving, "float32")

    def _update(self, moving, value):
        value = ops.cast(ops.stop_gradient(value), moving.dtype)
        moving.assign(moving * self.momentum + value * (1.0 - self.momentum))

    def get_config(self):
        return {
            **super().get_config(),
            "freeze_statistics": self.freeze_statistics,
            "virtual_batch_size": self.virtual_batch_size,
        }
