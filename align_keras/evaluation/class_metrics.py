"""Classification of images by classes, and its accuracy."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from align_keras.evaluation.exact_scores import as_rows
from align_keras.evaluation.nearest_neighbors import nearest_neighbors
from align_keras.evaluation.recall_at_k import rank_of_best_positive
from align_keras.evaluation.slices import (
    Metrics,
    Statistic,
    Statistics,
    item_outcomes,
    mean_statistics,
    whole_metrics,
)
from align_keras.utils.errors import InputError

Groups = Mapping[str, Sequence[str]]


class Classification(NamedTuple):
    """Classes that a model assigned to images.

    Attributes:
        ranks: int64 array (images,), number of wrong classes before the right one.
            Wrong classes with the same score count, so that the accuracy of a model
            with equal scores is 0.
        predictions: int64 array (images,), the first class. It is the right one exactly
            if the rank is 0.
    """

    ranks: np.ndarray
    predictions: np.ndarray


def as_labels(name: str, labels: Any, rows: int, classes: int) -> np.ndarray:
    """Returns labels as an int64 array (rows,) in [0, classes), or raises."""
    gallery = "the classes, whose names must be those of the data"
    return as_rows(name, labels, rows, classes, "images", gallery)


def classification_metrics(
    name: str, classification: Classification, labels: Any, classes: int
) -> Metrics:
    """Yields the accuracies of a classification.

    Args:
        name: str, prefix of the names, such as `"zero_shot"`.
        classification: `Classification`.
        labels: integer array (images,).
        classes: int, the number of classes to choose from.

    Yields:
        Pairs of str and float: `NAME/top_1`, with more than five classes `NAME/top_5`,
        and `NAME/mean_per_class`, of the classes that occur.

    References:
        Jia et al. 2021, section 5.2.

    Example:
    >>> classification = Classification(np.array([0, 0, 7]), np.array([0, 0, 2]))
    >>> metrics = classification_metrics("probe", classification, [0, 0, 1], 9)
    >>> for metric, value in metrics:
    ...     print(metric, round(value, 3))
    probe/top_1 0.667
    probe/top_5 0.667
    probe/mean_per_class 0.5
    """
    statistics = classification_statistics(name, classification, labels, classes)
    yield from whole_metrics(statistics)


def classification_statistics(
    name: str, classification: Classification, labels: Any, classes: int
) -> Statistics:
    """Returns the metrics of `classification_metrics`, as a dict of `Statistic`."""
    ranks = classification.ranks
    outcomes = item_outcomes(f"{name}/top_", ranks, _accuracy_ks(classes))
    per_class = _mean_per_class_statistic(ranks == 0, np.asarray(labels))
    return mean_statistics(outcomes) | {f"{name}/mean_per_class": per_class}


def _mean_per_class_statistic(right: np.ndarray, labels: np.ndarray) -> Statistic:
    return Statistic(
        np.ones(len(labels), bool),
        lambda rows: mean_per_class(right[rows], labels[rows]),
    )


def _accuracy_ks(classes: int) -> tuple[int, ...]:
    """Returns k of the top-k accuracies. The top 5 of five classes or fewer is 1."""
    return (1, 5) if classes > 5 else (1,)


def mean_per_class(right: Any, labels: Any) -> np.ndarray:
    """Returns the mean accuracy of the classes that occur.

    Args:
        right: array (..., items), bool, or the fraction of runs with the right class.
        labels: integer array (..., items), from 0 on.

    Returns:
        float64 array (...).

    Example:
    >>> mean_per_class(np.array([True, True, False]), np.array([0, 0, 1])).item()
    0.5
    """
    right = np.asarray(right)
    labels = np.asarray(labels)
    rows = int(np.prod(labels.shape[:-1]))
    classes = labels.max() + 1
    # Each row of items has its own counters.
    counter = (np.arange(rows)[:, None] * classes + labels.reshape(rows, -1)).ravel()
    items = np.bincount(counter, minlength=rows * classes).reshape(rows, classes)
    hits = np.bincount(counter, right.ravel(), rows * classes).reshape(rows, classes)
    shares = hits / np.maximum(items, 1)
    return (shares.sum(axis=1) / (items > 0).sum(axis=1)).reshape(labels.shape[:-1])


def class_embeddings(
    encode_texts: Callable, class_names: Sequence[str], templates: Sequence[str]
) -> np.ndarray:
    """Embeds each class as the mean of its prompts, normalized to unit length.

    Args:
        encode_texts: function from a list of str to a real array (n, dimension).
        class_names: sequence of str.
        templates: sequence of str with `{}`, which the name replaces.

    Returns:
        float64 array (classes, dimension).

    Raises:
        InputError: without classes or templates, for a template without `{}`, and if
            the prompts of a class cancel out.

    References:
        Jia et al. 2021, section 5.2.

    Example:
    >>> encode = {"a dog": [1.0, 0.0], "the dog": [0.0, 1.0]}
    >>> def encode_texts(texts): return np.array([encode[text] for text in texts])
    >>> class_embeddings(encode_texts, ["dog"], ["a {}", "the {}"]).round(4).tolist()
    [[0.7071, 0.7071]]
    """
    class_names = list(class_names)
    templates = list(templates)
    wrong = [template for template in templates if "{}" not in template]
    if not class_names or not templates or wrong:
        raise InputError(
            "`class_names` must hold a name and `templates` a str with {} for it, "
            f"received {len(class_names)} names and {len(templates)} templates"
            + (f", one of them {wrong[0]!r}" if wrong else "")
            + "; write {} where the name goes, as in 'a photo of a {}.'"
        )
    # `format` would fail for names and templates with other braces.
    prompts = [
        template.replace("{}", name) for name in class_names for template in templates
    ]
    embeddings = _unit_rows(np.asarray(encode_texts(prompts), float), prompts)
    # (classes · templates, d) → (classes, templates, d) → (classes, d)
    means = embeddings.reshape(len(class_names), len(templates), -1).mean(axis=1)
    return _unit_rows(means, class_names)


def _unit_rows(rows: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Divides rows by their lengths, or raises for rows of length zero."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    wrong = np.flatnonzero(~(lengths > 1e-12) | ~np.isfinite(lengths))
    if len(wrong):
        raise InputError(
            "`encode_texts` must give finite embeddings that don't cancel out, "
            f"received length {lengths[wrong[0], 0]} for {names[wrong[0]]!r}; look for "
            "a diverged model."
        )
    return rows / lengths


def zero_shot_classification(
    image_embeddings: np.ndarray,
    class_embeddings: np.ndarray,
    labels: Any,
    block_size: int = 4096,
) -> Classification:
    """Classifies images by the nearest class, with exact scores.

    Args:
        image_embeddings: real array (images, dimension), finite, can be memory-mapped.
        class_embeddings: real array (classes, dimension), finite.
        labels: integers (images,), the right rows of `class_embeddings`.
        block_size: int >= 1, images and classes scored at once.

    Returns:
        `Classification`.

    Raises:
        InputError: for shapes, embeddings and labels that don't fit.

    References:
        Jia et al. 2021, section 5.2.

    Example:
    >>> zero_shot_classification(np.eye(2), np.eye(2), [0, 0]).ranks.tolist()
    [0, 1]
    """
    labels = as_labels("labels", labels, len(image_embeddings), len(class_embeddings))
    ranks = rank_of_best_positive(
        image_embeddings, class_embeddings, labels[:, None], block_size
    )
    nearest, _ = nearest_neighbors(
        image_embeddings, class_embeddings, min(2, len(class_embeddings)), block_size
    )
    # In a tie of the right class with a wrong one the wrong one is the prediction.
    tied = (nearest[:, 0] == labels) & (ranks > 0)
    return Classification(ranks, np.where(tied, nearest[:, -1], nearest[:, 0]))


def fine_tuned_metrics(ranks: Any, labels: Any, classes: int) -> Metrics:
    """Yields the accuracies of several runs.

    Args:
        ranks: int array (runs, n), rank of the right class for each run and image.
        labels: int array (n,).
        classes: int.

    Yields:
        Pairs of str and float: `top_1`, with more than five classes `top_5`, with
        several runs their `_std`, and `mean_per_class` of the classes that occur.

    Raises:
        InputError: if the ranks don't fit the labels.
    """
    ranks = np.asarray(ranks)
    labels = np.asarray(labels)
    if ranks.ndim != 2 or ranks.shape[1:] != labels.shape:
        raise InputError(
            "`labels` must hold one class an image, as each run's ranks do, received "
            f"{labels.shape} for ranks of shape {ranks.shape}; give those of the same "
            "images."
        )
    for k in _accuracy_ks(classes):
        yield from over_runs(f"top_{k}", np.mean(ranks < k, axis=1))
    yield "mean_per_class", float(mean_per_class(np.mean(ranks < 1, axis=0), labels))


def fine_tuned_statistics(ranks: Any, labels: Any, classes: int) -> Statistics:
    """Returns the metrics of `fine_tuned_metrics`, as a dict of `Statistic`.

    The value of an image is the fraction of runs with the right class.
    """
    ranks = np.asarray(ranks)
    labels = np.asarray(labels)
    outcomes = {f"top_{k}": np.mean(ranks < k, axis=0) for k in _accuracy_ks(classes)}
    per_class = _mean_per_class_statistic(outcomes["top_1"], labels)
    return mean_statistics(outcomes) | {"mean_per_class": per_class}


def vtab_metrics(accuracies: Mapping[str, Sequence[float]], groups: Groups) -> Metrics:
    """Yields each task's accuracy, and the means of groups and of all tasks.

    Args:
        accuracies: dict from task to a sequence of floats in [0, 1], one per run.
        groups: dict from group to its tasks. A group with a missing task has no mean,
            and `vtab/all` needs all tasks.

    Yields:
        (name, float): `vtab/TASK`, `vtab/GROUP`, `vtab/all`, and with several runs
        their `_std`, the sample's deviation over runs.

    References:
        Zhai et al. 2019; Jia et al. 2021, table 6 (mean ± std of three runs).

    Example:
    >>> metrics = vtab_metrics({"a": [0.2, 0.4], "b": [0.6, 0.6]}, {"one": ["a", "b"]})
    >>> [f"{name} {value:.3f}" for name, value in metrics if "/a" not in name]
    ['vtab/b 0.600', 'vtab/b_std 0.000', 'vtab/one 0.450', 'vtab/one_std 0.071']
    """
    for name, tasks in _means(accuracies, groups):
        task_accuracies = np.array([accuracies[task] for task in tasks])
        yield from over_runs(f"vtab/{name}", np.mean(task_accuracies, axis=0))


def _means(tasks: Collection[str], groups: Groups) -> Iterator[tuple[str, list[str]]]:
    """Yields the name of each metric, and the tasks whose mean it is."""
    for task in tasks:
        yield task, [task]
    all_tasks = [task for group_tasks in groups.values() for task in group_tasks]
    for name, group_tasks in {**groups, "all": all_tasks}.items():
        if all(task in tasks for task in group_tasks):
            yield name, list(group_tasks)


def vtab_statistics(
    ranks: Mapping[str, np.ndarray], groups: Groups
) -> Iterator[tuple[list[str], Statistics]]:
    """Yields the statistics of the metrics of `vtab_metrics`.

    Args:
        ranks: dict from task to int array (runs, images).
        groups: dict from group to its tasks.

    Yields:
        The tasks of a metric, and a dict with its `Statistic` of their images. The
        images of each task follow those of the task before.
    """
    right = {task: np.mean(runs < 1, axis=0) for task, runs in ranks.items()}
    for name, tasks in _means(ranks, groups):
        item_values = np.concatenate([right[task] for task in tasks])
        numbers = np.repeat(range(len(tasks)), [len(right[task]) for task in tasks])
        yield tasks, {f"vtab/{name}": _mean_per_class_statistic(item_values, numbers)}


def over_runs(name: str, values: Any) -> Metrics:
    """Yields the mean of a metric over runs, and its sample standard deviation."""
    yield name, float(np.mean(values))
    if len(values) > 1:
        yield f"{name}_std", float(np.std(values, ddof=1))
