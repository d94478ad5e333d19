"""What happens at the end of each loop of steps, and the progress bar."""

import time

import keras
from keras import ops

from align_keras.training.averaged_weights import averaged_weights


class LoopEnd(keras.callbacks.Callback):
    """Evaluates, logs and saves at the end of each loop, in this order.

    A loop is one epoch of `fit`. What it logs for a step is on disk before the
    checkpoint of that step, so a kill in between only repeats lines, which the
    resuming run removes.

    Args:
        checkpoints: `RunCheckpoints`.
        log: `MetricsLog`, or None on workers that aren't the chief.
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
        self._metrics_before = None

    def on_train_begin(self, logs=None):
        # `fit` resets the means; those of a loop that was interrupted go on.
        (metric,) = self.model.loss_metrics
        if self.checkpoints.step % self.schedule.steps_per_loop:
            self._metrics_before = metric.sums.numpy()

    def on_epoch_begin(self, epoch, logs=None):
        self._start = time.monotonic()
        self._waited = self.model.seconds_waited
        done = self.checkpoints.step % self.schedule.steps_per_loop
        self._steps = self.schedule.steps_per_loop - done
        if self._metrics_before is not None:
            self.model.loss_metrics[0].sums.assign(self._metrics_before)
            self.model.steps_to_skip = done
            self._metrics_before = None

    def on_epoch_end(self, epoch, logs=None):
        step = self.checkpoints.step
        if self.log is not None:
            self.log.append(step, {**logs, **self._rates()})
        last = step == self.schedule.train_steps
        if last or step % self.schedule.validation_interval == 0:
            self._evaluate(step)
        if last or step % self.schedule.checkpoint_interval == 0:
            self.checkpoints.save()

    def _rates(self):
        seconds = time.monotonic() - self._start
        waited = self.model.seconds_waited - self._waited
        rate = self.model.optimizer.learning_rate
        return {
            "learning_rate": float(ops.convert_to_numpy(rate)),
            "pairs_per_second": self._steps * self.batch_size / seconds,
            "input_wait_fraction": waited / seconds,
        }

    def _evaluate(self, step):
        if self.evaluate is None or self.log is None:
            return
        with averaged_weights(self.model):
            values = dict(self.evaluate())
        self.log.append(step, values)
        name = self.schedule.best_metric
        if name is not None:
            higher = self.schedule.best_is_higher
            self.checkpoints.save_if_best(name, values[name], higher)


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
