"""Trains a compiled model in a run's folder, and goes on where it stopped."""

import dataclasses
import json
import os
import pathlib
import time

import keras
import numpy as np

from align_keras.models.contrastive_model import NonFiniteStepError
from align_keras.training.averaged_weights import use_averaged_weights
from align_keras.training.callbacks import LoopEnd, Progress
from align_keras.training.checkpoints import RunCheckpoints
from align_keras.training.diagnosis import describe, diagnose
from align_keras.training.metrics_log import MetricsLog
from align_keras.training.strategies import (
    distributed_batches,
    is_chief,
    worker_count,
)
from align_keras.training.termination import SaveOnSigterm
from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_write
from align_keras.utils.progress import progress_bar, say


@dataclasses.dataclass(frozen=True)
class TrainingSchedule:
    """How long to train and how often to look up, in steps.

    Attributes:
        train_steps: int, a multiple of `steps_per_loop`.
        steps_per_loop: int; losses are averaged and logged over a loop.
        checkpoint_interval: int, a multiple of `steps_per_loop`.
        validation_interval: int, a multiple of `steps_per_loop`.
        max_to_keep: int ≥ 1, checkpoints kept.
        best_metric: str, the metric whose best checkpoint is kept too, or None.
        best_is_higher: bool, whether a higher value of it is better.

    Raises:
        InputError: if an interval isn't such a multiple.
    """

    train_steps: int
    steps_per_loop: int
    checkpoint_interval: int
    validation_interval: int
    max_to_keep: int = 3
    best_metric: str | None = None
    best_is_higher: bool = True

    def __post_init__(self):
        for name in ("train_steps", "checkpoint_interval", "validation_interval"):
            value = getattr(self, name)
            if value <= 0 or value % self.steps_per_loop:
                raise InputError(
                    f"{name} must be a positive multiple of steps_per_loop, received "
                    f"{value} and {self.steps_per_loop}; change one of them."
                )


def train(
    model,
    make_batches,
    schedule,
    directory,
    *,
    batch_size,
    evaluate=None,
    batch_ids=None,
):
    """Trains from the newest checkpoint of `directory` to the last step.

    SIGTERM saves after the step that is being made and raises `SystemExit(0)`.

    Args:
        model: compiled `ALIGN`.
        make_batches: callable of the step to start at → endless
            `tf.data.Dataset`; batch k must not depend on where it starts. On
            several workers it is called with `input_pipeline_id=i` and
            `num_input_pipelines=n` too, and returns worker i's rows of each batch.
        schedule: `TrainingSchedule`.
        directory: str, the run's folder: `checkpoints/`, `tensorboard/` and
            `metrics.jsonl` are written there; on several workers one that all of
            them see.
        batch_size: int, pairs a step over all replicas.
        evaluate: callable of no arguments → iterable of (name, float), called
            every `validation_interval` steps and at the end; or None.
        batch_ids: callable of a step → list of str, the pairs of its batch, for
            `diagnosis.json`, or None where they can't be known; called as
            `make_batches` on several workers. Or None.

    Returns:
        `MetricsLog` of the whole run.

    Raises:
        InputError: at a step whose loss or gradient isn't finite, or whose loss
            is above its bound. The state before it is saved, and `diagnosis.json`
            says which tower and which pairs.
    """
    directory = pathlib.Path(directory)
    chief = is_chief(model.distribute_strategy)
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
    try:
        fit(model, make_batches, schedule, directory, loop_end, batch_size)
    except NonFiniteStepError as error:
        checkpoints.save()
        if not chief:
            raise
        raise explained(error, model, make_batches, batch_ids, directory) from None
    return log


def fit(model, make_batches, schedule, directory, loop_end, batch_size):
    """Runs `model.fit` over the loops that are left."""
    loop, first = schedule.steps_per_loop, loop_end.checkpoints.step
    sigterm = SaveOnSigterm(loop_end.checkpoints)
    total, done = schedule.train_steps * batch_size, first // loop * loop * batch_size
    batches = distributed_batches(model.distribute_strategy, make_batches, first)
    start, waited = time.monotonic(), model.seconds_waited
    with progress_bar("training", "pairs", total, done) as bar, sigterm.listening():
        callbacks = [Progress(bar, batch_size), loop_end, sigterm]
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
            verbose=0,
            callbacks=callbacks,
        )
    seconds, waited = time.monotonic() - start, model.seconds_waited - waited
    say(
        f"trained for {seconds:.0f} s, of which {waited:.1f} s "
        f"({100 * waited / seconds:.1f}%) waiting for input"
    )


def explained(error, model, make_batches, batch_ids, directory):
    """Writes `diagnosis.json`; returns the error that says what it found."""
    step, inputs, ids = error.step - 1, [], []
    count = worker_count(model.distribute_strategy)
    for number in range(count):
        part = {"input_pipeline_id": number, "num_input_pipelines": count}
        part = part if count > 1 else {}
        inputs.append(next(make_batches(step, **part).as_numpy_iterator()))
        own = batch_ids(step, **part) if batch_ids is not None else None
        ids = None if own is None or ids is None else ids + own
    inputs = {name: np.concatenate([own[name] for own in inputs]) for name in inputs[0]}
    diagnosis = diagnose(model, inputs, ids, error)
    with atomic_write(directory / "diagnosis.json") as file:
        json.dump(diagnosis, file, indent=1)
    return InputError(
        f"{describe(diagnosis)}; {error} The state before that step is saved, and "
        f"{directory / 'diagnosis.json'} says more."
    )
