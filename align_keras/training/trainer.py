"""Trains a compiled model in a run's folder, and goes on where it stopped."""

import contextlib
import os
import pathlib
import signal
import threading
import time
from collections.abc import Callable, Iterator

import keras
from keras import ops

from align_keras.config import TrainerConfig
from align_keras.models import ALIGN
from align_keras.models.contrastive_model import NonFiniteStepError
from align_keras.optimizers.replica_gradients import inner_optimizer
from align_keras.training import strategies
from align_keras.training.checkpoints import RunCheckpoints
from align_keras.training.diagnosis import explained
from align_keras.training.metrics_log import MetricsLog
from align_keras.utils.progress import progress_bar, say


def train(
    model: ALIGN,
    make_batches: Callable,
    schedule: TrainerConfig,
    directory: str | os.PathLike,
    *,
    batch_size: int,
    evaluate: Callable | None = None,
    batch_ids: Callable | None = None,
) -> MetricsLog:
    """Trains from the newest checkpoint of `directory` to the last step.

    SIGTERM saves after the step that is being made and raises `SystemExit(0)`.

    Args:
        model: compiled `ALIGN`.
        make_batches: callable of `start_step` → endless `tf.data.Dataset`; batch k
            must not depend on where it starts. On several workers it is called with
            `input_pipeline_id=i` and `num_input_pipelines=n` too, and returns worker
            i's rows of each batch.
        schedule: `TrainerConfig`, steps and intervals.
        directory: str, the run's folder: `checkpoints/`, `tensorboard/` and
            `metrics.jsonl` are written there; on several workers one that all of
            them see.
        batch_size: int, pairs a step over all replicas.
        evaluate: callable of no arguments → iterable of (name, float), called
            every `validation_interval` steps and at the end; or None.
        batch_ids: callable of a `step` → list of str, the pairs of its batch, for
            `diagnosis.json`, called as `make_batches` on several workers; or None.

    Returns:
        `MetricsLog` of the whole run.

    Raises:
        InputError: at a step whose loss or gradient isn't finite, or whose loss
            is above its bound. The state before it is saved, and `diagnosis.json`
            says which tower and which pairs.
    """
    directory = pathlib.Path(directory)
    chief = strategies.is_chief(model.distribute_strategy)
    steps_made = 0
    if model.optimizer is not None:
        steps_made = int(model.optimizer.iterations.numpy())
    model.resolve_recipe(schedule.train_steps, batch_size, steps_made)
    checkpoints = RunCheckpoints(
        model, os.fspath(directory / "checkpoints"), schedule.max_to_keep, chief
    )
    step = checkpoints.restore_latest()
    log = MetricsLog(directory / "metrics.jsonl")
    if chief:
        log.truncate_after(step)
    if step >= schedule.train_steps:
        use_averaged_weights(model)
        return log
    if step:
        say(f"going on at step {step} of {schedule.train_steps}")
    else:
        # A kill before the first interval then repeats the same beginning.
        checkpoints.save()
    loop_end = LoopEnd(
        checkpoints, log if chief else None, schedule, batch_size, evaluate
    )
    recipe = model.recipe
    try:
        # `fit` keeps the schedule of the whole run when a part of it is left.
        model.recipe = None
        fit(model, make_batches, directory, loop_end)
    except NonFiniteStepError as error:
        checkpoints.save()
        if not chief:
            raise
        raise explained(error, model, make_batches, batch_ids, directory) from None
    finally:
        model.recipe = recipe
    return log


def fit(
    model: ALIGN, make_batches: Callable, directory: pathlib.Path, loop_end: "LoopEnd"
) -> None:
    """Runs `model.fit` over the loops that are left."""
    schedule, batch_size = loop_end.schedule, loop_end.batch_size
    loop, first = schedule.steps_per_loop, loop_end.checkpoints.step
    sigterm = SaveOnSigterm(loop_end.checkpoints)
    total, done = schedule.train_steps * batch_size, first // loop * loop * batch_size
    strategy = model.distribute_strategy
    batches = strategies.distributed_batches(strategy, make_batches, first)
    start, waited = time.monotonic(), model.seconds_waited
    with progress_bar("training", "pairs", total, done) as bar, sigterm.listening():
        callbacks = [progress_callback(bar, batch_size), loop_end, sigterm]
        if loop_end.log is not None:
            callbacks.append(
                keras.callbacks.TensorBoard(
                    os.fspath(directory / "tensorboard"), write_graph=False
                )
            )
        model.fit(
            batches,
            initial_epoch=first // loop,
            epochs=schedule.train_steps // loop,
            steps_per_epoch=loop,
            shuffle=False,  # The batches are.
            verbose=0,
            callbacks=callbacks,
        )
    seconds, waited = time.monotonic() - start, model.seconds_waited - waited
    say(
        f"trained for {seconds:.0f} s, of which {waited:.1f} s "
        f"({100 * waited / seconds:.1f}%) waiting for input"
    )


