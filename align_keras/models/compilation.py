"""Compilation of steps, and the lengths of captions that it needs."""

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from align_keras.data.model_inputs import INPUTS
from align_keras.text.padding import (
    LENGTH_STEP,
    bucket_lengths,
    longest_caption,
    trim_padding,
)
from align_keras.utils.errors import InputError


def graph_function(
    function: Callable, **options: Any
) -> tf.types.experimental.PolymorphicFunction:
    """Returns a `tf.function` of one model.

    TensorFlow warns about retracing if functions with the same code are traced often,
    such as those of several models. A partial has no code of its own.
    """
    return tf.function(functools.partial(function), autograph=False, **options)


def is_compiled_by_xla(model: keras.Model) -> bool:
    """Returns True if XLA compiles the steps of the model, as always on TPUs."""
    return model.jit_compile or _has_tpus(model.distribute_strategy)


def resolve_jit_compile(
    jit_compile: bool | str, strategy: tf.distribute.Strategy
) -> bool | str:
    """Returns the value of `jit_compile` for the strategy of a model.

    Args:
        jit_compile: argument of `compile`.
        strategy: strategy of the model.

    Returns:
        False on TPUs, whose strategy compiles each step itself. Elsewhere the argument.

    Raises:
        InputError: if XLA would have to compile a step for several replicas. It can't
            compile their communication.
    """
    if _has_tpus(strategy):
        return False
    replicas = strategy.num_replicas_in_sync
    if jit_compile is True and replicas > 1:
        raise InputError(
            "jit_compile must be False with several replicas, because XLA can't "
            "compile their communication. Received: jit_compile=True on "
            f"{replicas} replicas. Leave jit_compile out."
        )
    return jit_compile


def _has_tpus(strategy: tf.distribute.Strategy) -> bool:
    return isinstance(strategy, tf.distribute.TPUStrategy)


# === Lengths of captions ===


def model_inputs(model: keras.Model, inputs: dict) -> dict:
    """Returns the entries of a batch that the model reads, without common padding.

    The captions of a batch are shortened to the longest one, which does not change
    embeddings. A step that XLA compiles needs a known length, so `fit` and `evaluate`
    shorten its captions before (see `common_length_function`).
    """
    chosen = {name: inputs[name] for name in INPUTS}
    if is_compiled_by_xla(model):
        return chosen
    tokens = {name: chosen[name] for name in ("token_ids", "padding_mask")}
    return {**chosen, **trim_padding(tokens, LENGTH_STEP)}


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
        length: result of `common_length_function`.
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
