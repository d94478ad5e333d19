"""Conversion of TensorFlow errors about corpora to `InputError`."""

import contextlib
import os
from collections.abc import Iterator

from align_keras.config.experiment_config import TaskConfig
from align_keras.utils.errors import InputError

# TensorFlow reports an exception of a Python reader as text with this prefix.
_INPUT_ERROR_MARK = "InputError: "


@contextlib.contextmanager
def explain_data_errors(task: TaskConfig) -> Iterator[None]:
    """Converts errors of data readers within TensorFlow to `InputError`.

    Args:
        task: `TaskConfig`. Its corpora are searched for damaged shards.

    Raises:
        InputError: with the message of the reader, or with the names of damaged
            shards.
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
