"""The Visual Task Adaptation Benchmark: tuned on 1,000 pictures a task."""

from typing import Any, NamedTuple

import numpy as np

from align_keras.evaluation.classification import mean_per_class
from align_keras.evaluation.slices import Statistic


class VtabTrial(NamedTuple):
    """One training of a classifier.

    Attributes:
        task: str.
        learns_from: str, `"train800"` or `"train800val200"`.
        judged_on: str, `"val200"` or `"test"`.
        options: what the trainer takes: learning rate, steps and the like.
        seed: int.
    """

    task: str
    learns_from: str
    judged_on: str
    options: Any
    seed: int


def evaluate_vtab(run_trials, groups, options, *, swept=(), runs=3, seed=0):
    """Tunes and trains on each task, and yields the accuracies.

    With `swept`, each of these options is tried on 800 pictures and judged on 200
    others, and the best are the task's own; of equal ones, the first. With these, or
    with `options`, a classifier is trained on all 1,000 and judged on the test
    pictures, `runs` times.

    Args:
        run_trials: function from a list of `VtabTrial` to a list of int arrays: of
            each picture judged, how many wrong classes the trained classifier
            scores at least as high as the right one.
            `align_keras.datasets.benchmarks.read_vtab` reads the splits that a
            trial names, `align_keras.training.classification` trains and judges.
        groups: dict from group to its tasks.
        options: what a trial takes where nothing is swept.
        swept: sequence of the same.
        runs: int >= 1.
        seed: int, of the sweep and of the first run; the next have the next seeds.

    Yields:
        Pairs of str and float, as `vtab_metrics`.

    References:
        Zhai et al. 2019 (arXiv 1910.04867), whose appendix I has the sweep that
        Jia et al. 2021 take with 50 trials a task, section 5.3 and table 6.

    Example:
    >>> def run_trials(trials):  # The greater the rate, the better.
    ...     return [np.array([0, 0, 1]) * (2 - trial.options) for trial in trials]
    >>> dict(evaluate_vtab(run_trials, {"one": ["a"]}, 1, swept=[1, 2], runs=1))
    {'vtab/a': 1.0, 'vtab/one': 1.0, 'vtab/all': 1.0}
    """
    tasks = [task for own in groups.values() for task in own]
    ranks = vtab_ranks(run_trials, tasks, options, swept=swept, runs=runs, seed=seed)
    yield from vtab_metrics(accuracies_of(ranks), groups)


def vtab_ranks(run_trials, tasks, options, *, swept=(), runs=3, seed=0):
    """As `evaluate_vtab`, of any tasks, before the accuracies.

    Args:
        run_trials: as `evaluate_vtab`.
        tasks: sequence of str.
        options: as `evaluate_vtab`.
        swept: as `evaluate_vtab`.
        runs: as `evaluate_vtab`.
        seed: as `evaluate_vtab`.

    Returns:
        dict from task to an int array (runs, pictures), ranks of the test pictures.
    """
    chosen = dict.fromkeys(tasks, options)
    if swept:
        trials = [
            VtabTrial(task, "train800", "val200", own, seed)
            for task in tasks
            for own in swept
        ]
        best = dict.fromkeys(tasks, -1.0)
        for trial, ranks in zip(trials, run_trials(trials), strict=True):
            accuracy = float(np.mean(np.asarray(ranks) < 1))
            if accuracy > best[trial.task]:
                best[trial.task], chosen[trial.task] = accuracy, trial.options
    trials = [
        VtabTrial(task, "train800val200", "test", chosen[task], seed + run)
        for task in tasks
        for run in range(runs)
    ]
    found = {task: [] for task in tasks}
    for trial, ranks in zip(trials, run_trials(trials), strict=True):
        found[trial.task].append(ranks)
    return {task: np.array(own) for task, own in found.items()}


def accuracies_of(ranks):
    """Returns each task's accuracies, one a run, of the ranks of `vtab_ranks`."""
    return {task: np.mean(own < 1, axis=1) for task, own in ranks.items()}


