"""Classifiers trained on the image encoder (tables 5 to 7)."""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from align_keras.protocols.classes import (
    class_columns,
    class_evaluation,
    is_class_folder,
    labeled_images,
    split_of_classes,
    tfds_name,
    train_and_test,
)
from align_keras.protocols.data_sets import joined, what_to_prepare
from align_keras.protocols.protocol import Evaluation, Request, protocol, some
from align_keras.utils.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from align_keras.config import FineTuningConfig
    from align_keras.datasets.benchmarks import LabeledImages
    from align_keras.protocols.embedding_cache import CachedEncoders
    from align_keras.protocols.trials import Trial

# Transfer results on it learn from both (Kornblith et al. 2019, "Do better ImageNet
# models transfer better?", table 1: 2,040 images).
_TRAIN_SPLITS = {"oxford_flowers102": "train+validation"}
TRAINING = ("results", "config_file", "params_override", "workers", "engine")
_OPTIONS = ("split", "train_split", "classes", "metadata", *TRAINING)


@protocol(
    "a classifier on the frozen image encoder", "table 5", _OPTIONS, needs="weights"
)
def imagenet_frozen(encoders: "CachedEncoders", request: Request) -> Evaluation:
    """Trains a head on frozen features."""
    return _classification("imagenet_frozen", encoders, request)


@protocol("the image encoder fine-tuned", "table 5", _OPTIONS, needs="weights")
def imagenet_full(encoders: "CachedEncoders", request: Request) -> Evaluation:
    """Trains a head first, then all layers."""
    return _classification("imagenet_full", encoders, request)


@protocol("the encoder fine-tuned in two stages", "table 7", _OPTIONS, needs="weights")
def fine_grained(encoders: "CachedEncoders", request: Request) -> Evaluation:
    """Trains a head first, then all layers with frozen statistics; several runs."""
    if request.train_split is None and not is_class_folder(request.data):
        usual = _TRAIN_SPLITS.get(tfds_name(request.data))
        request = dataclasses.replace(request, train_split=usual)
    return _classification("fine_grained", encoders, request)


def _classification(name, encoders, request):
    import numpy as np

    from align_keras import evaluation
    from align_keras.config import load_recipe
    from align_keras.protocols.trials import Trial, finished, open_devices

    recipe = load_recipe(name, request.config_file, request.params_override)
    if recipe.sweep.trials:
        raise InputError(
            f"sweep.trials must be 0 for {name}, received {recipe.sweep.trials}; "
            "only vtab has images set aside to tune on."
        )
    strategy = open_devices(recipe, request)
    data = ClassificationData(request)
    lost = data.check()
    test = data.read("", "test")
    request.check_columns({"class", *test.columns})
    model = encoders.trainable_model()
    trials = [
        Trial("", "train", "test", recipe, recipe.seed + run)
        for run in range(recipe.runs)
    ]
    results = finished(trials, data, model, request, strategy)
    kept = np.setdiff1d(np.arange(len(test.labels)), results[0]["left_out"])
    ranks = np.array([result["ranks"] for result in results])  # (runs, kept)
    labels, classes = test.labels[kept], len(test.class_names)
    metrics = dict(evaluation.fine_tuned_metrics(ranks, labels, classes))
    metrics |= {"classes": float(classes)}
    if lost:
        metrics["training_images_left_out"] = float(lost)
    statistics = evaluation.fine_tuned_statistics(ranks, labels, classes)
    predictions = np.array(results[0]["predictions"])  # Of the first run.
    return class_evaluation(metrics, statistics, test, kept, predictions)


