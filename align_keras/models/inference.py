"""Functions that embed images and other rows, on all replicas of a strategy."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from align_keras.models.compilation import graph_function


def image_function(model: Any) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function that embeds preprocessed images.

    The compiled function is cached until the structure of the encoder changes. It reads
    the current weights at each call.

    Args:
        model: `ALIGN`.

    Returns:
        Function from a float array (n, S, S, 3) of gray levels in [0, 255], with
        S = `model.image_size`, to a float32 array (n, d), rows of unit length.

    Example:

    >>> from align_keras.models import ALIGN
    >>> model = ALIGN.from_preset("align_nano", vocabulary_size=100)
    >>> image_function(model)(np.zeros((1, 64, 64, 3), "float32")).shape[0]
    1
    """
    encoder = model.image_encoder
    config = json.dumps(encoder.get_config(), sort_keys=True, default=str)
    key = (config, [id(variable) for variable in encoder.variables])
    # `vars` bypasses the attribute tracking of Keras.
    cached_key, compute = vars(model).get("_image_function", (None, None))
    if cached_key != key:
        compute = on_replicas(model.distribute_strategy, image_graph(model))
        # One assignment, because other threads may read the cache at any time.
        vars(model)["_image_function"] = (key, compute)
    width = encoder.output_shape[-1]

    def embed(pixels: np.ndarray) -> np.ndarray:
        if not len(pixels):
            return np.zeros((0, width), "float32")
        return np.asarray(compute(np.asarray(pixels, "float32")), "float32")

    return embed


def image_graph(model: Any) -> tf.types.experimental.PolymorphicFunction:
    """Returns a graph of the image encoder with normalization.

    The graph reads the variables of the model at each call.

    Args:
        model: `ALIGN`.

    Returns:
        `tf.function` from float32 (n, S, S, 3) to float32 (n, d), rows of unit length.
    """
    encoder = model.image_encoder
    normalize = model.normalize_image
    shape = (None, model.image_size, model.image_size, 3)
    spec = tf.TensorSpec(shape, tf.float32, name="images")

    def embed(pixels: tf.Tensor) -> tf.Tensor:
        return normalize(encoder(pixels, training=False))

    return graph_function(embed, input_signature=[spec])


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
