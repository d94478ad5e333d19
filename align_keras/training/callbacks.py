"""What happens at the end of each loop of steps, and the progress bar."""

import math
import time

import keras

from align_keras.utils.errors import InputError


class LoopEnd(keras.callbacks.Callback):
    """Checks the loss, evaluates, logs and saves, in this order.

    A loop is one epoch of `fit`. What it logs for a step is on disk before the
    checkpoint of that step, so a kill in between only repeats lines, which the
    resuming run removes.

    Args:
        checkpoints: `RunCheckpoints`.
        log: `MetricsLog`.
        schedule: `TrainingSchedule`.
        batch_size: int, pairs a step over all replicas.
        evaluate: callable of no arguments → iterable of (name, float), or None.
    """

    def __init__(self, checkpoints, log, schedule, batch_size, evaluate):
        super().__init__()
        self.checkpoints = checkpoints
        self.log = log
        self.schedule = schedule
        self.batch_size = batch_size
        self.evaluate = evaluate

    def on_epoch_begin(self, epoch, logs=None):
        self._start = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        step = self.checkpoints.step
        seconds = time.monotonic() - self._start
        check_loss(logs["loss"], step)
        rate = self.schedule.steps_per_loop * self.batch_size / seconds
        learning_rate = float(self.model.optimizer.learning_rate)
        values = {**logs, "learning_rate": learning_rate, "pairs_per_second": rate}
        self.log.append(step, values)
        last = step == self.schedule.train_steps
        due = step % self.schedule.validation_interval == 0
        if self.evaluate is not None and (due or last):
            self.log.append(step, dict(self.evaluate()))
        if step % self.schedule.checkpoint_interval == 0 or last:
            self.checkpoints.save()


def check_loss(loss, step):
    """Raises unless the loss is a finite number."""
    if not math.isfinite(loss):
        raise InputError(
            f"the loss became {loss} at or before step {step}, training stopped; the "
            "checkpoint before it is kept. Lower the learning rate "
            "(trainer.optimizer_config.learning_rate), lengthen the warm-up, or look "
            "for broken pairs, and start again in another --model_dir."
        )


class Progress(keras.callbacks.Callback):
    """Moves a progress bar by a batch of pairs a step.

    Args:
        bar: `progress_bar`, started.
        batch_size: int, pairs a step.
    """

    def __init__(self, bar, batch_size):
        super().__init__()
        self.bar = bar
        self.batch_size = batch_size

    def on_train_batch_end(self, batch, logs=None):
        self.bar.advance(self.batch_size, f"loss {logs['loss']:.3f}")
