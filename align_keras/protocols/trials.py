"""Trials of the protocols that train: from a recipe to the results of classifiers."""

import dataclasses
import functools
import gc
import importlib
import json
import math
import os
import pathlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from align_keras.config import FineTuningConfig
from align_keras.config.recipe_config import HeadStageConfig
from align_keras.data import evaluation_batches, labeled_batches
from align_keras.embedders.loading import worker_model
from align_keras.models.image_classifier import (
    ImageClassifier,
    encoder_without_projection,
)
from align_keras.preprocessing.image_converter import ALIGNImageConverter
from align_keras.protocols.cached_encoders import checked_path, results_folder
from align_keras.protocols.protocol import Request
from align_keras.protocols.trial_results import read_results, run_trials, trial_key
from align_keras.training.classification import FineTuningStage, classify, fine_tune
from align_keras.training.strategies import make_strategy, strategy_scope
from align_keras.utils.errors import InputError
from align_keras.utils.progress import progress_bar, say
from align_keras.utils.quiet import start_compiler
from align_keras.utils.tasks import check_same, is_cluster, process_count, run_tasks

if TYPE_CHECKING:
    from align_keras.embedders import Embedder

# Version of the training and evaluation code. Increase it if the same recipe, images
# and seed give other results, so that old results on disk aren't reused.
TRIALS_VERSION = 1

# Options of a sweep that are drawn log-uniformly between two values.
_RANGES = ("learning_rate", "weight_decay")
# Options of a sweep that are drawn from several values.
_CHOICES = ("steps", "batch_size", "crop", "flip")
# Options of a sweep that belong to the last stage. All others belong to the recipe.
_STAGE_OPTIONS = ("learning_rate", "steps")


def build_stages(
    recipe: FineTuningConfig,
    make_batches: Callable[[int, int], tf.data.Dataset],
    count: int,
) -> list[FineTuningStage]:
    """Builds the stages of a recipe.

    Args:
        recipe: `FineTuningConfig`.
        make_batches: function from the image size and the first step to the batches.
        count: number of training images.
    """
    stages = []
    for name in ("head", "full"):
        stage = getattr(recipe, name)
        if stage.is_skipped:
            continue
        steps = stage.length(recipe.batch_size, count)
        stages.append(
            FineTuningStage(
                make_batches=functools.partial(make_batches, stage.train_size),
                steps=steps,
                learning_rate=stage_schedule(stage, steps, count / recipe.batch_size),
                learns_encoder=name == "full",
                encoder_multiplier=getattr(stage, "backbone_multiplier", 1.0),
            )
        )
    return stages


def stage_schedule(
    stage: HeadStageConfig, steps: int, steps_per_epoch: float
) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """Returns the learning rate or the schedule of a stage."""
    rate = stage.learning_rate
    schedules = keras.optimizers.schedules
    if stage.schedule == "constant":
        return rate
    if stage.schedule == "cosine":
        return schedules.CosineDecay(rate, steps)
    starts: list[int] = []
    values = [rate]
    while True:
        start = round(len(values) * stage.decay_epochs * steps_per_epoch)
        if start >= steps:
            break
        # Keras changes the rate one step after the boundary, and counts steps from 0.
        starts.append(max(start - 1, 0))
        values.append(values[-1] * stage.decay_factor)
    return schedules.PiecewiseConstantDecay(starts, values) if starts else rate


def swept_recipe(recipe: FineTuningConfig, number: int) -> FineTuningConfig:
    """Returns the recipe of a trial of the sweep, with randomly drawn options."""
    random = np.random.default_rng((recipe.seed, number))
    drawn: dict[str, Any] = {}
    for name in _RANGES:
        if values := getattr(recipe.sweep, name):
            least, greatest = map(math.log, values)
            drawn[name] = math.exp(random.uniform(least, greatest))
    for name in _CHOICES:
        if values := getattr(recipe.sweep, name):
            drawn[name] = values[int(random.integers(len(values)))]
    stage_options = {name: drawn.pop(name) for name in _STAGE_OPTIONS if name in drawn}
    if "steps" in stage_options:
        stage_options["epochs"] = None
    last = recipe.last_stage
    stage = getattr(recipe, last).model_copy(update=stage_options)
    return recipe.model_copy(update={**drawn, last: stage})


@dataclasses.dataclass(frozen=True)
class Trial:
    """One training of a classifier.

    Attributes:
        task: task of VTAB, or "".
    """

    task: str
    train_split: str
    test_split: str
    recipe: FineTuningConfig
    seed: int

    def inputs(self, model: str, data: str | list[str]) -> dict[str, Any]:
        """Returns all inputs of the trial that its result depends on, as JSON values.

        Args:
            model: fingerprint of the image encoder.
            data: identity of the data.
        """
        recipe = self.recipe.model_dump(mode="json")
        # These options belong to a set of trials, or have no influence on the result.
        for name in ("runs", "seed", "sweep", "checkpoint_interval"):
            del recipe[name]
        return {
            "model": model,
            "data": data,
            "splits": [self.task, self.train_split, self.test_split],
            "recipe": recipe,
            "seed": self.seed,
            "version": TRIALS_VERSION,
        }

    def accuracy(self, result: dict[str, list[int]]) -> str:
        """Returns a line with the accuracy of a result."""
        ranks = np.array(result["ranks"])
        return f"{self}: {100 * np.mean(ranks < 1):.1f}% of {len(ranks)} images"

    def __str__(self) -> str:
        return f"{self.task or 'training'}, seed {self.seed}"


