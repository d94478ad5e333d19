"""Session of a run: locked folder, configured TensorFlow and explained data errors."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from align_keras.config import ExperimentConfig
from align_keras.config.experiment_config import RuntimeConfig, TaskConfig
from align_keras.runs.run_folder import lock_folder
from align_keras.utils.errors import InputError
from align_keras.utils.progress import say

if TYPE_CHECKING:
    import tensorflow as tf

# TensorFlow reports an exception of a Python reader as text with this prefix.
_INPUT_ERROR_MARK = "InputError: "


@contextlib.contextmanager
def run_session(
    config: ExperimentConfig, directory: str | os.PathLike, is_read_only: bool = False
) -> Iterator["tf.distribute.Strategy | None"]:
    """Locks the folder of a run, starts TensorFlow and explains errors of its data.

    Args:
        config: configuration of the run.
        directory: folder of the run.
        is_read_only: True to neither bind nor lock the folder.

    Yields:
        Strategy of the run, or None for a single device.

    Raises:
        InputError: if the folder has another run or is being written, a configured
            device is missing, or a corpus can't be read.
    """
    with lock_folder(config, directory, is_read_only):
        with explain_data_errors(config.task):
            yield start_tensorflow(config.runtime)


def start_tensorflow(runtime: RuntimeConfig) -> "tf.distribute.Strategy | None":
    """Configures the devices and the precision of TensorFlow."""
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


@contextlib.contextmanager
def explain_data_errors(task: TaskConfig) -> Iterator[None]:
    """Converts errors of data readers within TensorFlow to `InputError`.

    Raises:
        InputError: with the message of the reader, or with the names of damaged shards
            of the corpora of `task`.
    """
    try:
        yield
    except Exception as error:
        _, mark, message = str(error).partition(_INPUT_ERROR_MARK)
        if mark and message:
            raise InputError(message.splitlines()[0]) from error
        error_types = (type(error).__name__, type(error.__cause__).__name__)
        if "DataLossError" in error_types:
            from align_keras.datasets.named_corpora import refuse_damaged

            for corpus in (task.train_data.corpus, task.validation_data.corpus):
                if corpus and os.path.isdir(corpus):
                    refuse_damaged(corpus)
        raise
