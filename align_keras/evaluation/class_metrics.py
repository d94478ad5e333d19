"""Classification of images and its accuracy."""

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
    """Predicted classes of images and the ranks of the correct classes.

    Attributes:
        ranks: int64 array (images,), number of wrong classes that rank before the
            correct class. Wrong classes with the same score are included, so that the
            accuracy of a model with equal scores is 0.
        predictions: int64 array (images,), class with the highest score. It is the
            correct class if and only if the rank is 0.

    Example:

    >>> Classification(np.array([0, 2]), np.array([3, 1])).predictions.tolist()
    [3, 1]
    """

    ranks: np.ndarray
    predictions: np.ndarray


def as_labels(name: str, labels: Any, rows: int, classes: int) -> np.ndarray:
    """Converts labels to an int64 array (rows,) in [0, classes).

    Raises:
        InputError: if the number, the type or the range of the labels is wrong.
    """
    gallery = "the classes, whose names must be those of the data"
    return as_rows(name, labels, rows, classes, "images", gallery)


def classification_metrics(
    name: str, classification: Classification, labels: Any, classes: int
) -> Metrics:
    """Yields the accuracies of a classification.

    Args:
        name: prefix of the metric names, such as `"zero_shot"`.
        classification: `Classification`.
        labels: integer array (images,).
        classes: number of classes to choose from.

    Yields:
        Pairs of str and float: `NAME/top_1`, `NAME/top_5` if there are more than five
        classes, and `NAME/mean_per_class` over the classes with images.

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
    """Returns the metrics of `classification_metrics` as a dict of `Statistic`.

    Example:

    >>> classification = Classification(np.array([0, 0, 7]), np.array([0, 0, 2]))
    >>> statistics = classification_statistics("probe", classification, [0, 0, 1], 9)
    >>> sorted(statistics)
    ['probe/mean_per_class', 'probe/top_1', 'probe/top_5']
    """
    ranks = classification.ranks
    outcomes = item_outcomes(f"{name}/top_", ranks, _accuracy_ks(classes))
    per_class = _mean_per_class_statistic(ranks == 0, np.asarray(labels))
    return mean_statistics(outcomes) | {f"{name}/mean_per_class": per_class}


def _mean_per_class_statistic(is_correct: np.ndarray, labels: np.ndarray) -> Statistic:
    return Statistic(
        np.ones(len(labels), bool),
        lambda rows: mean_per_class(is_correct[rows], labels[rows]),
    )


def _accuracy_ks(classes: int) -> tuple[int, ...]:
    """Returns the values of k for top-k accuracies."""
    # With five classes or fewer, the top-5 accuracy is always 1.
    return (1, 5) if classes > 5 else (1,)


def mean_per_class(is_correct: Any, labels: Any) -> np.ndarray:
    """Returns the accuracy per class, averaged over the classes with items.

    Args:
        is_correct: bool array (..., items), or float array with the fraction of runs
            that predict the correct class.
        labels: integer array (..., items), at least 0.

    Returns:
        float64 array (...).

    Example:
    >>> mean_per_class(np.array([True, True, False]), np.array([0, 0, 1])).item()
    0.5
    """
    is_correct = np.asarray(is_correct)
    labels = np.asarray(labels)
    rows = int(np.prod(labels.shape[:-1]))
    classes = labels.max() + 1
    # Each row of items has separate counters.
    counter = (np.arange(rows)[:, None] * classes + labels.reshape(rows, -1)).ravel()
    items = np.bincount(counter, minlength=rows * classes).reshape(rows, classes)
    hits = np.bincount(counter, is_correct.ravel(), rows * classes)
    accuracies = hits.reshape(rows, classes) / np.maximum(items, 1)
    means = accuracies.sum(axis=1) / (items > 0).sum(axis=1)
    return means.reshape(labels.shape[:-1])


def class_embeddings(
    encode_texts: Callable, class_names: Sequence[str], templates: Sequence[str]
) -> np.ndarray:
    """Computes an embedding of each class from the mean of its prompts.

    Args:
        encode_texts: function from a list of str to a real array (n, dimension).
        class_names: sequence of str.
        templates: sequence of str with `{}`, which is replaced by the class name.

    Returns:
        float64 array (classes, dimension) of unit length.

    Raises:
        InputError: if a template has no `{}`.

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
    bad_templates = [template for template in templates if "{}" not in template]
    if bad_templates:
        raise InputError(
            "`templates` must contain {} for the class name, as in 'a photo of a {}.' "
            f"Received: {bad_templates[0]!r}."
        )
    # `str.format` would fail for names and templates with other braces.
    prompts = [
        template.replace("{}", name) for name in class_names for template in templates
    ]
    embeddings = _unit_rows(np.asarray(encode_texts(prompts), float))
    # (classes · templates, d) → (classes, templates, d) → (classes, d)
    means = embeddings.reshape(len(class_names), len(templates), -1).mean(axis=1)
    return _unit_rows(means)


