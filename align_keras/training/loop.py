"""Training loop of a run."""

import os
import pathlib
import time
from collections.abc import Callable, Sequence

import keras

from align_keras.config.experiment_config import TrainerConfig
from align_keras.models import ALIGN
from align_keras.models.fit_callbacks import NonFiniteStepError
from align_keras.models.recipe import choose_optimizer
from align_keras.training import strategies
from align_keras.training.averaging import use_averaged_weights
from align_keras.training.callbacks import (
    EvaluateAndLog,
    SaveCheckpoint,
    SaveOnSigterm,
    progress_callback,
)
from align_keras.training.checkpoints import RunCheckpoints
from align_keras.training.diagnosis import diagnosed_error
from align_keras.training.metrics_log import MetricsLog
from align_keras.utils.progress import progress_bar, say


def train_model(
    model: ALIGN,
    make_batches: Callable,
    trainer: TrainerConfig,
    directory: str | os.PathLike,
    *,
    batch_size: int,
    evaluate: Callable | None = None,
    batch_ids: Callable | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> MetricsLog:
    """Trains from the newest checkpoint in a folder to the last step.

    SIGTERM saves a checkpoint after the current step and raises `SystemExit(0)`.

    Args:
        model: compiled `ALIGN`.
        make_batches: callable of `start_step` that returns an endless
            `tf.data.Dataset`. Batch k must not depend on `start_step`. With several
            workers it also receives `input_pipeline_id=i` and
            `num_input_pipelines=n`, and returns the rows of worker i of each batch.
        trainer: `TrainerConfig`, the number of steps and the intervals.
        directory: folder of the run, for `checkpoints/` and `metrics.jsonl`. All
            workers must have access to it.
        batch_size: pairs per step over all replicas.
        evaluate: callable without arguments that returns an iterable of
            (name, float). It is called every `validation_interval` steps and after
            the last step. None skips the evaluation.
        batch_ids: callable of `step` that returns the ids of the pairs of its batch, a
            list of str, for `diagnosis.json`. With several workers it receives the same
            keywords as `make_batches`. None if the ids are unknown.
        callbacks: callbacks whose epochs are the loops of `steps_per_loop` steps. Their
            `logs` have the metrics of `metrics.jsonl`, recall included. A
            `TrainingDoctor` checks the training.

    Returns:
        `MetricsLog` of the whole run.

    Raises:
        InputError: if a loss or gradient isn't finite, or a loss is above its bound.
            The state before that step is saved, and `diagnosis.json` names the encoder
            and the pairs.

    Example:

    ```python
    builder = align_keras.datasets.open_corpus("pairs", pairs="pairs.csv")
    vocabulary = align_keras.learn_vocabulary(["a temple", "a flower"] * 2, 30)
    model = align_keras.ALIGN.from_preset("align_nano", vocabulary=vocabulary)
    model.compile()


    def make_batches(start_step):
        return align_keras.data.training_batches(
            builder, "train", model.preprocessor, batch_size=4, start_step=start_step
        )


    trainer = align_keras.config.TrainerConfig(train_steps=2, steps_per_loop=1)
    log = train_model(model, make_batches, trainer, "run", batch_size=4)
    log.newest()["step"]  # 2
    ```
    """
    directory = pathlib.Path(directory)
    strategy = model.distribute_strategy
    is_chief = strategies.is_chief(strategy)

    # === Restore the newest checkpoint ===
    initial_step = 0
    if model.optimizer is not None:
        initial_step = int(model.optimizer.iterations.numpy())
    choose_optimizer(model, trainer.train_steps, batch_size, initial_step)
    checkpoints = RunCheckpoints(
        model, directory / "checkpoints", trainer.max_to_keep, is_chief
    )
    step = checkpoints.restore_latest()
    log = MetricsLog(directory / "metrics.jsonl")
    if is_chief:
        log.truncate_after(step)
    if step >= trainer.train_steps:
        use_averaged_weights(model)
        return log
    if step:
        say(f"resuming at step {step} of {trainer.train_steps}")
    else:
        # A run that is killed before its first checkpoint interval restarts from the
        # same initial weights.
        checkpoints.save()

    # === Create the callbacks ===
    sigterm = SaveOnSigterm(checkpoints)
    bar = progress_bar(
        "training",
        "pairs",
        trainer.train_steps * batch_size,
        step // trainer.steps_per_loop * trainer.steps_per_loop * batch_size,
    )
    all_callbacks: list[keras.callbacks.Callback] = [
        progress_callback(bar, batch_size),
        EvaluateAndLog(
            checkpoints, log if is_chief else None, trainer, batch_size, evaluate
        ),
        *callbacks,
        SaveCheckpoint(checkpoints, trainer),
        sigterm,
    ]

    # === Train ===
    batches = strategies.distributed_batches(strategy, make_batches, step)
    start_time = time.monotonic()
    initial_wait = model.seconds_waited
    # Without a recipe, `fit` doesn't replace the schedule of the whole run by one for
    # the remaining steps.
    recipe = model.recipe
    model.recipe = None
    try:
        with bar, sigterm.listening():
            model.fit(
                batches,
                initial_epoch=step // trainer.steps_per_loop,
                epochs=trainer.train_steps // trainer.steps_per_loop,
                steps_per_epoch=trainer.steps_per_loop,
                shuffle=False,  # `make_batches` has shuffled the pairs.
                verbose=0,
                callbacks=all_callbacks,
            )
    except NonFiniteStepError as error:
        checkpoints.save()
        if not is_chief:
            raise
        raise diagnosed_error(
            error, model, make_batches, batch_ids, directory
        ) from None
    finally:
        model.recipe = recipe
    seconds = time.monotonic() - start_time
    waited = model.seconds_waited - initial_wait
    say(
        f"trained for {seconds:.0f} s, of which {waited:.1f} s "
        f"({100 * waited / seconds:.1f}%) waiting for input"
    )
    return log
