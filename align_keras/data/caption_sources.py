"""Probabilities of the captions of an image by their sources."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from align_keras.utils.errors import InputError

# Feature of an example with the source of each caption.
FEATURE = "caption_sources"


def check_caption_sources(builder: Any) -> None:
    """Raises InputError if the captions of a corpus have no sources."""
    if FEATURE not in builder.info.features:
        raise InputError(
            "caption_sources requires a corpus with the feature caption_sources. "
            f"Received: {builder.name}, whose examples have "
            f"{', '.join(builder.info.features)}. Train on a table with "
            "task.train_data.pairs, on shards with task.train_data.source, or leave "
            "caption_sources out."
        )


def caption_probabilities(
    sources: tf.Tensor, caption_sources: Mapping[str, float]
) -> tf.Tensor:
    """Returns the relative probabilities of the captions of an image.

    The captions of a source share its probability equally. If no caption has one of the
    sources, all captions have the same probability.

    Args:
        sources: string tensor (m,), the source of each caption.
        caption_sources: dict from source to probability.

    Returns:
        Float64 tensor (m,) with a sum above 0, which may differ from 1.

    Example:

    >>> sources = tf.constant(["alt", "alt", "synthetic"])
    >>> caption_probabilities(sources, {"alt": 0.6, "synthetic": 0.4}).numpy()
    array([0.3, 0.3, 0.4])
    """
    names = tf.constant(list(caption_sources))
    probabilities = tf.constant(list(caption_sources.values()), tf.float64)
    belongs = tf.cast(sources[:, None] == names, tf.float64)
    shares = tf.math.divide_no_nan(probabilities, tf.reduce_sum(belongs, axis=0))
    result = tf.linalg.matvec(belongs, shares)
    return tf.where(tf.reduce_sum(result) > 0, result, tf.ones_like(result))
