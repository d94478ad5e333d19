"""Protocols that train a classifier on the image encoder (tables 5 to 7)."""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from align_keras.protocols.class_protocols import (
    class_columns,
    class_evaluation,
    is_class_folder,
    labeled_images,
    split_of_classes,
    tfds_name,
    train_and_test,
)
from align_keras.protocols.protocol import (
    Evaluation,
    ItemStatistics,
    Request,
    define_protocol,
    first_names,
)
from align_keras.protocols.public_data import join_metadata_columns, preparation_steps
from align_keras.utils.arguments import check_choice
from align_keras.utils.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from align_keras.config import FineTuningConfig
    from align_keras.datasets.benchmarks import LabeledImages
    from align_keras.protocols.cached_encoders import CachedEncoders
    from align_keras.protocols.trials import Trial

# Published results on Flowers use both splits for training, 2,040 images (Kornblith et
# al. 2019, "Do better ImageNet models transfer better?", table 1).
_TRAIN_SPLITS = {"oxford_flowers102": "train+validation"}
TRAINING = ("results", "config_file", "params_override", "workers", "engine")
_OPTIONS = ("split", "train_split", "classes", "metadata", *TRAINING)


@define_protocol(
    help="a classifier on the frozen image encoder",
    table="table 5",
    options=_OPTIONS,
    needs="weights",
)
def imagenet_frozen(encoders: "CachedEncoders", request: Request) -> Evaluation:
    """Trains a classifier on the frozen features of the image encoder."""
    return _classification("imagenet_frozen", encoders, request)


@define_protocol(
    help="a classifier on the fine-tuned image encoder",
    table="table 5",
    options=_OPTIONS,
    needs="weights",
)
def imagenet_full(encoders: "CachedEncoders", request: Request) -> Evaluation:
    """Trains a classifier on frozen features first, and then all layers."""
    return _classification("imagenet_full", encoders, request)


@define_protocol(
    help="a classifier on the image encoder, fine-tuned in two stages",
    table="table 7",
    options=_OPTIONS,
    needs="weights",
)
def fine_grained(encoders: "CachedEncoders", request: Request) -> Evaluation:
    """Trains a classifier first, then all layers, in several runs.

    The statistics of batch normalization are frozen.
    """
    if request.train_split is None and not is_class_folder(request.data):
        usual = _TRAIN_SPLITS.get(tfds_name(request.data))
        request = dataclasses.replace(request, train_split=usual)
    return _classification("fine_grained", encoders, request)


def _classification(
    name: str, encoders: "CachedEncoders", request: Request
) -> Evaluation:
    """Trains and evaluates the classifiers of a recipe on one data set."""
    import numpy as np

    from align_keras import evaluation
    from align_keras.config import load_recipe
    from align_keras.protocols.trials import Trial, finished, open_devices

    recipe = load_recipe(name, request.config_file, request.params_override)
    if recipe.sweep.trials:
        raise InputError(
            f"sweep.trials must be 0 for {name}, since only vtab has a split to tune "
            f"on. Received: sweep.trials={recipe.sweep.trials}."
        )
    strategy = open_devices(recipe, request)
    data = ClassificationData(request)
    unreadable_count = data.check()
    test = data.read("", "test")
    request.check_columns({"class", *test.columns})
    model = encoders.trainable_model()
    trials = [
        Trial("", "train", "test", recipe, recipe.seed + run)
        for run in range(recipe.runs)
    ]
    results = finished(trials, data, model, request, strategy)
    rows = np.setdiff1d(np.arange(len(test.labels)), results[0]["left_out"])
    # (runs, rows)
    ranks = np.array([result["ranks"] for result in results])
    labels = test.labels[rows]
    classes = len(test.class_names)
    metrics = dict(evaluation.fine_tuned_metrics(ranks, labels, classes))
    metrics |= {"classes": float(classes)}
    if unreadable_count:
        metrics["training_images_left_out"] = float(unreadable_count)
    statistics = evaluation.fine_tuned_statistics(ranks, labels, classes)
    # The predictions come from the first run.
    predictions = np.array(results[0]["predictions"])
    return class_evaluation(metrics, statistics, test, rows, predictions)


