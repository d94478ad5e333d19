"""Padding of token ids."""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

# Lengths are rounded up to a multiple of this number, so that few lengths exist.
LENGTH_STEP = 8
# XLA needs minutes to compile a step for another length, so fewer lengths exist there.
SHORTEST_BUCKET = 16


def trim_padding(tokens: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Cuts off the columns in which all rows have padding.

    The new length is that of the longest row, rounded up to a multiple of 8. An encoder
    with a mask returns the same embeddings, and needs less time.

    Args:
        tokens: dict of `token_ids`, int (n, sequence_length), and `padding_mask`, bool
            or int (n, sequence_length), true for tokens and false for padding.

    Returns:
        dict of the same tensors (n, length) with 1 ≤ length ≤ sequence_length.

    Example:

    >>> padding = [0] * 61
    >>> token_ids = tf.constant([[2, 7, 3, *padding]])
    >>> mask = tf.constant([[1, 1, 1, *padding]])
    >>> trim_padding({"token_ids": token_ids, "padding_mask": mask})["token_ids"].shape
    TensorShape([1, 8])
    """
    has_token = tf.reduce_any(tf.cast(tokens["padding_mask"], tf.bool), axis=0)
    # A mask may also have padding before tokens, so tokens are not counted.
    ends = tf.range(1, tf.size(has_token) + 1)
    longest = tf.reduce_max(tf.where(has_token, ends, 1))
    length = -(-longest // LENGTH_STEP) * LENGTH_STEP
    return {name: values[:, :length] for name, values in tokens.items()}


def trim_to_bucket(
    tokens: Mapping[str, tf.Tensor | np.ndarray],
) -> dict[str, tf.Tensor | np.ndarray]:
    """Cuts off the columns of padding like `trim_padding`, but to fewer lengths.

    The new length is 16, 32, 64 and so on, and at most `sequence_length`.

    Args:
        tokens: dict as in `trim_padding`, of arrays or tensors with known values.

    Returns:
        dict of the same arrays or tensors (n, length).

    Example:

    >>> mask = np.array([[1] * 17 + [0] * 47])
    >>> trim_to_bucket({"token_ids": 5 * mask, "padding_mask": mask})["token_ids"].shape
    (1, 32)
    """
    has_token = np.asarray(tokens["padding_mask"]).any(axis=0)
    longest = int(np.flatnonzero(has_token)[-1]) + 1 if has_token.any() else 1
    length = SHORTEST_BUCKET
    while length < longest:
        length *= 2
    return {name: values[:, :length] for name, values in tokens.items()}
