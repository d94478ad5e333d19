"""Trains a compiled model in a run's folder, and goes on where it stopped."""

import dataclasses
import os
import pathlib

import keras

from align_keras.training.callbacks import LoopEnd, Progress
from align_keras.training.checkpoints import RunCheckpoints
from align_keras.training.metrics_log import MetricsLog
from align_keras.utils.errors import InputError
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

    Raises:
        InputError: if an interval isn't such a multiple.
    """

    train_steps: int
    steps_per_loop: int
    checkpoint_interval: int
    validation_interval: int
    max_to_keep: int = 3

    def __post_init__(self):
        for name in ("train_steps", "checkpoint_interval", "validation_interval"):
            value = getattr(self, name)
            if value <= 0 or value % self.steps_per_loop:
                raise InputError(
                    f"{name} must be a positive multiple of steps_per_loop, received "
                    f"{value} and {self.steps_per_loop}; change one of them."
                )


def train(model, make_batches, schedule, directory, *, batch_size, evaluate=None):
    """Trains from the newest checkpoint of `directory` to the last step.

    Args:
        model: compiled `ALIGN`.
        make_batches: callable of the step to start at → endless
            `tf.data.Dataset`; batch k must not depend on where it starts.
        schedule: `TrainingSchedule`.
        directory: str, the run's folder: `checkpoints/`, `tensorboard/` and
            `metrics.jsonl` are written there.
        batch_size: int, pairs a step over all replicas.
        evaluate: callable of no arguments → iterable of (name, float), called
            every `validation_interval` steps and at the end; or None.

    Returns:
        `MetricsLog` of the whole run.

    Raises:
        InputError: if the loss becomes NaN or infinite.
    """
    directory = pathlib.Path(directory)
    checkpoints = RunCheckpoints(
        model, os.fspath(directory / "checkpoints"), schedule.max_to_keep
    )
    step = checkpoints.restore_latest()
    log = MetricsLog(directory / "metrics.jsonl")
    log.truncate_after(step)
    if step >= schedule.train_steps:
        return log
    if step:
        say(f"going on at step {step} of {schedule.train_steps}")
    else:
        # A kill before the first interval then repeats the same beginning.
        checkpoints.save()
    total, done = schedule.train_steps * batch_size, step * batch_size
    with progress_bar("training", "pairs", total, done) as bar:
        model.fit(
            make_batches(step),
            initial_epoch=step // schedule.steps_per_loop,
            epochs=schedule.train_steps // schedule.steps_per_loop,
            steps_per_epoch=schedule.steps_per_loop,
            verbose=0,
            callbacks=[
                Progress(bar, batch_size),
                LoopEnd(checkpoints, log, schedule, batch_size, evaluate),
                keras.callbacks.TensorBoard(
                    os.fspath(directory / "tensorboard"), write_graph=False
                ),
            ],
        )
    return log
