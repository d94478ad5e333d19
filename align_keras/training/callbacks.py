"""Callbacks of the training loop."""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras import ops

from align_keras.config.experiment_config import TrainerConfig
from align_keras.training import strategies
from align_keras.training.averaging import averaged_weights
from align_keras.training.checkpoints import RunCheckpoints
from align_keras.training.metrics_log import MetricsLog
from align_keras.utils.progress import progress_bar, say


class EvaluateAndLog(keras.callbacks.Callback):
    """Callback that evaluates and logs at the end of each loop of steps.

    A loop is an epoch of `fit`. The callback adds its metrics to the `logs` of the
    callbacks after it.

    Args:
        checkpoints: `RunCheckpoints`.
        log: `MetricsLog`, or None for workers other than the chief.
        trainer: `TrainerConfig`.
        batch_size: pairs per step over all replicas.
        evaluate: callable without arguments that returns an iterable of
            (name, float), or None.
    """

    def __init__(
        self,
        checkpoints: RunCheckpoints,
        log: MetricsLog | None,
        trainer: TrainerConfig,
        batch_size: int,
        evaluate: Callable | None,
    ) -> None:
        super().__init__()
        self.checkpoints = checkpoints
        self.log = log
        self.trainer = trainer
        self.batch_size = batch_size
        self.evaluate = evaluate
        self._restored_sums: Any = None

    def on_train_begin(self, logs: dict | None = None) -> None:
        # `fit` resets the running means of the metrics. A resumed loop continues with
        # the means of its checkpoint.
        (metric,) = self.model.loss_metrics
        if self.checkpoints.step % self.trainer.steps_per_loop:
            self._restored_sums = metric.sums.numpy()

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._start_time = time.monotonic()
        self._initial_wait = self.model.seconds_waited
        steps_done = self.checkpoints.step % self.trainer.steps_per_loop
        self._steps = self.trainer.steps_per_loop - steps_done
        if self._restored_sums is not None:
            self.model.loss_metrics[0].sums.assign(self._restored_sums)
            self.model.steps_to_skip = steps_done
            self._restored_sums = None

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        step = self.checkpoints.step
        values = {} if logs is None else logs
        if self.log is not None:
            seconds = time.monotonic() - self._start_time
            waited = self.model.seconds_waited - self._initial_wait
            rate = self.model.optimizer.learning_rate
            values["learning_rate"] = float(ops.convert_to_numpy(rate))
            values["pairs_per_second"] = self._steps * self.batch_size / seconds
            values["input_wait_fraction"] = waited / seconds
            self.log.append(step, values)
        is_last = step == self.trainer.train_steps
        if is_last or step % self.trainer.validation_interval == 0:
            values |= self._evaluate(step)

    def _evaluate(self, step: int) -> dict[str, float]:
        """Returns the metrics of the model, and saves it if it is the best one."""
        if self.evaluate is None or self.log is None:
            return {}
        with averaged_weights(self.model):
            values = dict(self.evaluate())
        self.log.append(step, values)
        name = self.trainer.best_checkpoint_eval_metric
        if name is not None:
            higher = self.trainer.best_checkpoint_metric_comp == "higher"
            self.checkpoints.save_if_best(name, values[name], higher)
        return values


class SaveCheckpoint(keras.callbacks.Callback):
    """Callback that saves a checkpoint at the end of a loop of steps.

    It is called after the callbacks that log the loop. If the process is killed in
    between, the resumed run repeats the loop and logs it again.
    """

    def __init__(self, checkpoints: RunCheckpoints, trainer: TrainerConfig) -> None:
        super().__init__()
        self.checkpoints = checkpoints
        self.trainer = trainer

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        step = self.checkpoints.step
        is_last = step == self.trainer.train_steps
        if is_last or step % self.trainer.checkpoint_interval == 0:
            self.checkpoints.save()


class SaveOnSigterm(keras.callbacks.Callback):
    """Callback that saves a checkpoint and ends the process after SIGTERM.

    The checkpoint is saved after the step in which the signal arrived. All workers end
    after the same step, even if only one of them received the signal.
    """

    def __init__(self, checkpoints: RunCheckpoints) -> None:
        super().__init__()
        self.checkpoints = checkpoints
        self.is_requested = False

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Context manager that handles SIGTERM."""
        # Python allows signal handlers only in the main thread.
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous_handler = signal.signal(signal.SIGTERM, self._request)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, previous_handler)

    def _request(self, *_: Any) -> None:
        self.is_requested = True

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        strategy = self.model.distribute_strategy
        if strategies.any_worker(strategy, self.is_requested):
            self.checkpoints.save()
            strategies.wait_for_workers(strategy)
            say(
                f"terminated after step {self.checkpoints.step}, which is saved. Run "
                "the same command again to continue."
            )
            raise SystemExit(0)


def progress_callback(bar: progress_bar, batch_size: int) -> keras.callbacks.Callback:
    """Returns a callback that advances a progress bar by `batch_size` per step."""

    def advance(batch: int, logs: dict) -> None:
        bar.advance(batch_size, f"loss {logs['loss']:.3f}")

    return keras.callbacks.LambdaCallback(on_train_batch_end=advance)