class LoopEnd(keras.callbacks.Callback):
    """Evaluates, logs and saves at the end of each loop, an epoch of `fit`.

    What it logs for a step is on disk before the checkpoint, so a kill in between only
    repeats lines, which the resuming run removes. Only the chief has a `log`.
    """

    def __init__(self, checkpoints, log, schedule, batch_size, evaluate):
        super().__init__()
        self.checkpoints = checkpoints
        self.log = log
        self.schedule = schedule
        self.batch_size = batch_size
        self.evaluate = evaluate
        self._metrics_before = None

    def on_train_begin(self, logs: dict | None = None) -> None:
        # `fit` resets the means; those of a loop that was interrupted go on.
        (metric,) = self.model.loss_metrics
        if self.checkpoints.step % self.schedule.steps_per_loop:
            self._metrics_before = metric.sums.numpy()

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._start = time.monotonic()
        self._waited = self.model.seconds_waited
        done = self.checkpoints.step % self.schedule.steps_per_loop
        self._steps = self.schedule.steps_per_loop - done
        if self._metrics_before is not None:
            self.model.loss_metrics[0].sums.assign(self._metrics_before)
            self.model.steps_to_skip = done
            self._metrics_before = None

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        step = self.checkpoints.step
        if self.log is not None:
            seconds = time.monotonic() - self._start
            waited = self.model.seconds_waited - self._waited
            rate = self.model.optimizer.learning_rate
            rates = {
                "learning_rate": float(ops.convert_to_numpy(rate)),
                "pairs_per_second": self._steps * self.batch_size / seconds,
                "input_wait_fraction": waited / seconds,
            }
            self.log.append(step, {**(logs or {}), **rates})
        last = step == self.schedule.train_steps
        if last or step % self.schedule.validation_interval == 0:
            self._evaluate(step)
        if last or step % self.schedule.checkpoint_interval == 0:
            self.checkpoints.save()

    def _evaluate(self, step):
        if self.evaluate is None or self.log is None:
            return
        with averaged_weights(self.model):
            values = dict(self.evaluate())
        self.log.append(step, values)
        name = self.schedule.best_checkpoint_eval_metric
        if name is not None:
            higher = self.schedule.best_checkpoint_metric_comp == "higher"
            self.checkpoints.save_if_best(name, values[name], higher)


@contextlib.contextmanager
def averaged_weights(model: ALIGN) -> Iterator[None]:
    """Puts the average into the model within the block; nothing without one."""
    if not inner_optimizer(model.optimizer).use_ema:
        yield
        return
    weights = [variable.numpy() for variable in model.trainable_variables]
    use_averaged_weights(model)
    try:
        yield
    finally:
        for variable, value in zip(model.trainable_variables, weights, strict=True):
            variable.assign(value)


def use_averaged_weights(model: keras.Model) -> None:
    """Puts the average into the model for good, as Keras does at the end of `fit`."""
    model.optimizer.finalize_variable_values(model.trainable_variables)


class SaveOnSigterm(keras.callbacks.Callback):
    """Saves after the step in which SIGTERM arrived, and ends the process.

    Of several workers, all end after the same step, whichever of them is asked to.
    """

    def __init__(self, checkpoints):
        super().__init__()
        self.checkpoints = checkpoints
        self.asked = False

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
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

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        strategy = self.model.distribute_strategy
        if strategies.any_worker(strategy, self.asked):
            self.checkpoints.save()
            strategies.wait_for_workers(strategy)
            say(
                f"terminated; step {self.checkpoints.step} is saved, and the same "
                "command goes on from it"
            )
            raise SystemExit(0)


def progress_callback(bar: progress_bar, batch_size: int) -> keras.callbacks.Callback:
    """Returns what moves a progress bar by a batch of pairs a step."""

    def advance(batch, logs):
        bar.advance(batch_size, f"loss {logs['loss']:.3f}")

    return keras.callbacks.LambdaCallback(on_train_batch_end=advance)
