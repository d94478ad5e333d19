"""Compilation of single functions by XLA within a step that XLA doesn't compile."""

from collections.abc import Callable
from typing import Any


def compiled(function: Callable) -> Callable:
    """Compiles a function of tensors with XLA.

    On a TPU, XLA compiles the whole step. The function is then called as it is.

    Args:
        function: callable that takes and returns tensors.

    Returns:
        A callable with the arguments and the result of `function`.
    """
    import tensorflow as tf

    xla_function = tf.function(function, jit_compile=True, autograph=False)

    def call(*tensors: Any) -> Any:
        on_tpu = isinstance(tf.distribute.get_strategy(), tf.distribute.TPUStrategy)
        return (function if on_tpu else xla_function)(*tensors)

    return call
