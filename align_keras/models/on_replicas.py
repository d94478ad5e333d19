"""Inference on all replicas of a strategy."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf


def is_distributed(strategy: tf.distribute.Strategy) -> bool:
    """Returns True unless the strategy is the default strategy of TensorFlow."""
    with strategy.scope():
        return tf.distribute.has_strategy()


def on_replicas(strategy: tf.distribute.Strategy, function: Callable) -> Callable:
    """Returns a function of n ≥ 1 rows that divides the rows among the replicas.

    Without a `MirroredStrategy` or `TPUStrategy`, the function runs on this process
    alone. With several workers, each worker computes all rows.
    """
    # Outside of `strategy.run`, a TPU isn't used, and only the first GPU is used.
    if not isinstance(
        strategy, tf.distribute.MirroredStrategy | tf.distribute.TPUStrategy
    ):
        return lambda rows: np.asarray(function(rows))
    function = getattr(function, "python_function", function)

    @tf.function(autograph=False, reduce_retracing=True)
    def run(rows: Any) -> Any:
        return strategy.run(function, args=(rows,))

    def compute(rows: Any) -> np.ndarray:
        length = len(tf.nest.flatten(rows)[0])
        shares = tf.nest.map_structure(
            lambda part: _shares(strategy, np.asarray(part)), rows
        )
        results = strategy.experimental_local_results(run(shares))
        return np.concatenate([result.numpy() for result in results])[:length]

    return compute


def _shares(strategy: tf.distribute.Strategy, rows: np.ndarray) -> Any:
    """Divides rows among the replicas in order. Copies of the last row are padding."""
    count = strategy.num_replicas_in_sync
    rows = np.concatenate([rows, np.repeat(rows[-1:], -len(rows) % count, axis=0)])
    parts = iter(np.split(rows, count))
    return strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(next(parts))
    )
