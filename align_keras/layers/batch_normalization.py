"""Batch normalization by TensorFlow's fused kernel."""

import keras
import tensorflow as tf
from keras import ops

from align_keras.utils.errors import InputError

_KERNEL_DTYPES = ("float32", "bfloat16")


@keras.saving.register_keras_serializable(package="align_keras")
class FusedBatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` of NHWC images, by the fused kernel.

    It gives Keras's numbers in a fraction of the time. Synchronized training, batch
    renormalization, an axis that is not the last, and other dtypes than float32 and
    bfloat16 are Keras's layer. Under a strategy the statistics are those of the
    replica's rows, unless `synchronized` or `replicas_per_group` says otherwise, and
    the train steps average the moving ones.

    Args:
        freeze_statistics: bool, normalize by the moving statistics in training
            too and leave them as they are; gamma and beta go on learning.
        virtual_batch_size: int or None; in training so many rows in turn are normalized
            by their own statistics ("ghost batches").
        replicas_per_group: int, `"auto"` or None; so many replicas in turn are
            normalized together. `"auto"` is the open-source EfficientNet's: an eighth
            of the replicas, 8 at least, and each by itself where there are at most 8.
        **kwargs: as `keras.layers.BatchNormalization`.

    Call arguments:
        inputs: float tensor (n, height, width, channels).
        training: bool.

    Raises:
        InputError: if two of `synchronized`, `virtual_batch_size` and
            `replicas_per_group` are given, or the rows aren't a multiple of
            `virtual_batch_size`, or the replicas of `replicas_per_group`, or the latter
            two are given with `renorm` or an axis that is not the last.

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
        **kwargs,
    ):
        super().__init__(**kwargs)
        sharing = {
            "synchronized": self.synchronized,
            "virtual_batch_size": virtual_batch_size,
            "replicas_per_group": replicas_per_group,
        }
        given = [name for name, value in sharing.items() if value]
        if len(given) > 1:
            raise InputError(
                f"{given[1]} must be None where {given[0]} is {sharing[given[0]]}, "
                f"received {sharing[given[1]]}; choose one of them."
            )
        is_count = type(replicas_per_group) is int and replicas_per_group >= 1
        if replicas_per_group not in (None, "auto") and not is_count:
            raise InputError(
                'replicas_per_group must be None, "auto" or an int of at least 1, '
                f'received {replicas_per_group!r}; use "auto" for the open-source '
                "EfficientNet's."
            )
        self.freeze_statistics = freeze_statistics
        self.virtual_batch_size = virtual_batch_size
        self.replicas_per_group = replicas_per_group
        # Keras 3.12 has no batch renormalization.
        self._renormalizes = getattr(self, "renorm", False)
        if self._renormalizes and (virtual_batch_size or replicas_per_group):
            raise InputError(
                "renorm must be False with virtual_batch_size or replicas_per_group. "
                f"Received: renorm={self._renormalizes}. Choose one of them."
            )

    def build(self, input_shape: tuple) -> None:
        super().build(input_shape)
        last = len(input_shape) - 1
        self._normalizes_last_axis = self.axis in (-1, last)
        if self._normalizes_last_axis:
            return
        if self.virtual_batch_size or self.replicas_per_group:
            raise InputError(
                "axis must be the last (-1) with virtual_batch_size or "
                f"replicas_per_group. Received: axis={self.axis}. Leave these out, or "
                "move the channels to the last axis."
            )

    def call(
        self,
        inputs: tf.Tensor,
        training: bool | None = None,
        mask: tf.Tensor | None = None,
    ) -> tf.Tensor:
        training = self.takes_batch_statistics(training)
        whole = (
            mask is None
            and len(inputs.shape) == 4
            and self._normalizes_last_axis
            and not self._renormalizes
        )
        kernel_has = keras.backend.standardize_dtype(inputs.dtype) in _KERNEL_DTYPES
        replicas = group_size(self.replicas_per_group) if training else 1
        if whole and training and self.virtual_batch_size:
            return self._normalize_in_ghost_batches(inputs)
        if whole and replicas > 1:
            return self._normalize_in_groups(inputs, replicas)
        if not (whole and kernel_has) or (training and self.synchronized):
            return super().call(inputs, training=training, mask=mask)
        # The kernel takes both factors, also where the layer has only one or none.
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
        mean, variance = tf.nn.moments(_wide(grouped), axes=(1, 2, 3), keepdims=True)
        outputs = self._normalize(grouped, mean, variance)
        self._update(self.moving_mean, tf.reduce_mean(mean, axis=(0, 1, 2, 3)))
        self._update(self.moving_variance, tf.reduce_mean(variance, axis=(0, 1, 2, 3)))
        return tf.reshape(outputs, tf.shape(inputs))

    def _normalize_in_groups(self, inputs, replicas):
        mean, variance = tf.nn.moments(_wide(inputs), axes=(0, 1, 2))
        # Each replica has equally many values: the variance is the mean square less
        # the square of the mean.
        moments = tf.stack([mean, variance + tf.square(mean)])
        mean, square = tf.unstack(mean_over_group(moments, replicas))
        variance = tf.maximum(square - tf.square(mean), 0.0)
        self._update(self.moving_mean, mean)
        self._update(self.moving_variance, variance)
        return self._normalize(inputs, mean, variance)

    def takes_batch_statistics(self, training: bool | None) -> bool:
        """Whether a call normalizes by its inputs, not by the moving statistics."""
        return bool(training and self.trainable and not self.freeze_statistics)

    def moving_scale_and_offset(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns what normalizes by the moving statistics: inputs · scale + offset,
        both (channels,), in the dtype of the variables.
        """
        return self._scale_and_offset(self.moving_mean, self.moving_variance)

    def _scale_and_offset(self, mean, variance):
        gamma = self._gamma(mean.dtype)
        beta = self._beta(mean.dtype)
        scale = tf.math.rsqrt(variance + self.epsilon)
        if gamma is not None:
            scale *= gamma
        offset = -mean * scale
        if beta is not None:
            offset += beta
        return scale, offset

    def _gamma(self, dtype):
        """Returns gamma in `dtype`, or None for a layer without scale."""
        return tf.cast(self.gamma, dtype) if self.scale else None

    def _beta(self, dtype):
        """Returns beta in `dtype`, or None for a layer without center."""
        return tf.cast(self.beta, dtype) if self.center else None

    def _normalize(self, inputs, mean, variance):
        scale, offset = self._scale_and_offset(mean, variance)
        return inputs * tf.cast(scale, inputs.dtype) + tf.cast(offset, inputs.dtype)

    def _update(self, moving, value):
        # A 16-bit moving average is updated in float32, as in Keras's layer.
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


def _wide(inputs):
    """Returns the inputs as statistics are computed: in float32 at least."""
    return inputs if inputs.dtype == tf.float64 else tf.cast(inputs, "float32")


def group_size(replicas_per_group: int | str | None) -> int:
    """Returns how many replicas are normalized together."""
    context = tf.distribute.get_replica_context()
    count = 1 if context is None else context.num_replicas_in_sync
    if replicas_per_group is None or count == 1:
        return 1
    automatic = 1 if count <= 8 else max(8, count // 8)
    size = automatic if replicas_per_group == "auto" else int(replicas_per_group)
    if count % size:
        raise InputError(
            f"replicas_per_group must divide the {count} replicas, received {size}; "
            "change one of them."
        )
    return size


def mean_over_group(values: tf.Tensor, replicas: int) -> tf.Tensor:
    """Returns the mean over so many replicas in turn; gradients flow through it."""
    context = tf.distribute.get_replica_context()
    groups = context.num_replicas_in_sync // replicas
    # A sum over all replicas of which each fills its group's part: `tf.distribute` has
    # no sum over some of them.
    group = context.replica_id_in_sync_group // replicas
    place = tf.one_hot(group, groups, dtype=values.dtype)
    parts = tf.reshape(place, [groups, *[1] * values.shape.rank]) * values
    parts = context.all_reduce(tf.distribute.ReduceOp.SUM, parts)
    return tf.gather(parts, group) / replicas
