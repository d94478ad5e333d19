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


def test_means_and_spreads_are_numpys():
    found = dict(vtab_metrics(ACCURACIES, GROUPS))
    table = np.array(list(ACCURACIES.values()))  # (tasks, runs)
    rows = {"natural": [0, 1], "structured": [2], "all": [0, 1, 2], "a": [0], "b": [1]}
    for name, own in rows.items():
        runs = table[own].mean(axis=0)
        assert found[f"vtab/{name}"] == pytest.approx(runs.mean())
        assert found[f"vtab/{name}_std"] == pytest.approx(runs.std(ddof=1))


def test_every_task_counts_the_same_whatever_its_group():
    found = dict(vtab_metrics({"a": [0.0], "b": [0.3], "c": [0.9]}, GROUPS))
    assert found["vtab/natural"] == pytest.approx(0.15)
    assert found["vtab/all"] == pytest.approx(0.4)  # Not (0.15 + 0.9) / 2.
    # A run alone has no spread.
    assert not [name for name in found if name.endswith("_std")]


def test_a_group_that_lacks_a_task_has_no_mean():
    found = dict(vtab_metrics({"a": [0.5], "c": [0.25]}, GROUPS))
    assert found == {"vtab/a": 0.5, "vtab/c": 0.25, "vtab/structured": 0.25}


def test_names_are_those_of_the_paper_figures():
    groups = {"natural": ["a"], "specialized": ["b"], "structured": ["c"]}
    found = dict(vtab_metrics(ACCURACIES, groups))
    wanted = {own.metric for own in paper_results() if own.protocol == "vtab"}
    assert len(wanted) == 5 and wanted <= set(found)


def test_slices_are_means_over_tasks():
    """Each picture by hand; a task without any of a group's pictures doesn't count."""
    ranks = {
        "a": np.array([[0, 1, 0], [0, 0, 3]]),
        "b": np.array([[0, 0], [2, 0]]),
        "c": np.array([[1], [0]]),
    }
    groups = {"a": ["x", "x", "y"], "b": ["x", "y"], "c": ["x"]}
    accuracies = {task: np.mean(runs < 1, axis=1) for task, runs in ranks.items()}
    metrics = dict(vtab_metrics(accuracies, GROUPS))
    found, whole = {}, {}
    for tasks, statistics in vtab_statistics(ranks, GROUPS):
        own = [group for task in tasks for group in groups[task]]
        found |= dict(sliced_metrics(statistics, own, samples=9))
        whole |= dict(whole_metrics(statistics))
    assert whole == pytest.approx(
        {name: value for name, value in metrics.items() if not name.endswith("_std")}
    )
    assert found["vtab/a[x]"] == 0.75 and found["vtab/a[y]"] == 0.5
    assert found["vtab/natural[x]"] == pytest.approx((0.75 + 0.5) / 2)
    assert found["vtab/all[x]"] == pytest.approx((0.75 + 0.5 + 0.5) / 3)
    assert found["vtab/all[y]"] == pytest.approx((0.5 + 1) / 2)
    assert found["vtab/all[x]/items"] == 4 and "vtab/c[y]" not in found
