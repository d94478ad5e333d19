"""Which classes images are given, and how often that is right."""

from collections.abc import Callable, Iterator, Mapping, Sequence
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
    """The classes that images were given.

    Attributes:
        ranks: int64 array (images,), how many wrong classes come before the right one,
            those of equal score too: a model that can't tell classes apart scores 0.
        predictions: int64 array (images,), the first class; the right one exactly
            where the rank is 0.
    """

    ranks: np.ndarray
    predictions: np.ndarray


def as_labels(name: str, labels: Any, rows: int, classes: int) -> np.ndarray:
    """Returns labels as an int64 array (rows,) in [0, classes), or raises."""
    of = "the classes, whose names must be those of the data"
    return as_rows(name, labels, rows, classes, "images", of)


def classification_metrics(
    name: str, found: Classification, labels: Any, classes: int
) -> Metrics:
    """Yields the accuracies of a classification.

    Args:
        name: str, what begins the names, such as `"zero_shot"`.
        found: `Classification`.
        labels: integer array (images,).
        classes: int, the number of classes to choose from.

    Yields:
        Pairs of str and float: `NAME/top_1`, with more than five classes `NAME/top_5`,
        and `NAME/mean_per_class`, of the classes that occur.

    References:
        Jia et al. 2021, section 5.2.

    Example:
    >>> found = Classification(np.array([0, 0, 7]), np.array([0, 0, 2]))
    >>> for metric, value in classification_metrics("probe", found, [0, 0, 1], 9):
    ...     print(metric, round(value, 3))
    probe/top_1 0.667
    probe/top_5 0.667
    probe/mean_per_class 0.5
    """
    yield from whole_metrics(classification_statistics(name, found, labels, classes))


def classification_statistics(
    name: str, found: Classification, labels: Any, classes: int
) -> Statistics:
    """The metrics of `classification_metrics`: dict, name → `Statistic`."""
    outcomes = item_outcomes(f"{name}/top_", found.ranks, _shown(classes))
    per_class = _mean_per_class_statistic(found.ranks == 0, np.asarray(labels))
    return mean_statistics(outcomes) | {f"{name}/mean_per_class": per_class}


def _mean_per_class_statistic(right, labels):
    return Statistic(
        np.ones(len(labels), bool),
        lambda rows: mean_per_class(right[rows], labels[rows]),
    )


def _shown(classes):
    """With five classes or fewer, the first five tell nothing."""
    return (1, 5) if classes > 5 else (1,)


def mean_per_class(right: Any, labels: Any) -> np.ndarray:
    """Mean over the classes that occur of the share of their items that are right.

    Args:
        right: array (..., items), bool, or the share of runs in which it is right.
        labels: integer array (..., items), from 0 on.

    Returns:
        float64 array (...).

    Example:
    >>> mean_per_class(np.array([True, True, False]), np.array([0, 0, 1])).item()
    0.5
    """
    right, labels = np.asarray(right), np.asarray(labels)
    rows, classes = int(np.prod(labels.shape[:-1])), labels.max() + 1
    # Each row of items has counters of its own.
    place = (np.arange(rows)[:, None] * classes + labels.reshape(rows, -1)).ravel()
    items = np.bincount(place, minlength=rows * classes).reshape(rows, classes)
    hits = np.bincount(place, right.ravel(), rows * classes).reshape(rows, classes)
    shares = hits / np.maximum(items, 1)
    return (shares.sum(axis=1) / (items > 0).sum(axis=1)).reshape(labels.shape[:-1])


def class_embeddings(
    encode_texts: Callable, class_names: Sequence[str], templates: Sequence[str]
) -> np.ndarray:
    """Embeds each class as the mean of its prompts, brought back to unit length.

    Args:
        encode_texts: function from a list of str to a real array (n, dimension).
        class_names: sequence of str.
        templates: sequence of str with a `{}` for the name.

    Returns:
        float64 array (classes, dimension).

    Raises:
        InputError: without classes or templates, for a template without `{}`, and
            where the prompts of a class cancel out.

    References:
        Jia et al. 2021, section 5.2.

    Example:
    >>> encode = {"a dog": [1.0, 0.0], "the dog": [0.0, 1.0]}
    >>> def encode_texts(texts): return np.array([encode[text] for text in texts])
    >>> class_embeddings(encode_texts, ["dog"], ["a {}", "the {}"]).round(4).tolist()
    [[0.7071, 0.7071]]
    """
    class_names, templates = list(class_names), list(templates)
    wrong = [template for template in templates if "{}" not in template]
    if not class_names or not templates or wrong:
        raise InputError(
            "`class_names` must hold a name and `templates` a str with {} for it, "
            f"received {len(class_names)} names and {len(templates)} templates"
            + (f", one of them {wrong[0]!r}" if wrong else "")
            + "; write {} where the name goes, as in 'a photo of a {}.'"
        )
    # Not `format`: a name or a template may hold other braces.
    prompts = [
        template.replace("{}", name) for name in class_names for template in templates
    ]
    embeddings = _unit_rows(np.asarray(encode_texts(prompts), float), prompts)
    # (classes · templates, d) → (classes, templates, d) → (classes, d)
    means = embeddings.reshape(len(class_names), len(templates), -1).mean(axis=1)
    return _unit_rows(means, class_names)


