"""Configuration of TensorFlow at the start of a run."""

import sys
from typing import TYPE_CHECKING

from align_keras.config.experiment_config import RuntimeConfig
from align_keras.utils.progress import say

if TYPE_CHECKING:
    import tensorflow as tf


def start_tensorflow(runtime: RuntimeConfig) -> "tf.distribute.Strategy | None":
    """Configures the devices and the precision of TensorFlow for a run.

    Args:
        runtime: `RuntimeConfig`.

    Returns:
        `tf.distribute.Strategy`, or None for a single device.

    Raises:
        InputError: if a configured device is missing.
    """
    if "tensorflow" not in sys.modules:
        say("starting TensorFlow")
    import keras

    from align_keras.training.strategies import make_strategy
    from align_keras.utils.quiet import start_compiler

    strategy = make_strategy(
        runtime.distribution_strategy, runtime.num_replicas, runtime.tpu
    )
    keras.config.set_dtype_policy(runtime.mixed_precision_dtype)
    start_compiler()
    return strategy
