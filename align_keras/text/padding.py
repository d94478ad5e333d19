"""Padding of token ids."""

from collections.abc import Mapping

import tensorflow as tf

# Training and replicas round lengths up to a multiple of this number, so that few
# lengths exist.
LENGTH_STEP = 8
# XLA needs minutes to compile a step for another length, so fewer lengths exist there.
SHORTEST_BUCKET = 16


def trim_padding(
    tokens: Mapping[str, tf.Tensor], length_step: int = 1
) -> dict[str, tf.Tensor]:
    """Cuts off the columns in which all rows have padding.

    The new length is that of the longest row. An encoder with a mask returns the same
    embeddings, and needs less time.

    Args:
        tokens: dict of `token_ids`, int (n, sequence_length), and `padding_mask`, bool
            or int (n, sequence_length), true for tokens and false for padding.
        length_step: ≥ 1. The new length is rounded up to a multiple of this number.

    Returns:
        dict of the same tensors (n, length) with 1 ≤ length ≤ sequence_length.

    Example:

    >>> padding = [0] * 61
    >>> token_ids = tf.constant([[2, 7, 3, *padding]])
    >>> mask = tf.constant([[1, 1, 1, *padding]])
    >>> trim_padding({"token_ids": token_ids, "padding_mask": mask})["token_ids"].shape
    TensorShape([1, 3])
    """
    longest = longest_caption(tokens["padding_mask"])
    length = -(-longest // length_step) * length_step
    return {name: values[:, :length] for name, values in tokens.items()}


def longest_caption(padding_mask: tf.Tensor) -> tf.Tensor:
    """Returns the number of tokens of the longest row, at least 1.

    Args:
        padding_mask: bool or int (n, sequence_length). Padding before a token counts
            as a token.

    Returns:
        int32 scalar.
    """
    has_token = tf.reduce_any(tf.cast(padding_mask, tf.bool), axis=0)
    ends = tf.range(1, tf.size(has_token) + 1)
    return tf.reduce_max(tf.where(has_token, ends, 1))


def bucket_lengths(sequence_length: int) -> list[int]:
    """Returns the lengths of captions for which XLA compiles a step.

    Example:

    >>> bucket_lengths(50)
    [16, 32, 50]
    """
    lengths = []
    length = SHORTEST_BUCKET
    while length < sequence_length:
        lengths.append(length)
        length *= 2
    return [*lengths, sequence_length]
