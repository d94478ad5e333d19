"""Trials of the protocols that train: from a recipe to what a classifier finds."""

import dataclasses
import functools
import gc
import importlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from align_keras.config import (
    FineTuningConfig,
    HeadStageConfig,
    as_dict,
    load_recipe,
)
from align_keras.config.fields import leaves
from align_keras.data import evaluation_batches, labeled_batches
from align_keras.embedders.loading import worker_model
from align_keras.models.image_classifier import (
    ImageClassifier,
    encoder_without_projection,
)
from align_keras.protocols.embedding_cache import (
    absolute,
    checked_path,
    results_folder,
)
from align_keras.protocols.protocol import Request
from align_keras.protocols.trial_results import read_results, run_trials, trial_key
from align_keras.training.classification import FineTuningStage, classify, fine_tune
from align_keras.training.strategies import make_strategy, strategy_scope
from align_keras.utils.errors import InputError
from align_keras.utils.progress import progress_bar, say
from align_keras.utils.quiet import start_compiler
from align_keras.utils.tasks import check_same, is_cluster, run_tasks, worker_count

if TYPE_CHECKING:
    from align_keras.embedders import Embedder

# Of how images are cropped and batched, and a classifier learns and is judged: raise it
# where the same recipe, images and seed give something else, so that results on disk
# aren't taken for it.
TRIALS_VERSION = 1

# Drawn log-uniformly between the least and the greatest, or one of several.
_RANGES = ("learning_rate", "weight_decay")
_CHOICES = ("steps", "batch_size", "crop", "flip")
# Of the last stage; the others are the whole recipe's.
_OF_STAGE = ("learning_rate", "steps")


def build_stages(
    recipe: FineTuningConfig,
    make_batches: Callable[[int, int], tf.data.Dataset],
    count: int,
) -> list[FineTuningStage]:
    """Builds the stages of a recipe for `count` images to learn from; `make_batches`
    takes an image's side and the step to start at.
    """
    stages = []
    for name in ("head", "full"):
        stage = getattr(recipe, name)
        if not stage.is_left_out:
            steps = stage.length(recipe.batch_size, count)
            stages.append(
                FineTuningStage(
                    make_batches=functools.partial(make_batches, stage.train_size),
                    steps=steps,
                    learning_rate=build_schedule(
                        stage, steps, count / recipe.batch_size
                    ),
                    learns_encoder=name == "full",
                    encoder_multiplier=getattr(stage, "backbone_multiplier", 1.0),
                )
            )
    return stages


def build_schedule(
    stage: HeadStageConfig, steps: int, steps_per_epoch: float
) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """Builds a stage's learning rate."""
    rate, schedules = stage.learning_rate, keras.optimizers.schedules
    if stage.schedule == "constant":
        return rate
    if stage.schedule == "cosine":
        return schedules.CosineDecay(rate, steps)
    starts, values = [], [rate]
    while True:
        start = round(len(values) * stage.decay_epochs * steps_per_epoch)
        if start >= steps:
            break
        # Keras changes after the boundary, and steps are counted from 0.
        starts.append(max(start - 1, 0))
        values.append(values[-1] * stage.decay_factor)
    return schedules.PiecewiseConstantDecay(starts, values) if starts else rate


def swept_recipe(recipe: FineTuningConfig, number: int) -> FineTuningConfig:
    """Returns the recipe of a trial of the sweep, with the options drawn for it."""
    random = np.random.default_rng((recipe.seed, number))
    drawn: dict[str, Any] = {}
    for name in _RANGES:
        if values := getattr(recipe.sweep, name):
            least, greatest = map(math.log, values)
            drawn[name] = math.exp(random.uniform(least, greatest))
    for name in _CHOICES:
        if values := getattr(recipe.sweep, name):
            drawn[name] = values[int(random.integers(len(values)))]
    of_stage = {name: drawn.pop(name) for name in _OF_STAGE if name in drawn}
    if "steps" in of_stage:
        of_stage["epochs"] = None
    last = recipe.last_stage
    stage = dataclasses.replace(getattr(recipe, last), **of_stage)
    return dataclasses.replace(recipe, **drawn, **{last: stage})


@dataclasses.dataclass(frozen=True)
class Trial:
    """One training of a classifier, for a task of VTAB or an empty one, on one split,
    judged on another.
    """

    task: str
    learns_from: str
    judged_on: str
    recipe: FineTuningConfig
    seed: int

    def inputs(self, model: str, data: str | list[str]) -> dict[str, Any]:
        """What the result depends on, as JSON; `model` is the encoder's fingerprint."""
        recipe = as_dict(self.recipe)
        # Of the set of trials, not of one, or without influence.
        for name in ("runs", "seed", "sweep", "checkpoint_interval"):
            del recipe[name]
        splits = [self.learns_from, self.judged_on]
        return {
            "model": model,
            "data": data,
            "splits": [self.task, *splits],
            "recipe": recipe,
            "seed": self.seed,
            "version": TRIALS_VERSION,
        }

    def accuracy(self, result: dict[str, list[int]]) -> str:
        """Says in a line how many images were classified rightly."""
        ranks = np.array(result["ranks"])
        return f"{self}: {100 * np.mean(ranks < 1):.1f}% of {len(ranks)} images"

    def __str__(self):
        return f"{self.task or 'training'}, seed {self.seed}"


