"""Runs the trials of a fine-tuning protocol, here or in several processes."""

import functools
import gc
import pathlib

import keras
import numpy as np

from align_keras.data import evaluation_batches, labelled_batches
from align_keras.models.image_classifier import (
    ImageClassifier,
    encoder_without_projection,
)
from align_keras.protocols.assemble_fine_tuning import build_stages
from align_keras.protocols.cached_encoders import default_cache
from align_keras.protocols.open_model import sources
from align_keras.training.classification import classify, fine_tune
from align_keras.training.stage_checkpoints import StageCheckpoints
from align_keras.training.strategies import open_strategy, strategy_scope
from align_keras.utils.errors import InputError
from align_keras.utils.progress import progress_bar, say
from align_keras.utils.quiet import start_compiler
from align_keras.utils.trials import (
    read_results,
    run_in_processes,
    run_trials,
    trial_key,
)

# How pictures are cropped and batched, and a classifier learns and is judged.
_CODE = (
    "images.preprocess",
    "images.crops",
    "data.labelled_batches",
    "models.image_classifier",
    "models.gradients",
    "protocols.assemble_fine_tuning",
    "optimizers.sgd",
    "optimizers.multipliers",
    "training.classification",
)


def open_devices(recipe, options):
    """Returns the strategy of a recipe, or None; before TensorFlow is used.

    Args:
        recipe: `FineTuningConfig`.
        options: `Options`.

    Raises:
        InputError: if there are no such devices, or several processes would share them.
    """
    if options.workers > 1 and recipe.runtime.distribution_strategy != "default":
        raise InputError(
            "--workers must be 1 where runtime.distribution_strategy is "
            f"{recipe.runtime.distribution_strategy}, received {options.workers}; all "
            "replicas train one trial."
        )
    return open_strategy(recipe.runtime)


def finished(trials, data, model, options, strategy=None):
    """Runs the trials that aren't finished; returns the results of all.

    Args:
        trials: list of `Trial`.
        data: `ClassificationData` or `VtabData`.
        model: `OpenedModel`.
        options: `Options`.
        strategy: `tf.distribute.Strategy` or None, on which they train.

    Returns:
        list of dict: `ranks`, `predictions`, and `left_out`, the rows that can't be
        decoded.

    Raises:
        InputError: if some are unfinished, since another process runs them or ended.
    """
    directory = pathlib.Path(options.results or default_cache().parent / "fine_tuned")
    identities = {task: data.identity(task) for task in {own.task for own in trials}}
    code = sources(_CODE)
    keys = [
        trial_key(
            trial.inputs(model.image_fingerprint, identities[trial.task])
            | {"code": code}
        )
        for trial in trials
    ]
    by_key = dict(zip(keys, trials, strict=True))
    done = read_results(by_key, directory)
    waiting = {key: trial for key, trial in by_key.items() if key not in done}
    if waiting:
        say(f"{len(waiting)} of {len(by_key)} trials to train; results in {directory}")
    if len(waiting) > 1 and options.workers > 1:
        workers = min(options.workers, len(waiting))
        open_runner = functools.partial(_open_runner, options.model, data)
        run_in_processes(waiting, open_runner, directory, workers)
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


def _open_runner(path, data):
    from align_keras.protocols.open_model import open_model

    return TrialRunner(open_model(path).align.image_encoder, data)


class TrialRunner:
    """Trains and judges one classifier a call.

    Args:
        image_encoder: `ImageEncoder`; stays as it is.
        data: `ClassificationData` or `VtabData`.
        strategy: `tf.distribute.Strategy` or None.
    """

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
            return labelled_batches(
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
                checkpoints=StageCheckpoints(scratch, recipe.checkpoint_interval),
            )
        found = self._judge(classifier, trial)
        gc.collect()  # Keras's graphs hold on to the classifier.
        return found

    def _judged_at_once(self, recipe):
        """As many images as are trained on at once."""
        if recipe.micro_batch_size is None:
            return recipe.batch_size
        strategy = self._strategy
        replicas = 1 if strategy is None else strategy.num_replicas_in_sync
        return replicas * recipe.micro_batch_size

    def _judge(self, classifier, trial):
        recipe = trial.recipe
        test = self._data.read(trial.task, trial.judged_on)
        batches = evaluation_batches(
            test.images,
            image_size=getattr(recipe, recipe.last_stage).eval_size,
            batch_size=self._judged_at_once(recipe),
            central_crop=1.0 if recipe.crop == "whole" else recipe.central_crop,
        )
        found = classify(classifier, batches, test.labels)
        say(f"{trial}: {100 * found.accuracy:.1f}% of {len(found.rows)} pictures")
        left_out = np.setdiff1d(np.arange(len(test.labels)), found.rows)
        return {
            "ranks": found.ranks.tolist(),
            "predictions": found.predictions.tolist(),
            "left_out": left_out.tolist(),
        }