class ClassificationData:
    """The two splits of a set of images with classes. The argument `task` is unused."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self._read: dict[str, LabeledImages] = {}

    def read(self, task: str, split: str) -> "LabeledImages":
        """Returns the images of `"train"` or `"test"`."""
        if split not in self._read:
            self._read[split] = labeled_images(self.request, train=split == "train")
        return self._read[split]

    def check(self) -> int:
        """Returns the number of training files that can't be decoded.

        Raises:
            InputError: if the splits have an image in common, or different classes.
        """
        from align_keras.data import unreadable_rows
        from align_keras.datasets.benchmarks.shard_images import ShardImages
        from align_keras.utils.progress import say

        train, test = train_and_test(self.request)
        self._read = {"train": train, "test": test}
        has_shards = isinstance(train.images, ShardImages)
        first_image = next(iter(train.images), None)
        if not has_shards and not isinstance(first_image, str | os.PathLike):
            return 0
        unreadable = unreadable_rows(train.images)
        if unreadable:
            image_names = train.images
            if has_shards and train.image_ids is not None:
                image_names = train.image_ids
            names = first_names([image_names[row] for row in unreadable])
            say(
                f"{len(unreadable)} of {len(train.images)} training images can't be "
                f"decoded and are left out: {names}"
            )
        return len(unreadable)

    def identity(self, task: str) -> list[str]:
        """Returns the identity of the data: version and digests of both splits."""
        from align_keras.datasets.benchmarks import is_shard_folder

        request = self.request
        name = request.data
        # Images from TFDS aren't hashed, so the version of the data set is included.
        is_folder = is_class_folder(name) or is_shard_folder(name)
        if name != "stamps" and not is_folder:
            name = full_name(name)
        identity = [name]
        for split in ("train", "test"):
            identity.append(str(split_of_classes(request, train=split == "train")))
            identity.append(digest_of(self.read("", split)))
        return identity


def full_name(name: str) -> str:
    """Returns name, configuration and version of a TFDS set."""
    from align_keras.datasets.benchmarks.tfds_images import prepared_builder

    return prepared_builder(name).info.full_name


def digest_of(data: "LabeledImages") -> str:
    """Returns a digest of images with classes.

    It includes the paths, sizes and times of files, and the positions of images in
    shards. For images of TFDS, which are read from disk in each iteration, it includes
    only the classes.
    """
    from align_keras.datasets.benchmarks.shard_images import ShardImages
    from align_keras.protocols.embedding_cache import content_digest

    digest = hashlib.sha256("\0".join(data.class_names).encode())
    digest.update(data.labels.astype("int64").tobytes())
    if isinstance(data.images, ShardImages):
        spans = data.images.spans
        for path in dict.fromkeys(span.path for span in spans):
            digest.update(_file_state(path))
        for span in spans:
            digest.update(f"{span.offset} {span.size}\n".encode())
    for image in data.images if isinstance(data.images, Sequence) else ():
        if isinstance(image, str | os.PathLike):
            digest.update(_file_state(image))
        else:
            digest.update(content_digest(image))
    return digest.hexdigest()[:16]


def _file_state(path: str | os.PathLike) -> bytes:
    """Returns the path, the size and the modification time of a file."""
    state = os.fspath(path)
    if os.path.exists(path):
        status = os.stat(path)
        state += f"\0{status.st_size} {status.st_mtime_ns}\n"
    return state.encode()


@define_protocol(
    help="19 classification tasks with 1,000 training images each",
    table="table 6",
    options=("metadata", *TRAINING),
    data="vtab",
    data_help="vtab, or some of its tasks, such as vtab/dtd+svhn_cropped",
    needs="weights",
)
def vtab(encoders: "CachedEncoders", request: Request) -> Evaluation:
    """Tunes a classifier on each task, trains it again and evaluates it.

    The trials of the sweep train on 800 images and are compared on 200 images. The best
    recipe is trained again on all 1,000 images.

    References:
        Zhai et al. 2019 (arXiv 1910.04867), appendix I: the sweep.
        Jia et al. 2021, section 5.3 and table 6: 50 trials for each task.
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
    readable_rows: dict[str, np.ndarray] = {}

    def run_trials(trials: "list[Trial]") -> "list[np.ndarray]":
        results = finished(trials, data, model, request, strategy)
        for trial, result in zip(trials, results, strict=True):
            count = len(result["ranks"]) + len(result["left_out"])
            readable_rows[trial.task] = np.setdiff1d(
                np.arange(count), result["left_out"]
            )
        return [np.array(result["ranks"]) for result in results]

    ranks = tuned_ranks(run_trials, tasks, recipe)
    items: list[ItemStatistics] = []
    column = request.slice_by
    if column is not None:
        values = {
            task: class_columns(data.test_images(task), readable_rows[task])[column]
            for task in tasks
        }
        for metric_tasks, statistics in evaluation.vtab_statistics(ranks, groups()):
            column_values = [value for task in metric_tasks for value in values[task]]
            items.append(ItemStatistics(statistics, {column: column_values}))
    accuracies = {
        task: np.mean(runs < 1, axis=1).tolist() for task, runs in ranks.items()
    }
    return Evaluation(dict(evaluation.vtab_metrics(accuracies, groups())), items)