class ClassificationData:
    """The two splits of a set of images with classes; `task` is of no account."""

    def __init__(self, request):
        self.request, self._read = request, {}

    def read(self, task: str, split: str) -> "LabeledImages":
        """Returns the images of `"train"` or `"test"`."""
        if split not in self._read:
            self._read[split] = labeled_images(self.request, train=split == "train")
        return self._read[split]

    def check(self) -> int:
        """Raises unless the splits are apart and have the same classes; returns how
        many training images can't be decoded, if they are files.
        """
        from align_keras.data import unreadable_rows
        from align_keras.utils.progress import say

        train, test = train_and_test(self.request)
        self._read = {"train": train, "test": test}
        if not isinstance(next(iter(train.images), None), str | os.PathLike):
            return 0
        lost = unreadable_rows(train.images)
        if lost:
            say(
                f"{len(lost)} of {len(train.images)} training images can't be decoded "
                f"and are left out: {some([train.images[row] for row in lost])}"
            )
        return len(lost)

    def identity(self, task: str) -> list[str]:
        """What tells the data apart: digests of both splits, and a set's version."""
        request, name = self.request, self.request.data
        if name != "stamps" and not is_class_folder(name):
            name = full_name(name)  # Its images aren't hashed.
        about = [name]
        for split in ("train", "test"):
            about.append(str(split_of_classes(request, train=split == "train")))
            about.append(digest_of(self.read("", split)))
        return about


def full_name(name: str) -> str:
    """Returns a TFDS set's name, configuration and version."""
    from align_keras.datasets.benchmarks.labeled_images import prepared_builder

    return prepared_builder(name).info.full_name


def digest_of(data: "LabeledImages") -> str:
    """Returns a digest of images with classes: of files size and last change count, of
    images that are read from disk at each iteration the classes alone.
    """
    from align_keras.protocols.embedding_cache import content_digest

    digest = hashlib.sha256("\0".join(data.class_names).encode())
    digest.update(data.labels.astype("int64").tobytes())
    for image in data.images if isinstance(data.images, Sequence) else ():
        if isinstance(image, str | os.PathLike):
            digest.update(os.fspath(image).encode())
            if os.path.exists(image):
                about = os.stat(image)
                digest.update(f"\0{about.st_size} {about.st_mtime_ns}\n".encode())
        else:
            digest.update(content_digest(image))
    return digest.hexdigest()[:16]


@protocol(
    "19 tasks of 1,000 images",
    "table 6",
    options=("metadata", *TRAINING),
    data="vtab",
    data_help="vtab, or some of its tasks, as vtab/dtd+svhn_cropped",
    needs="weights",
)
def vtab(encoders: "CachedEncoders", request: Request) -> Evaluation:
    """Tunes on 800 and 200 images of each task, trains again on these 1,000.

    References:
        Zhai et al. 2019 (arXiv 1910.04867), whose appendix I has the sweep that
        Jia et al. 2021 take with 50 trials a task, section 5.3 and table 6.
    """
    import numpy as np

    from align_keras import evaluation
    from align_keras.config import load_recipe
    from align_keras.protocols.trials import finished, open_devices

    recipe = load_recipe("vtab", request.config_file, request.params_override)
    strategy = open_devices(recipe, request)
    tasks = vtab_tasks(request.data)
    data = VtabData(request)
    request.check_columns({"class", *data.metadata_columns()})
    data.check(tasks)
    model = encoders.trainable_model()
    kept: dict[str, np.ndarray] = {}

    def run_trials(trials):
        results = finished(trials, data, model, request, strategy)
        for trial, result in zip(trials, results, strict=True):
            count = len(result["ranks"]) + len(result["left_out"])
            kept[trial.task] = np.setdiff1d(np.arange(count), result["left_out"])
        return [np.array(result["ranks"]) for result in results]

    ranks = tuned_ranks(run_trials, tasks, recipe)
    items: list[tuple[dict, dict]] = []
    column = request.slice_by
    if column is not None:
        values = {
            task: class_columns(data.judged_images(task), kept[task])[column]
            for task in tasks
        }
        items = [
            (statistics, {column: [value for task in mixed for value in values[task]]})
            for mixed, statistics in evaluation.vtab_statistics(ranks, groups())
        ]
    accuracies = {
        task: np.mean(runs < 1, axis=1).tolist() for task, runs in ranks.items()
    }
    return Evaluation(dict(evaluation.vtab_metrics(accuracies, groups())), items)


