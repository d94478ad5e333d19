"""SIGTERM in training: save, then end with exit code 0."""

import contextlib
import signal
import threading

import keras

from align_keras.training.strategies import any_worker, wait_for_workers
from align_keras.utils.progress import say


class Terminated(SystemExit):
    """The run was asked to end, and has saved its state; exit code 0."""

    def __init__(self):
        super().__init__(0)


class SaveOnSigterm(keras.callbacks.Callback):
    """Saves after the step in which SIGTERM arrived, and ends the process.

    Of several workers, all end after the same step, whichever of them is asked to.

    Args:
        checkpoints: `RunCheckpoints`.
    """

    def __init__(self, checkpoints):
        super().__init__()
        self.checkpoints = checkpoints
        self.asked = False

    @contextlib.contextmanager
    def listening(self):
        """Catches SIGTERM within the block; Python allows it in the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGTERM, self._ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def _ask(self, *_):
        self.asked = True

    def on_train_batch_end(self, batch, logs=None):
        strategy = self.model.distribute_strategy
        if any_worker(strategy, self.asked):
            self.checkpoints.save()
            wait_for_workers(strategy)
            say(
                f"terminated; step {self.checkpoints.step} is saved, and the same "
                "command goes on from it"
            )
            raise Terminated