def open_devices(
    recipe: FineTuningConfig, request: Request
) -> tf.distribute.Strategy | None:
    """Returns the strategy of a recipe, or None.

    This must be called before TensorFlow computes anything.

    Raises:
        InputError: if several processes would share the devices.
    """
    strategy = recipe.runtime.distribution_strategy
    cluster = is_cluster(request.engine)
    if strategy != "default" and (cluster or request.workers > 1):
        option = "engine" if cluster else "workers"
        expected = "local" if cluster else "1"
        value = request.engine if cluster else str(request.workers)
        raise InputError(
            f"{option} must be {expected} if runtime.distribution_strategy is "
            f"{strategy}, because all replicas train one trial. Received: "
            f"{option}={value}."
        )
    runtime = recipe.runtime
    return make_strategy(
        runtime.distribution_strategy, runtime.num_replicas, runtime.tpu
    )


def finished(
    trials: Sequence[Trial],
    data: Any,
    model: "Embedder",
    request: Request,
    strategy: tf.distribute.Strategy | None = None,
) -> list[dict[str, list[int]]]:
    """Runs the trials that aren't finished, and returns the results of all trials.

    Returns:
        List of dicts with `ranks`, `predictions` and `left_out`, the rows of images
        that can't be decoded.

    Raises:
        InputError: if another process runs some of the trials.
    """
    directory = results_folder(request.results)
    tasks = dict.fromkeys(trial.task for trial in trials)
    identities = {task: data.identity(task) for task in tasks}
    keys = [
        trial_key(trial.inputs(model.image_fingerprint, identities[trial.task]))
        for trial in trials
    ]
    by_key = dict(zip(keys, trials, strict=True))
    done = read_results(by_key, directory)
    waiting = {key: trial for key, trial in by_key.items() if key not in done}
    if waiting:
        say(f"training {len(waiting)} of {len(by_key)} trials, results in {directory}")
    cluster = is_cluster(request.engine)
    if waiting and (cluster or min(len(waiting), request.workers) > 1):
        _run_as_tasks(waiting, data, model, request, directory)
    elif waiting:
        assert model.align is not None  # `trainable_model` opened it.
        runner = TrialRunner(model.align.image_encoder, data, strategy)
        run_trials(waiting, runner, directory)
    results = read_results(by_key, directory)
    running_count = len(by_key) - len(results)
    if running_count:
        raise InputError(
            f"All trials must be finished. Received: {running_count} of {len(by_key)} "
            "trials that another process is running. Wait until it has finished, and "
            "run the same command again."
        )
    return [results[key] for key in keys]


def _absolute_name(name: str) -> str:
    """Returns the absolute path of a local file. Other names are returned unchanged."""
    return os.path.abspath(name) if os.path.exists(name) else name