def tuned_ranks(
    run_trials: "Callable[[list[Trial]], list[np.ndarray]]",
    tasks: Sequence[str],
    recipe: "FineTuningConfig",
) -> "dict[str, np.ndarray]":
    """Tunes on each task if the recipe sweeps, trains anew and judges on its test:
    ranks (runs, images) by task. Of equal recipes the first is taken.
    """
    import numpy as np

    from align_keras.protocols.trials import Trial, swept_recipe
    from align_keras.utils.progress import say

    chosen, best = dict.fromkeys(tasks, recipe), dict.fromkeys(tasks, -1.0)
    swept = [swept_recipe(recipe, number) for number in range(recipe.sweep.trials)]
    trials = [
        Trial(task, "train800", "val200", of_trial, recipe.seed)
        for task in tasks
        for of_trial in swept
    ]
    for trial, ranks in zip(trials, run_trials(trials) if trials else [], strict=True):
        accuracy = float(np.mean(ranks < 1))
        if accuracy > best[trial.task]:
            best[trial.task], chosen[trial.task] = accuracy, trial.recipe
    for task in tasks if swept else ():
        say(f"{task}: the best of {len(swept)} trials has {100 * best[task]:.1f}%")
    trials = [
        Trial(task, "train800val200", "test", chosen[task], recipe.seed + run)
        for task in tasks
        for run in range(recipe.runs)
    ]
    found: dict[str, list[np.ndarray]] = {task: [] for task in tasks}
    for trial, ranks in zip(trials, run_trials(trials), strict=True):
        found[trial.task].append(ranks)
    return {task: np.array(runs) for task, runs in found.items()}


def groups() -> dict[str, list[str]]:
    """Returns VTAB's groups, name → tasks."""
    from align_keras.datasets.benchmarks.vtab import VTAB_TASKS

    found: dict[str, list[str]] = {}
    for task in VTAB_TASKS.values():
        found.setdefault(task.group, []).append(task.name)
    return found


def vtab_tasks(name: str) -> list[str]:
    """Returns the tasks that `data` names: all, or as `vtab/dtd+svhn_cropped`."""
    from align_keras.datasets.benchmarks.vtab import VTAB_TASKS, vtab_task

    first, _, chosen = name.partition("/")
    if first != "vtab":
        raise InputError(
            f"data must be vtab, or vtab/ and tasks joined by +, received {name!r}; "
            "leave it out for all tasks."
        )
    if not chosen:
        return list(VTAB_TASKS)
    return [vtab_task(task).name for task in dict.fromkeys(chosen.split("+"))]


class VtabData:
    """The tasks of VTAB."""

    def __init__(self, request):
        self.request, self._last = request, (None, None)

    def read(self, task: str, split: str) -> "LabeledImages":
        """Returns the images of a task's split; keeps the last one."""
        from align_keras.datasets.benchmarks.vtab import read_vtab

        if self._last[0] != (task, split):
            self._last = ((task, split), read_vtab(task, split))
        return self._last[1]

    def check(self, tasks: Iterable[str]) -> None:
        """Raises unless all tasks' data sets are prepared; names those that aren't."""
        from align_keras.datasets.benchmarks.vtab import VTAB_TASKS

        needs = what_to_prepare(VTAB_TASKS[task].builder for task in tasks)
        if needs:
            raise InputError(
                f"vtab needs data sets that TFDS hasn't prepared: {needs}; or name the "
                "tasks that are there, such as vtab/dtd+svhn_cropped."
            )

    def metadata_columns(self) -> tuple[str, ...]:
        """Returns the names of the columns of `metadata`."""
        from align_keras.datasets.benchmarks import read_metadata_table

        path = self.request.metadata
        return () if path is None else read_metadata_table(path).names

    def judged_images(self, task: str) -> "LabeledImages":
        """A task's test with `metadata`'s columns; the images' ids are as `dtd/0`."""
        data = self.read(task, "test")
        return joined(data, self.request, taken=("class",), prefix=f"{task}/")

    def identity(self, task: str) -> str:
        """What tells the data apart from other data: the set's name and version."""
        from align_keras.datasets.benchmarks.vtab import VTAB_TASKS

        return full_name(VTAB_TASKS[task].builder)
