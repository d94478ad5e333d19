"""Functions that XLA compiles by themselves, out of a step that it doesn't."""

from collections.abc import Callable
from typing import Any


def compiled(function: Callable) -> Callable:
    """A function of tensors, compiled by XLA; on a TPU, where the whole step is, as it
    is.
    """
    import tensorflow as tf

    by_itself = tf.function(function, jit_compile=True, autograph=False)

    def call(*tensors: Any) -> Any:
        on_tpu = isinstance(tf.distribute.get_strategy(), tf.distribute.TPUStrategy)
        return (function if on_tpu else by_itself)(*tensors)

    return call