def _run_as_tasks(
    trials: Mapping[str, Trial],
    data: Any,
    model: "Embedder",
    request: Request,
    directory: pathlib.Path,
) -> None:
    """Runs each trial as a task in another process of this machine or of a cluster."""
    directory.mkdir(parents=True, exist_ok=True)
    cluster = is_cluster(request.engine)
    workers = None if cluster else min(request.workers, len(trials))
    worker_request = dataclasses.replace(
        request,
        data=_absolute_name(request.data),
        classes=request.classes and _absolute_name(request.classes),
        # Only sliced metrics need the metadata.
        metadata=None,
    )
    task_arguments = {
        "model": checked_path(model, "engine" if cluster else "workers"),
        "fingerprint": model.image_fingerprint,
        "data": [type(data).__module__, type(data).__name__],
        "request": dataclasses.asdict(worker_request),
        "results": str(directory.absolute()),
        # The workers of a cluster use all of their cores.
        "threads": workers and max(1, process_count() // workers),
    }
    tasks = []
    for key, trial in trials.items():
        trial_arguments = {
            "task": trial.task,
            "train_split": trial.train_split,
            "test_split": trial.test_split,
            "recipe": trial.recipe.model_dump(mode="json"),
            "seed": trial.seed,
        }
        tasks.append({**task_arguments, "key": key, "trial": trial_arguments})

    def report(accuracy: str | None) -> None:
        if accuracy:
            say(accuracy)

    # The files of the tasks are temporary, since the results record finished trials.
    with tempfile.TemporaryDirectory(prefix=".tasks-", dir=directory) as folder:
        run_tasks(
            run_trial,
            tasks,
            folder,
            workers=workers,
            engine=request.engine,
            on_result=report,
        )


def run_trial(task: dict) -> str | None:
    """Runs a trial, as a task of `run_tasks`.

    Returns a line about the result, or None if another process runs the trial.
    """
    # TensorFlow reads these variables when it computes for the first time.
    if task["threads"] is not None:
        os.environ.setdefault("TF_NUM_INTRAOP_THREADS", str(task["threads"]))
        os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    data_module, data_class = task["data"]
    runner = _runner_on_worker(
        task["model"],
        task["fingerprint"],
        data_module,
        data_class,
        json.dumps(task["request"], sort_keys=True),
    )
    recipe = FineTuningConfig(**task["trial"]["recipe"])
    trial = Trial(**{**task["trial"], "recipe": recipe})
    run_trials({task["key"]: trial}, runner, task["results"])
    result = read_results([task["key"]], task["results"]).get(task["key"])
    return result and trial.accuracy(result)


@functools.lru_cache(maxsize=1)
def _runner_on_worker(
    path: str, fingerprint: str, module: str, name: str, request: str
) -> "TrialRunner":
    """Returns the runner of a worker process, which is reused for all of its tasks."""
    # The class of the data is imported by name, because its module imports this one.
    model = worker_model(path, "keras")
    check_same(path, model.image_fingerprint, fingerprint)
    data_class = getattr(importlib.import_module(module), name)
    data = data_class(Request(**json.loads(request)))
    align: Any = model.align
    return TrialRunner(align.image_encoder, data)


class TrialRunner:
    """Training and evaluation of classifiers on copies of an image encoder.

    Args:
        image_encoder: `ImageEncoder`, which isn't changed.
        data: object with `read(task, split)`, which returns `LabeledImages`.
        strategy: `tf.distribute.Strategy`, or None.
    """

    def __init__(
        self,
        image_encoder: keras.Model,
        data: Any,
        strategy: tf.distribute.Strategy | None = None,
    ) -> None:
        self._image_encoder = image_encoder
        self._data = data
        self._strategy = strategy
        start_compiler()

    def __call__(self, trial: Trial, scratch: pathlib.Path) -> dict[str, list[int]]:
        """Runs a `Trial` from its checkpoint in `scratch`, and returns its result."""
        recipe = trial.recipe
        keras.utils.set_random_seed(trial.seed)
        train = self._data.read(trial.task, trial.train_split)
        with strategy_scope(self._strategy):
            encoder = encoder_without_projection(
                self._image_encoder,
                freeze_batch_statistics=recipe.full.freeze_batch_statistics,
                rematerialize=recipe.rematerialize,
                dtype=recipe.runtime.mixed_precision_dtype,
            )
            classifier = ImageClassifier(
                encoder,
                len(train.class_names),
                micro_batch_size=recipe.micro_batch_size,
            )

        def make_batches(size: int, start_step: int) -> tf.data.Dataset:
            converter = ALIGNImageConverter(
                size,
                crop=recipe.crop,
                flip=recipe.flip,
                min_area=recipe.min_crop_area,
            )
            return labeled_batches(
                train.images,
                train.labels,
                converter,
                batch_size=recipe.batch_size,
                seed=trial.seed,
                shuffle_buffer_size=recipe.shuffle_buffer_size,
                start_step=start_step,
            )

        stages = build_stages(recipe, make_batches, len(train.labels))
        total = sum(stage.steps for stage in stages)
        with progress_bar(str(trial), "steps", total) as bar:
            fine_tune(
                classifier,
                stages,
                momentum=recipe.momentum,
                weight_decay=recipe.weight_decay,
                bar=bar,
                directory=scratch,
                checkpoint_interval=recipe.checkpoint_interval,
            )
        result = self._evaluate(classifier, trial)
        # The graphs of Keras and the classifier form reference cycles.
        gc.collect()
        return result

    def _evaluate(
        self, classifier: ImageClassifier, trial: Trial
    ) -> dict[str, list[int]]:
        recipe = trial.recipe
        test = self._data.read(trial.task, trial.test_split)
        size = recipe.batch_size
        if recipe.micro_batch_size is not None:
            strategy = self._strategy
            replicas = 1 if strategy is None else strategy.num_replicas_in_sync
            size = replicas * recipe.micro_batch_size
        converter = ALIGNImageConverter(
            getattr(recipe, recipe.last_stage).eval_size,
            central_crop=1.0 if recipe.crop == "whole" else recipe.central_crop,
        )
        # Evaluation processes as many images at once as training.
        batches = evaluation_batches(test.images, converter, batch_size=size)
        answers = classify(classifier, batches, test.labels)
        unreadable_rows = np.setdiff1d(np.arange(len(test.labels)), answers.rows)
        result = {
            "ranks": answers.ranks.tolist(),
            "predictions": answers.predictions.tolist(),
            "left_out": unreadable_rows.tolist(),
        }
        say(trial.accuracy(result))
        return result