def _unit_rows(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def zero_shot_classification(
    image_embeddings: np.ndarray,
    class_embeddings: np.ndarray,
    labels: Any,
    block_size: int = 4096,
) -> Classification:
    """Classifies images by the nearest class embedding with exact scores.

    Args:
        image_embeddings: real array (images, dimension), finite, can be memory-mapped.
        class_embeddings: real array (classes, dimension), finite.
        labels: integers (images,), rows of `class_embeddings` of the correct classes.
        block_size: int >= 1, number of images and classes that are scored at once.

    Returns:
        `Classification`.

    Raises:
        InputError: if the shapes don't match, an embedding isn't finite, or a label is
            out of range.

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
    # If the correct class ties with a wrong class, the wrong class is predicted.
    tied = (nearest[:, 0] == labels) & (ranks > 0)
    return Classification(ranks, np.where(tied, nearest[:, -1], nearest[:, 0]))


def fine_tuned_metrics(ranks: Any, labels: Any, classes: int) -> Metrics:
    """Yields the mean accuracies of several runs.

    Args:
        ranks: int array (runs, n), rank of the correct class for each run and image.
        labels: int array (n,).
        classes: number of classes.

    Yields:
        Pairs of str and float: `top_1`, `top_5` if there are more than five classes,
        their standard deviations `top_1_std` and `top_5_std` if there are several runs,
        and `mean_per_class` over the classes with images.

    Example:

    >>> ranks = [[0, 0, 1, 2], [0, 0, 0, 2]]
    >>> for name, value in fine_tuned_metrics(ranks, [0, 0, 1, 1], 3):
    ...     print(name, round(value, 3))
    top_1 0.625
    top_1_std 0.177
    mean_per_class 0.625
    """
    ranks = np.asarray(ranks)
    labels = np.asarray(labels)
    for k in _accuracy_ks(classes):
        yield from over_runs(f"top_{k}", np.mean(ranks < k, axis=1))
    yield "mean_per_class", float(mean_per_class(np.mean(ranks < 1, axis=0), labels))


def fine_tuned_statistics(ranks: Any, labels: Any, classes: int) -> Statistics:
    """Returns the metrics of `fine_tuned_metrics` as a dict of `Statistic`.

    The value of an image is the fraction of runs that predict the correct class.

    Example:

    >>> statistics = fine_tuned_statistics([[0, 1], [0, 0]], [0, 1], 3)
    >>> dict(whole_metrics(statistics))["top_1"]
    0.75
    """
    ranks = np.asarray(ranks)
    labels = np.asarray(labels)
    outcomes = {f"top_{k}": np.mean(ranks < k, axis=0) for k in _accuracy_ks(classes)}
    per_class = _mean_per_class_statistic(outcomes["top_1"], labels)
    return mean_statistics(outcomes) | {"mean_per_class": per_class}


def vtab_metrics(accuracies: Mapping[str, Sequence[float]], groups: Groups) -> Metrics:
    """Yields the accuracy of each task and the means of groups and of all tasks.

    Args:
        accuracies: dict from task to a sequence of floats in [0, 1], one per run.
        groups: dict from group to its tasks. A group with a missing task is omitted,
            and `vtab/all` requires all tasks.

    Yields:
        Pairs of str and float: `vtab/TASK`, `vtab/GROUP` and `vtab/all`. With several
        runs, `vtab/TASK_std` and so on are their sample standard deviations.

    References:
        Zhai et al. 2019 (tasks and groups). Jia et al. 2021, table 6 (mean ± std of
        three runs).

    Example:
    >>> metrics = vtab_metrics({"a": [0.2, 0.4], "b": [0.6, 0.6]}, {"one": ["a", "b"]})
    >>> [f"{name} {value:.3f}" for name, value in metrics if "/a" not in name]
    ['vtab/b 0.600', 'vtab/b_std 0.000', 'vtab/one 0.450', 'vtab/one_std 0.071']
    """
    for name, tasks in _means(accuracies, groups):
        task_accuracies = np.array([accuracies[task] for task in tasks])
        yield from over_runs(f"vtab/{name}", np.mean(task_accuracies, axis=0))


def _means(tasks: Collection[str], groups: Groups) -> Iterator[tuple[str, list[str]]]:
    """Yields the name of each metric and the tasks over which it is averaged."""
    for task in tasks:
        yield task, [task]
    all_tasks = [task for group_tasks in groups.values() for task in group_tasks]
    for name, group_tasks in {**groups, "all": all_tasks}.items():
        if all(task in tasks for task in group_tasks):
            yield name, list(group_tasks)


def vtab_statistics(
    ranks: Mapping[str, np.ndarray], groups: Groups
) -> Iterator[tuple[list[str], Statistics]]:
    """Yields the metrics of `vtab_metrics` as `Statistic`.

    Args:
        ranks: dict from task to int array (runs, images).
        groups: dict from group to its tasks.

    Yields:
        Pairs of the tasks of a metric and a dict with its `Statistic`. The items of the
        statistic are the images of all tasks, concatenated in the order of the tasks.

    Example:

    >>> ranks = {"a": np.array([[0, 1]]), "b": np.array([[0, 0]])}
    >>> for tasks, statistics in vtab_statistics(ranks, {"one": ["a", "b"]}):
    ...     print(tasks, dict(whole_metrics(statistics)))
    ['a'] {'vtab/a': 0.5}
    ['b'] {'vtab/b': 1.0}
    ['a', 'b'] {'vtab/one': 0.75}
    ['a', 'b'] {'vtab/all': 0.75}
    """
    accuracies = {task: np.mean(runs < 1, axis=0) for task, runs in ranks.items()}
    for name, tasks in _means(ranks, groups):
        item_values = np.concatenate([accuracies[task] for task in tasks])
        counts = [len(accuracies[task]) for task in tasks]
        numbers = np.repeat(range(len(tasks)), counts)
        yield tasks, {f"vtab/{name}": _mean_per_class_statistic(item_values, numbers)}


def over_runs(name: str, values: Any) -> Metrics:
    """Yields the mean of a metric over runs and its sample standard deviation."""
    yield name, float(np.mean(values))
    if len(values) > 1:
        yield f"{name}_std", float(np.std(values, ddof=1))