def tuned_ranks(
    run_trials: "Callable[[list[Trial]], list[np.ndarray]]",
    tasks: Sequence[str],
    recipe: "FineTuningConfig",
) -> "dict[str, np.ndarray]":
    """Tunes on each task if the recipe has a sweep, trains again and evaluates.

    If several recipes are equally good, the first recipe is used.

    Returns:
        dict from task to ranks (runs, images) on its test split.
    """
    import numpy as np

    from align_keras.protocols.trials import Trial, swept_recipe
    from align_keras.utils.progress import say

    best_recipes = dict.fromkeys(tasks, recipe)
    best_accuracies = dict.fromkeys(tasks, -1.0)
    swept = [swept_recipe(recipe, number) for number in range(recipe.sweep.trials)]
    trials = [
        Trial(task, "train800", "val200", trial_recipe, recipe.seed)
        for task in tasks
        for trial_recipe in swept
    ]
    for trial, ranks in zip(trials, run_trials(trials) if trials else [], strict=True):
        accuracy = float(np.mean(ranks < 1))
        if accuracy > best_accuracies[trial.task]:
            best_accuracies[trial.task] = accuracy
            best_recipes[trial.task] = trial.recipe
    for task in tasks if swept else ():
        accuracy = 100 * best_accuracies[task]
        say(f"{task}: the best of {len(swept)} trials has {accuracy:.1f}%")
    trials = [
        Trial(task, "train800val200", "test", best_recipes[task], recipe.seed + run)
        for task in tasks
        for run in range(recipe.runs)
    ]
    test_ranks: dict[str, list[np.ndarray]] = {task: [] for task in tasks}
    for trial, ranks in zip(trials, run_trials(trials), strict=True):
        test_ranks[trial.task].append(ranks)
    return {task: np.array(runs) for task, runs in test_ranks.items()}


def groups() -> dict[str, list[str]]:
    """Returns a dict from the name of each group of VTAB to its tasks."""
    from align_keras.datasets.benchmarks.vtab import VTAB_TASKS

    tasks_by_group: dict[str, list[str]] = {}
    for task in VTAB_TASKS.values():
        tasks_by_group.setdefault(task.group, []).append(task.name)
    return tasks_by_group


def vtab_tasks(name: str) -> list[str]:
    """Returns the tasks of `data`: all, or those in `vtab/dtd+svhn_cropped`."""
    from align_keras.datasets.benchmarks.vtab import VTAB_TASKS, vtab_task

    first, _, task_names = name.partition("/")
    check_choice("data", first, ["vtab"])
    if not task_names:
        return list(VTAB_TASKS)
    return [vtab_task(task).name for task in dict.fromkeys(task_names.split("+"))]


class VtabData:
    """Images of the tasks of VTAB, for `TrialRunner`."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self._last_read: tuple[str, str, LabeledImages] | None = None

    def read(self, task: str, split: str) -> "LabeledImages":
        """Returns the images of a split of a task. Caches them for the next call."""
        from align_keras.datasets.benchmarks.vtab import read_vtab

        if self._last_read is None or self._last_read[:2] != (task, split):
            self._last_read = (task, split, read_vtab(task, split))
        return self._last_read[2]

    def check(self, tasks: Iterable[str]) -> None:
        """Raises InputError with a remedy if the data set of a task is not prepared."""
        from align_keras.datasets.benchmarks.vtab import VTAB_TASKS

        needs = preparation_steps(VTAB_TASKS[task].builder for task in tasks)
        if needs:
            raise InputError(
                f"vtab needs data sets that TFDS hasn't prepared: {needs}. To evaluate "
                "only some tasks, set data to the tasks, such as vtab/dtd+svhn_cropped."
            )

    def metadata_columns(self) -> tuple[str, ...]:
        """Returns the names of the columns of `metadata`."""
        from align_keras.datasets.benchmarks import read_metadata_table

        path = self.request.metadata
        return () if path is None else read_metadata_table(path).names

    def test_images(self, task: str) -> "LabeledImages":
        """Returns the test images of a task with the columns of `metadata`.

        The ids of the images have the form `dtd/0`.
        """
        data = self.read(task, "test")
        return join_metadata_columns(data, self.request, prefix=f"{task}/")

    def identity(self, task: str) -> str:
        """Returns the identity of the data of a task: name and version of the set."""
        from align_keras.datasets.benchmarks.vtab import VTAB_TASKS

        return full_name(VTAB_TASKS[task].builder)
