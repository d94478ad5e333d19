"""Means over the tasks of VTAB."""

import numpy as np
import pytest

from align_keras.evaluation import (
    sliced_metrics,
    vtab_metrics,
    vtab_statistics,
    whole_metrics,
)
from align_keras.protocols.paper_results import paper_results

GROUPS = {"natural": ["a", "b"], "structured": ["c"]}
ACCURACIES = {"a": [0.2, 0.4, 0.3], "b": [0.6, 0.5, 1.0], "c": [0.0, 0.1, 0.9]}


def test_means_and_standard_deviations_equal_those_of_numpy():
    metrics = dict(vtab_metrics(ACCURACIES, GROUPS))
    table = np.array(
        list(ACCURACIES.values())
    )  # The array has a row per task and a column per run.
    rows = {"natural": [0, 1], "structured": [2], "all": [0, 1, 2], "a": [0], "b": [1]}
    for name, task_rows in rows.items():
        runs = table[task_rows].mean(axis=0)
        assert metrics[f"vtab/{name}"] == pytest.approx(runs.mean())
        assert metrics[f"vtab/{name}_std"] == pytest.approx(runs.std(ddof=1))


def test_all_tasks_have_the_same_weight_in_the_mean():
    metrics = dict(vtab_metrics({"a": [0.0], "b": [0.3], "c": [0.9]}, GROUPS))
    assert metrics["vtab/natural"] == pytest.approx(0.15)
    # The mean of the groups would be (0.15 + 0.9) / 2.
    assert metrics["vtab/all"] == pytest.approx(0.4)
    # A single run has no standard deviation.
    assert not [name for name in metrics if name.endswith("_std")]


def test_a_group_with_a_missing_task_is_omitted():
    metrics = dict(vtab_metrics({"a": [0.5], "c": [0.25]}, GROUPS))
    assert metrics == {"vtab/a": 0.5, "vtab/c": 0.25, "vtab/structured": 0.25}


def test_metric_names_are_those_of_the_paper_results():
    groups = {"natural": ["a"], "specialized": ["b"], "structured": ["c"]}
    metrics = dict(vtab_metrics(ACCURACIES, groups))
    names = {result.metric for result in paper_results() if result.protocol == "vtab"}
    assert len(names) == 5 and names <= set(metrics)


def test_slices_are_means_over_the_tasks_with_images_of_the_group():
    ranks = {
        "a": np.array([[0, 1, 0], [0, 0, 3]]),
        "b": np.array([[0, 0], [2, 0]]),
        "c": np.array([[1], [0]]),
    }
    groups = {"a": ["x", "x", "y"], "b": ["x", "y"], "c": ["x"]}
    accuracies = {task: np.mean(runs < 1, axis=1) for task, runs in ranks.items()}
    metrics = dict(vtab_metrics(accuracies, GROUPS))
    slices, metrics_of_statistics = {}, {}
    for tasks, statistics in vtab_statistics(ranks, GROUPS):
        item_groups = [group for task in tasks for group in groups[task]]
        slices |= dict(sliced_metrics(statistics, item_groups, samples=9))
        metrics_of_statistics |= dict(whole_metrics(statistics))
    assert metrics_of_statistics == pytest.approx(
        {name: value for name, value in metrics.items() if not name.endswith("_std")}
    )
    assert slices["vtab/a[x]"] == 0.75 and slices["vtab/a[y]"] == 0.5
    assert slices["vtab/natural[x]"] == pytest.approx((0.75 + 0.5) / 2)
    assert slices["vtab/all[x]"] == pytest.approx((0.75 + 0.5 + 0.5) / 3)
    assert slices["vtab/all[y]"] == pytest.approx((0.5 + 1) / 2)
    assert slices["vtab/all[x]/items"] == 4 and "vtab/c[y]" not in slices
