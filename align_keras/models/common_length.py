"""One length of the captions on all replicas, for steps that XLA compiles."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from align_keras.text.padding import bucket_lengths, longest_caption


def common_length_function(
    strategy: tf.distribute.Strategy,
) -> Callable[[Any], int | None]:
    """Returns a function that chooses the length of the captions of a batch.

    XLA compiles a step once for each length, and all replicas need the same length. The
    function returns the first of the lengths 16, 32, 64 and so on that has room for the
    longest caption of all replicas. The last of these lengths is that of the batch. The
    function returns None if the captions of a batch have unknown values, or another
    length on each replica.

    Args:
        strategy: strategy of the model. Its replicas hold the parts of a batch.
    """

    @tf.function
    @tf.autograph.experimental.do_not_convert
    def count_buckets(padding_mask: Any) -> tf.Tensor:
        # TensorFlow has no maximum over replicas, but it has a sum.
        counts = strategy.run(_one_hot_bucket, args=(padding_mask,))
        return strategy.reduce("SUM", counts, axis=None)

    def common_length(data: Any) -> int | None:
        inputs = data[0] if isinstance(data, tuple) and data else data
        padding_mask = inputs.get("padding_mask") if isinstance(inputs, dict) else None
        parts = strategy.experimental_local_results(padding_mask)
        if not all(isinstance(part, tf.Tensor | np.ndarray) for part in parts):
            return None
        # The step itself refuses a mask with another number of axes.
        if len({tuple(part.shape)[1:] for part in parts}) > 1 or parts[0].ndim != 2:
            return None
        counts = count_buckets(padding_mask).numpy()
        return bucket_lengths(parts[0].shape[1])[np.flatnonzero(counts)[-1]]

    return common_length


def cut_captions(data: Any, length: int | None) -> Any:
    """Cuts the captions of a batch after `length` tokens, unless it is None.

    Args:
        data: batch of a step, a dict of inputs or a tuple that starts with it.
        length: int or None, result of `common_length_function`.
    """
    if length is None:
        return data
    if isinstance(data, tuple):
        return (cut_captions(data[0], length), *data[1:])
    names = ("token_ids", "padding_mask")
    return {**data, **{name: data[name][:, :length] for name in names}}


def _one_hot_bucket(padding_mask: tf.Tensor) -> tf.Tensor:
    """Returns 1 at the index of the length of a replica, and 0 at the other indices."""
    lengths = bucket_lengths(padding_mask.shape[1])
    is_too_short = tf.constant(lengths) < longest_caption(padding_mask)
    return tf.one_hot(tf.reduce_sum(tf.cast(is_too_short, tf.int32)), len(lengths))
