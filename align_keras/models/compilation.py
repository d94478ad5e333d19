"""Compilation of steps and other functions of a model."""

import functools
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

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