def _unit_rows(rows, names):
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
        image_embeddings: real array (images, dimension), finite; may be memory-mapped.
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
    # Where the right class ties with a wrong one, the wrong one was found.
    tied = (nearest[:, 0] == labels) & (ranks > 0)
    return Classification(ranks, np.where(tied, nearest[:, -1], nearest[:, 0]))


def fine_tuned_metrics(ranks: Any, labels: Any, classes: int) -> Metrics:
    """Yields the accuracy of what several runs found.

    Args:
        ranks: int array (runs, n), the right class's rank of each run and image.
        labels: int array (n,).
        classes: int.

    Yields:
        Pairs of str and float: `top_1`, with more than five classes `top_5`, with
        several runs their `_std`, and `mean_per_class` of the classes that occur.

    Raises:
        InputError: if the ranks don't fit the labels.
    """
    ranks, labels = np.asarray(ranks), np.asarray(labels)
    if ranks.ndim != 2 or ranks.shape[1:] != labels.shape:
        raise InputError(
            "`labels` must hold one class an image, as each run's ranks do, received "
            f"{labels.shape} for ranks of shape {ranks.shape}; give those of the same "
            "images."
        )
    for k in _shown(classes):
        yield from over_runs(f"top_{k}", np.mean(ranks < k, axis=1))
    yield "mean_per_class", float(mean_per_class(np.mean(ranks < 1, axis=0), labels))


def fine_tuned_statistics(ranks: Any, labels: Any, classes: int) -> Statistics:
    """The metrics of `fine_tuned_metrics`: dict, name → `Statistic` of the images, each
    by the share of runs in which it is right.
    """
    ranks, labels = np.asarray(ranks), np.asarray(labels)
    outcomes = {f"top_{k}": np.mean(ranks < k, axis=0) for k in _shown(classes)}
    per_class = _mean_per_class_statistic(outcomes["top_1"], labels)
    return mean_statistics(outcomes) | {"mean_per_class": per_class}


def vtab_metrics(accuracies: Mapping[str, Sequence[float]], groups: Groups) -> Metrics:
    """Yields each task's accuracy, and the means of groups and of all tasks.

    Args:
        accuracies: dict from task to a sequence of floats in [0, 1], one a run.
        groups: dict from group to its tasks. A group of which a task is missing
            has no mean, and neither have all tasks.

    Yields:
        (name, float): `vtab/TASK`, `vtab/GROUP`, `vtab/all`, and with several runs
        their `_std`, the sample's deviation over runs.

    References:
        Zhai et al. 2019; Jia et al. 2021, table 6 (mean ± std of three runs).

    Example:
    >>> found = vtab_metrics({"a": [0.2, 0.4], "b": [0.6, 0.6]}, {"one": ["a", "b"]})
    >>> [f"{name} {value:.3f}" for name, value in found if "/a" not in name]
    ['vtab/b 0.600', 'vtab/b_std 0.000', 'vtab/one 0.450', 'vtab/one_std 0.071']
    """
    for name, tasks in _means(accuracies, groups):
        of_tasks = np.array([accuracies[task] for task in tasks])
        yield from over_runs(f"vtab/{name}", np.mean(of_tasks, axis=0))


def _means(tasks, groups):
    """Each metric's name, and the tasks that it is the mean of."""
    yield from ((task, [task]) for task in tasks)
    everything = [task for of_group in groups.values() for task in of_group]
    for name, of_group in {**groups, "all": everything}.items():
        if all(task in tasks for task in of_group):
            yield name, of_group


def vtab_statistics(
    ranks: Mapping[str, np.ndarray], groups: Groups
) -> Iterator[tuple[list[str], Statistics]]:
    """Yields the tasks of each metric of `vtab_metrics`, and its `Statistic` of their
    images, one task's after another's; `ranks` are (runs, images) by task.
    """
    right = {task: np.mean(runs < 1, axis=0) for task, runs in ranks.items()}
    for name, tasks in _means(ranks, groups):
        of_items = np.concatenate([right[task] for task in tasks])
        numbers = np.repeat(range(len(tasks)), [len(right[task]) for task in tasks])
        yield tasks, {f"vtab/{name}": _mean_per_class_statistic(of_items, numbers)}


def over_runs(name: str, values: Any) -> Metrics:
    """Yields a metric's mean over runs, and the sample's deviation of several."""
    yield name, float(np.mean(values))
    if len(values) > 1:
        yield f"{name}_std", float(np.std(values, ddof=1))
