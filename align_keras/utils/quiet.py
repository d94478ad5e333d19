"""Silence for what native libraries print once and nobody needs."""

import contextlib
import os
import sys


def start_compiler():
    """Has XLA compile something, so that its start-up lines are printed to nobody.

    TensorFlow prints two lines on standard error at its first compilation, past
    Python and past `TF_CPP_MIN_LOG_LEVEL`. Call it once devices are configured.
    """
    import tensorflow as tf

    with _silent_standard_error():
        tf.function(lambda x: x + 1.0, jit_compile=True)(tf.constant(0.0))


@contextlib.contextmanager
def _silent_standard_error():
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