def open_devices(
    recipe: FineTuningConfig, request: Request
) -> tf.distribute.Strategy | None:
    """Returns the strategy of a recipe, or None, before TensorFlow is used; raises if
    several processes would share the devices.
    """
    strategy = recipe.runtime.distribution_strategy
    cluster = is_cluster(request.engine)
    if cluster and request.workers > 1:
        raise InputError(
            f"workers must be left out with engine {request.engine}, whose workers "
            f"count, received {request.workers}; leave it out."
        )
    if strategy != "default" and (cluster or request.workers > 1):
        received = f"engine {request.engine}" if cluster else str(request.workers)
        raise InputError(
            f"{'engine' if cluster else 'workers'} must be "
            f"{'local' if cluster else 1} where runtime.distribution_strategy is "
            f"{strategy}, received {received}; all replicas train one trial."
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
    """Runs the trials that aren't finished; returns the results of all: `ranks`,
    `predictions` and `left_out`, rows that can't be decoded. Raises if another process
    runs some.
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
        say(f"{len(waiting)} of {len(by_key)} trials to train; results in {directory}")
    cluster = is_cluster(request.engine)
    if waiting and (cluster or min(len(waiting), request.workers) > 1):
        _run_as_tasks(waiting, data, model, request, directory)
    elif waiting:
        runner = TrialRunner(model.align.image_encoder, data, strategy)
        run_trials(waiting, runner, directory)
    results = read_results(by_key, directory)
    lost = len(by_key) - len(results)
    if lost:
        raise InputError(
            f"{lost} of {len(by_key)} trials are being run by another process; let it "
            "end, then run the same command, which takes its results."
        )
    return [results[key] for key in keys]


def _run_as_tasks(trials, data, model, request, directory):
    """Runs each trial in a process of this machine or of a cluster, as a task."""
    directory.mkdir(parents=True, exist_ok=True)
    cluster = is_cluster(request.engine)
    workers = None if cluster else min(request.workers, len(trials))
    given = {name: getattr(request, name) for name in ("data", "classes")}
    paths = {name: value and absolute(value) for name, value in given.items()}
    paths["metadata"] = None  # Of slices alone.
    about = {
        "model": checked_path(model, "engine" if cluster else "workers"),
        "fingerprint": model.image_fingerprint,
        "data": [type(data).__module__, type(data).__name__],
        "request": dataclasses.asdict(request) | paths,
        "results": str(directory.absolute()),
        # A cluster's workers have their cores to themselves.
        "threads": workers and max(1, worker_count() // workers),
    }
    tasks = []
    for key, trial in trials.items():
        recipe = {name: value for name, value, _ in leaves(trial.recipe)}
        told = {**vars(trial), "recipe": recipe}
        tasks.append({**about, "key": key, "trial": told})
    # What is done is told by the results, not by the tasks.
    with tempfile.TemporaryDirectory(prefix=".tasks-", dir=directory) as folder:
        run_tasks(
            *(run_trial, tasks, folder),
            workers=workers,
            engine=request.engine,
            told=lambda accuracy: accuracy and say(accuracy),
        )


def run_trial(task: dict) -> str | None:
    """Runs a trial: a task of `run_tasks`. Returns what is to say of its result, None
    where another process runs it.
    """
    if task["threads"] is not None:  # Before TensorFlow begins to compute.
        os.environ.setdefault("TF_NUM_INTRAOP_THREADS", str(task["threads"]))
        os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    runner = _runner_on_worker(
        task["model"],
        task["fingerprint"],
        *task["data"],
        json.dumps(task["request"], sort_keys=True),
    )
    # All options of the recipe are given, whichever it is laid over.
    recipe = load_recipe("vtab", (), task["trial"]["recipe"])
    trial = Trial(**{**task["trial"], "recipe": recipe})
    run_trials({task["key"]: trial}, runner, task["results"])
    result = read_results([task["key"]], task["results"]).get(task["key"])
    return result and trial.accuracy(result)


@functools.lru_cache(maxsize=1)
def _runner_on_worker(path, fingerprint, module, name, request):
    model = worker_model(path, "keras")
    check_same(path, model.image_fingerprint, fingerprint)
    # By its name, as a task's function: the modules of data import this one.
    data = getattr(importlib.import_module(module), name)
    data = data(Request(**json.loads(request)))
    return TrialRunner(model.align.image_encoder, data)


class TrialRunner:
    """Trains and judges one classifier a call; the `image_encoder` stays as it is."""

    def __init__(self, image_encoder, data, strategy=None):
        self._image_encoder, self._data = image_encoder, data
        self._strategy = strategy
        start_compiler()

    def __call__(self, trial, scratch):
        """Runs a `Trial`, from its checkpoint in `scratch`; returns its result."""
        recipe = trial.recipe
        keras.utils.set_random_seed(trial.seed)
        train = self._data.read(trial.task, trial.learns_from)
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

        def make_batches(size, start_step):
            return labeled_batches(
                train.images,
                train.labels,
                image_size=size,
                batch_size=recipe.batch_size,
                crop=recipe.crop,
                min_area=recipe.min_crop_area,
                flip=recipe.flip,
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
        found = self._judge(classifier, trial)
        gc.collect()  # Keras's graphs hold on to the classifier.
        return found

    def _judge(self, classifier, trial):
        recipe = trial.recipe
        test = self._data.read(trial.task, trial.judged_on)
        size = recipe.batch_size
        if recipe.micro_batch_size is not None:
            strategy = self._strategy
            replicas = 1 if strategy is None else strategy.num_replicas_in_sync
            size = replicas * recipe.micro_batch_size
        batches = evaluation_batches(
            test.images,
            image_size=getattr(recipe, recipe.last_stage).eval_size,
            batch_size=size,  # As many as are trained on at once.
            central_crop=1.0 if recipe.crop == "whole" else recipe.central_crop,
        )
        found = classify(classifier, batches, test.labels)
        left_out = np.setdiff1d(np.arange(len(test.labels)), found.rows)
        result = {
            "ranks": found.ranks.tolist(),
            "predictions": found.predictions.tolist(),
            "left_out": left_out.tolist(),
        }
        say(trial.accuracy(result))
        return result
