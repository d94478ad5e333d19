"""The protocols that train a classifier on the image encoder."""

import dataclasses

import numpy as np

from align_keras import evaluation
from align_keras.config import load_recipe
from align_keras.protocols.evaluation_splits import is_class_folder, tfds_name
from align_keras.protocols.protocol_types import Evaluation, pictures_left_out
from align_keras.utils.errors import InputError
from align_keras.utils.progress import say

# Transfer results on it learn from both (Kornblith et al. 2019, "Do better ImageNet
# models transfer better?", table 1: 2,040 pictures).
_TRAIN_SPLITS = {"oxford_flowers102": "train+validation"}


def imagenet_frozen(encoders, request, options):
    """A head on frozen features."""
    return _classification("imagenet_frozen", encoders, request, options)


def imagenet_full(encoders, request, options):
    """A head first, then all layers."""
    return _classification("imagenet_full", encoders, request, options)


def fine_grained(encoders, request, options):
    """A head first, then all layers with frozen statistics; several runs."""
    if request.train_split is None and not is_class_folder(request.name):
        own = _TRAIN_SPLITS.get(tfds_name(request.name))
        request = dataclasses.replace(request, train_split=own)
    return _classification("fine_grained", encoders, request, options)


def _classification(protocol, encoders, request, options):
    from align_keras.protocols.assemble_fine_tuning import Trial, check_no_sweep
    from align_keras.protocols.fine_tuning_data import ClassificationData
    from align_keras.protocols.fine_tuning_trials import finished, open_devices

    recipe = load_recipe(protocol, options.config_files, options.params_override)
    check_no_sweep(recipe, protocol)
    strategy = open_devices(recipe, options)
    data = ClassificationData(request)
    lost = data.check()
    options.check_columns({"class", *data.read("", "test").columns})
    model = opened_on_host(encoders)
    trials = [
        Trial("", "train", "test", recipe, recipe.seed + run)
        for run in range(recipe.runs)
    ]
    results = finished(trials, data, model, options, strategy)
    test = data.read("", "test")
    kept = np.setdiff1d(np.arange(len(test.labels)), results[0]["left_out"])
    ranks = np.array([result["ranks"] for result in results])  # (runs, kept)
    labels, classes = test.labels[kept], len(test.class_names)
    metrics = dict(evaluation.fine_tuned_metrics(ranks, labels, classes))
    metrics |= {"pictures": float(len(kept)), "classes": float(classes)}
    metrics |= pictures_left_out(len(test.labels) - len(kept))
    if lost:
        metrics["training_pictures_left_out"] = float(lost)
    statistics = evaluation.fine_tuned_statistics(ranks, labels, classes)
    return Evaluation(
        metrics,
        [(statistics, _columns_of(test, kept))],
        classification={
            "labels": labels,
            # Of the first run.
            "predictions": np.array(results[0]["predictions"]),
            "class_names": test.class_names,
        },
    )


def _columns_of(data, rows):
    """The columns of some pictures, by which metrics are sliced, and their class."""
    columns = {name: [own[row] for row in rows] for name, own in data.columns.items()}
    return columns | {"class": [data.class_names[data.labels[row]] for row in rows]}


def vtab(encoders, request, options):
    """19 tasks: tuned on 800 and 200 pictures, trained again on these 1,000."""
    from align_keras.protocols.assemble_fine_tuning import Trial, swept_recipe
    from align_keras.protocols.fine_tuning_data import VtabData
    from align_keras.protocols.fine_tuning_trials import finished, open_devices

    recipe = load_recipe("vtab", options.config_files, options.params_override)
    strategy = open_devices(recipe, options)
    tasks = vtab_tasks(request.name)
    data = VtabData(request)
    options.check_columns({"class", *data.metadata_columns()})
    data.check(tasks)
    model = opened_on_host(encoders)
    kept = {}

    def run_trials(trials):
        trials = [Trial(*trial) for trial in trials]
        results = finished(trials, data, model, options, strategy)
        for trial, result in zip(trials, results, strict=True):
            count = len(result["ranks"]) + len(result["left_out"])
            kept[trial.task] = np.setdiff1d(np.arange(count), result["left_out"])
        ranks = [np.array(result["ranks"]) for result in results]
        _tell_best(trials, ranks)
        return ranks

    ranks = evaluation.vtab_ranks(
        run_trials,
        tasks,
        recipe,
        swept=[swept_recipe(recipe, own) for own in range(recipe.sweep.trials)],
        runs=recipe.runs,
        seed=recipe.seed,
    )
    items, column = [], options.slice_by
    if column is not None:
        values = {
            task: _columns_of(data.judged_pictures(task), kept[task])[column]
            for task in tasks
        }
        items = [
            (statistics, {column: [own for task in mixed for own in values[task]]})
            for mixed, statistics in evaluation.vtab_statistics(ranks, groups())
        ]
    accuracies = evaluation.accuracies_of(ranks)
    return Evaluation(dict(evaluation.vtab_metrics(accuracies, groups())), items)


def _tell_best(trials, ranks):
    """Says of each task that is swept how good its best trial is."""
    accuracies = {}
    for trial, own in zip(trials, ranks, strict=True):
        if trial.judged_on == "val200":
            accuracies.setdefault(trial.task, []).append(np.mean(own < 1))
    for task, own in accuracies.items():
        say(f"{task}: the best of {len(own)} trials has {100 * max(own):.1f}%")


def groups():
    """Returns VTAB's groups, dict of name → tasks."""
    from align_keras.datasets.benchmarks.vtab import VTAB_TASKS

    found = {}
    for task in VTAB_TASKS.values():
        found.setdefault(task.group, []).append(task.name)
    return found


def vtab_tasks(name):
    """Returns the tasks that `--data` names: all, or as `vtab/dtd+svhn_cropped`."""
    from align_keras.datasets.benchmarks.vtab import VTAB_TASKS, vtab_task

    first, _, chosen = name.partition("/")
    if first != "vtab":
        raise InputError(
            f"--data must be vtab, or vtab/ and tasks joined by +, received {name!r}; "
            "leave it out for all tasks."
        )
    if not chosen:
        return list(VTAB_TASKS)
    return [vtab_task(task).name for task in dict.fromkeys(chosen.split("+"))]


def opened_on_host(encoders):
    """Opens the model in the host's memory: a copy of its image encoder is trained."""
    import tensorflow as tf

    with tf.device("/cpu:0"):
        model = encoders.model
    check_trainable(model)
    return model


def check_trainable(model):
    """Raises unless the opened model has weights that can learn."""
    if model.align is None:
        raise InputError(
            "--model must be a run folder or a Hugging Face folder to be trained, "
            "received an export, whose weights are fixed; name the folder it came from."
        )