def vtab_metrics(accuracies, groups):
    """Yields each task's accuracy, and the means of groups and of all tasks.

    Every task counts the same. A spread is the sample's standard deviation over
    runs; that of a mean is of the runs' means.

    Args:
        accuracies: dict from task to a sequence of floats in [0, 1], one a run,
            of equal length.
        groups: dict from group to its tasks. A group of which a task is missing
            has no mean, and neither have all tasks.

    Yields:
        (name, float): `vtab/TASK`, `vtab/GROUP`, `vtab/all`, and with several runs
        the same with `_std`.

    References:
        Zhai et al. 2019; Jia et al. 2021, table 6 (mean ± std of three runs).

    Example:

    >>> accuracies = {"a": [0.2, 0.4], "b": [0.6, 0.6]}
    >>> for name, value in vtab_metrics(accuracies, {"one": ["a", "b"]}):
    ...     print(name, round(value, 3))
    vtab/a 0.3
    vtab/a_std 0.141
    vtab/b 0.6
    vtab/b_std 0.0
    vtab/one 0.45
    vtab/one_std 0.071
    vtab/all 0.45
    vtab/all_std 0.071
    """
    for name, tasks in _means(accuracies, groups):
        of_tasks = np.array([accuracies[task] for task in tasks])
        yield from over_runs(f"vtab/{name}", np.mean(of_tasks, axis=0))


def _means(tasks, groups):
    """Each metric's name, and the tasks that it is the mean of."""
    yield from ((task, [task]) for task in tasks)
    everything = [task for own in groups.values() for task in own]
    for name, own in {**groups, "all": everything}.items():
        if all(task in tasks for task in own):
            yield name, own


def vtab_statistics(ranks, groups):
    """The accuracies as `sliced_metrics` takes them, each picture's mean over runs.

    The mean of a part of the pictures is that of the tasks which have some of them.

    Args:
        ranks: dict from task to int array (runs, pictures), as `vtab_ranks` gives.
        groups: as `vtab_metrics`.

    Yields:
        The list of tasks whose pictures, one task's after another's, are the items,
        and dict, `vtab/TASK`, `vtab/GROUP` or `vtab/all` → `Statistic`.

    Example:
    >>> from align_keras.evaluation import whole_metrics
    >>> ranks = {"a": np.array([[0, 0, 0]]), "b": np.array([[1]])}
    >>> for tasks, statistics in vtab_statistics(ranks, {"one": ["a", "b"]}):
    ...     print(tasks, dict(whole_metrics(statistics)))
    ['a'] {'vtab/a': 1.0}
    ['b'] {'vtab/b': 0.0}
    ['a', 'b'] {'vtab/one': 0.5}
    ['a', 'b'] {'vtab/all': 0.5}
    """
    right = {task: np.mean(own < 1, axis=0) for task, own in ranks.items()}
    for name, tasks in _means(ranks, groups):
        of_items = np.concatenate([right[task] for task in tasks])
        numbers = np.repeat(range(len(tasks)), [len(right[task]) for task in tasks])
        yield tasks, {f"vtab/{name}": _mean_of_tasks(of_items, numbers)}


def _mean_of_tasks(right, tasks):
    return Statistic(
        np.ones(len(right), bool), lambda rows: mean_per_class(right[rows], tasks[rows])
    )


def over_runs(name, values):
    """Yields a metric's mean over runs, and their spread if there are several.

    Args:
        name: str.
        values: sequence of floats, one a run.

    Yields:
        (name, float): `NAME`, and `NAME_std`, the sample's standard deviation.

    Example:

    >>> dict(over_runs("top_1", [0.5, 0.75, 1.0]))
    {'top_1': 0.75, 'top_1_std': 0.25}
    """
    yield name, float(np.mean(values))
    if len(values) > 1:
        yield f"{name}_std", float(np.std(values, ddof=1))
