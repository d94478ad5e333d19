"""Classifiers that are trained on an image encoder: accuracy over runs."""

import numpy as np

from align_keras.evaluation.classification import mean_per_class
from align_keras.evaluation.slices import Statistic, mean_statistics
from align_keras.evaluation.vtab import over_runs
from align_keras.utils.errors import InputError

_KS = (1, 5)


def evaluate_fine_tuned(fine_tune, labels, classes, runs=1, seed=0):
    """Trains a classifier once or several times, and yields its accuracy.

    Args:
        fine_tune: function from a seed to an int array (n,): of each test picture,
            how many wrong classes the trained classifier scores at least as high
            as the right one. `align_keras.training.classification` has `fine_tune`,
            which trains, and `classify`, whose `ranks` these are.
        labels: int array (n,), the pictures' right classes.
        classes: int >= 2, the number of classes.
        runs: int >= 1; the paper takes one for ImageNet and three for the
            fine-grained sets.
        seed: int, of the first run; the next ones have the next seeds.

    Yields:
        Pairs of str and float, as `fine_tuned_metrics`.

    Raises:
        InputError: if the ranks don't fit the labels.

    References:
        Jia et al. 2021, section 5.3, tables 5 and 7.

    Example:
    >>> ranks = {0: [0, 0, 1, 2], 1: [0, 1, 1, 0]}
    >>> dict(evaluate_fine_tuned(ranks.get, [0, 0, 1, 2], classes=3, runs=2))
    {'top_1': 0.5, 'top_1_std': 0.0, 'mean_per_class': 0.416...}
    """
    ranks = [fine_tune(seed + run) for run in range(runs)]
    yield from fine_tuned_metrics(ranks, labels, classes)


def fine_tuned_metrics(ranks, labels, classes):
    """Yields the accuracy of what several runs found.

    Args:
        ranks: int array (runs, n), the right class's rank of each run and picture.
        labels: int array (n,).
        classes: int.

    Yields:
        Pairs of str and float: `top_1`, with more than five classes `top_5`, with
        several runs the same with `_std`, and `mean_per_class`, the mean over the
        classes that occur.

    Raises:
        InputError: if the ranks don't fit the labels.
    """
    ranks, labels = np.asarray(ranks), np.asarray(labels)
    if ranks.ndim != 2 or ranks.shape[1:] != labels.shape:
        raise InputError(
            "`labels` must hold one class a picture, as each run's ranks do, got "
            f"{labels.shape} for ranks of shape {ranks.shape}."
        )
    for k in _shown(classes):
        yield from over_runs(f"top_{k}", np.mean(ranks < k, axis=1))
    per_class = [np.mean(ranks[:, labels == own] < 1) for own in np.unique(labels)]
    yield "mean_per_class", float(np.mean(per_class))


def fine_tuned_statistics(ranks, labels, classes):
    """The accuracies as `sliced_metrics` takes them, each picture's mean over runs.

    Args:
        ranks: int array (runs, n), as for `fine_tuned_metrics`.
        labels: int array (n,).
        classes: int.

    Returns:
        dict, `top_1`, with more than five classes `top_5`, and `mean_per_class` →
        `Statistic`.
    """
    ranks, labels = np.asarray(ranks), np.asarray(labels)
    outcomes = {f"top_{k}": np.mean(ranks < k, axis=0) for k in _shown(classes)}
    per_class = Statistic(
        np.ones(len(labels), bool),
        lambda rows: mean_per_class(outcomes["top_1"][rows], labels[rows]),
    )
    return mean_statistics(outcomes) | {"mean_per_class": per_class}


def _shown(classes):
    return [k for k in _KS if k == 1 or classes > k]
