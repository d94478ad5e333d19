"""Batch normalization with TensorFlow's fused kernel."""

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from align_keras.utils.errors import InputError

_KERNEL_DTYPES = ("float32", "bfloat16")


@keras.saving.register_keras_serializable(package="align_keras")
class FusedBatchNormalization(keras.layers.BatchNormalization):
    """Batch normalization of NHWC images with TensorFlow's fused kernel.

    The results equal those of `keras.layers.BatchNormalization`, in a fraction of the
    time. The layer calls the implementation of Keras for synchronized training, batch
    renormalization, an axis that isn't the last one, and dtypes other than float32 and
    bfloat16. Under a strategy, the statistics are those of the rows of one replica,
    unless `synchronized` or `replicas_per_group` is set. The train steps of the models
    average the moving statistics over replicas.

    Args:
        freeze_statistics: normalize by the moving statistics in training too, and
            don't update them. Gamma and beta are still trained.
        virtual_batch_size: number of consecutive rows in a "ghost batch".
            In training, each ghost batch is normalized by its statistics.
        replicas_per_group: `"auto"` or None, number of consecutive replicas that
            are normalized together. `"auto"` is the rule of the open-source
            EfficientNet, an eighth of the replicas, but at least 8. If there are at
            most 8 replicas, each replica is normalized separately.
        **kwargs: arguments of `keras.layers.BatchNormalization`.

    Call arguments:
        inputs: float tensor (n, height, width, channels).
        training: bool.

    Raises:
        InputError: if two of `synchronized`, `virtual_batch_size` and
            `replicas_per_group` are set, if the number of rows isn't a multiple of
            `virtual_batch_size` or the number of replicas isn't a multiple of
            `replicas_per_group`, or if one of these is set with `renorm` or an axis
            that isn't the last one.

    References:
        Hoffer et al. 2017, "Train longer, generalize better" (ghost batches).
        `TpuBatchNormalization` of Tan and Le's EfficientNet (groups of replicas).

    Example:

    >>> FusedBatchNormalization()(tf.ones((2, 4, 4, 3)), training=True).shape
    TensorShape([2, 4, 4, 3])
    """

    def __init__(
        self,
        *,
        freeze_statistics: bool = False,
        virtual_batch_size: int | None = None,
        replicas_per_group: int | str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        sharing = {
            "synchronized": self.synchronized,
            "virtual_batch_size": virtual_batch_size,
            "replicas_per_group": replicas_per_group,
        }
        names = [name for name, value in sharing.items() if value]
        if len(names) > 1:
            raise InputError(
                f"{names[1]} must be None if {names[0]} is set. Received: "
                f"{names[1]}={sharing[names[1]]} and {names[0]}={sharing[names[0]]}. "
                "Choose one of them."
            )
        self.freeze_statistics = freeze_statistics
        self.virtual_batch_size = virtual_batch_size
        self.replicas_per_group = replicas_per_group
        # Keras 3.12 has no batch renormalization.
        self._renormalizes = getattr(self, "renorm", False)

    def build(self, input_shape: tuple) -> None:
        super().build(input_shape)
        last = len(input_shape) - 1
        self._normalizes_last_axis = self.axis in (-1, last)
        is_plain = self._normalizes_last_axis and not self._renormalizes
        if not is_plain and (self.virtual_batch_size or self.replicas_per_group):
            raise InputError(
                "virtual_batch_size and replicas_per_group need axis=-1 and no renorm. "
                f"Received: axis={self.axis} and renorm={self._renormalizes}. Leave "
                "them out, or move the channels to the last axis."
            )

    def call(
        self,
        inputs: tf.Tensor,
        training: bool | None = None,
        mask: tf.Tensor | None = None,
    ) -> tf.Tensor:
        training = self.takes_batch_statistics(training)
        is_supported = (
            mask is None
            and len(inputs.shape) == 4
            and self._normalizes_last_axis
            and not self._renormalizes
        )
        dtype = keras.backend.standardize_dtype(inputs.dtype)
        has_kernel = is_supported and dtype in _KERNEL_DTYPES
        replicas = group_size(self.replicas_per_group) if training else 1
        if is_supported and training and self.virtual_batch_size:
            return self._normalize_in_ghost_batches(inputs)
        if is_supported and replicas > 1:
            return self._normalize_in_groups(inputs, replicas)
        if not has_kernel or (training and self.synchronized):
            return super().call(inputs, training=training, mask=mask)
        # The kernel needs scale and offset, even if the layer has only one or none.
        scale = self._gamma("float32")
        offset = self._beta("float32")
        channels = inputs.shape[-1:]
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=tf.ones(channels) if scale is None else scale,
            offset=tf.zeros(channels) if offset is None else offset,
            mean=() if training else tf.cast(self.moving_mean, "float32"),
            variance=() if training else tf.cast(self.moving_variance, "float32"),
            epsilon=self.epsilon,
            exponential_avg_factor=1.0,
            is_training=training,
        )
        if training:
            # The kernel returns the unbiased variance, but the moving variance of Keras
            # averages the biased one.
            count = tf.cast(tf.reduce_prod(tf.shape(inputs)[:3]), "float32")
            self._update(self.moving_mean, mean)
            self._update(self.moving_variance, variance * (count - 1.0) / count)
        return outputs

    def _normalize_in_ghost_batches(self, inputs: tf.Tensor) -> tf.Tensor:
        """Normalizes each group of `virtual_batch_size` rows by its statistics."""
        rows = inputs.shape[0]
        size = self.virtual_batch_size
        if rows is not None and rows % size:
            raise InputError(
                "The number of rows in a replica's batch must be a multiple of "
                f"virtual_batch_size. Received: {rows} rows and "
                f"virtual_batch_size={size}. Change one of them."
            )
        grouped = tf.reshape(inputs, (-1, size, *ops.shape(inputs)[1:]))
        # The shape of both moments is (groups, 1, 1, 1, channels).
        mean, variance = tf.nn.moments(_wide(grouped), axes=(1, 2, 3), keepdims=True)
        outputs = self._normalize(grouped, mean, variance)
        self._update(self.moving_mean, tf.reduce_mean(mean, axis=(0, 1, 2, 3)))
        self._update(self.moving_variance, tf.reduce_mean(variance, axis=(0, 1, 2, 3)))
        return tf.reshape(outputs, tf.shape(inputs))

    def _normalize_in_groups(self, inputs: tf.Tensor, replicas: int) -> tf.Tensor:
        """Normalizes the rows of a group of replicas by their common statistics."""
        mean, variance = tf.nn.moments(_wide(inputs), axes=(0, 1, 2))
        # All replicas have the same number of values. The variance is the mean square
        # minus the square of the mean.
        moments = tf.stack([mean, variance + tf.square(mean)])
        mean, square = tf.unstack(mean_over_group(moments, replicas))
        variance = tf.maximum(square - tf.square(mean), 0.0)
        self._update(self.moving_mean, mean)
        self._update(self.moving_variance, variance)
        return self._normalize(inputs, mean, variance)

    def takes_batch_statistics(self, training: bool | None) -> bool:
        """Returns True if `call` normalizes by the statistics of its inputs."""
        return bool(training and self.trainable and not self.freeze_statistics)

    def moving_scale_and_offset(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the scale and the offset of a normalization by moving statistics.

        In inference, the outputs are inputs · scale + offset.

        Returns:
            Two tensors (channels,) with the dtype of the variables.
        """
        return self._scale_and_offset(self.moving_mean, self.moving_variance)

    def _scale_and_offset(
        self, mean: tf.Tensor, variance: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        gamma = self._gamma(mean.dtype)
        beta = self._beta(mean.dtype)
        scale = tf.math.rsqrt(variance + self.epsilon)
        if gamma is not None:
            scale *= gamma
        offset = -mean * scale
        if beta is not None:
            offset += beta
        return scale, offset

    def _gamma(self, dtype: str) -> tf.Tensor | None:
        """Returns gamma in `dtype`, or None for a layer without scale."""
        return tf.cast(self.gamma, dtype) if self.scale else None

    def _beta(self, dtype: str) -> tf.Tensor | None:
        """Returns beta in `dtype`, or None for a layer without center."""
        return tf.cast(self.beta, dtype) if self.center else None

    def _normalize(
        self, inputs: tf.Tensor, mean: tf.Tensor, variance: tf.Tensor
    ) -> tf.Tensor:
        scale, offset = self._scale_and_offset(mean, variance)
        return inputs * tf.cast(scale, inputs.dtype) + tf.cast(offset, inputs.dtype)

    def _update(self, moving: keras.Variable, value: tf.Tensor) -> None:
        """Updates a moving average. Averages of 16-bit values need float32."""
        value = _wide(ops.stop_gradient(value))
        before = ops.cast(moving, value.dtype)
        after = before * self.momentum + value * (1.0 - self.momentum)
        moving.assign(ops.cast(after, moving.dtype))

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "freeze_statistics": self.freeze_statistics,
            "virtual_batch_size": self.virtual_batch_size,
            "replicas_per_group": self.replicas_per_group,
        }


def _wide(inputs: tf.Tensor) -> tf.Tensor:
    """Casts inputs to float32 for statistics, unless they are float64."""
    return inputs if inputs.dtype == tf.float64 else tf.cast(inputs, "float32")


def group_size(replicas_per_group: int | str | None) -> int:
    """Returns the number of replicas that are normalized together."""
    context = tf.distribute.get_replica_context()
    count = 1 if context is None else context.num_replicas_in_sync
    if replicas_per_group is None or count == 1:
        return 1
    automatic = 1 if count <= 8 else max(8, count // 8)
    size = automatic if replicas_per_group == "auto" else int(replicas_per_group)
    if count % size:
        raise InputError(
            "replicas_per_group must be a divisor of the number of replicas. Received: "
            f"replicas_per_group={size} with {count} replicas. Change one of them."
        )
    return size


def mean_over_group(values: tf.Tensor, replicas: int) -> tf.Tensor:
    """Returns the mean over the replicas of this replica's group, with gradients."""
    context = tf.distribute.get_replica_context()
    groups = context.num_replicas_in_sync // replicas
    # `tf.distribute` can only sum over all replicas. The summed tensor has a part for
    # each group, and each replica adds its values to the part of its group.
    group = context.replica_id_in_sync_group // replicas
    selection = tf.one_hot(group, groups, dtype=values.dtype)
    parts = tf.reshape(selection, [groups, *[1] * values.shape.rank]) * values
    parts = context.all_reduce(tf.distribute.ReduceOp.SUM, parts)
    return tf.gather(parts, group) / replicas
