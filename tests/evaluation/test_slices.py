"""Metrics of groups of items with bootstrap intervals."""

import numpy as np
import pytest

from align_keras.evaluation import slices
from align_keras.evaluation.slices import (
    Statistic,
    item_outcomes,
    mean_statistics,
    sliced_metrics,
)


def test_item_outcomes_of_a_small_example_match_a_calculation():
    outcomes = item_outcomes("t2i/recall_at_", [0, 4, 5, -1], (1, 5))
    np.testing.assert_array_equal(outcomes["t2i/recall_at_1"], [1, 0, 0, np.nan])
    np.testing.assert_array_equal(outcomes["t2i/recall_at_5"], [1, 1, 0, np.nan])


def test_each_slice_is_the_metric_of_its_group():
    random = np.random.default_rng(0)
    values = random.random(500)
    groups = random.choice(["red", "green", "blue"], 500)
    metrics = dict(sliced_metrics(mean_statistics({"m": values}), groups, samples=50))
    assert list(metrics)[::4] == ["m[blue]", "m[green]", "m[red]"]
    for group in ("red", "green", "blue"):
        name = f"m[{group}]"
        group_values = values[groups == group]
        assert metrics[name] == pytest.approx(group_values.mean())
        assert metrics[f"{name}/items"] == len(group_values)
        assert metrics[f"{name}/low"] < metrics[name] < metrics[f"{name}/high"]


@pytest.mark.ci
@pytest.mark.parametrize("name", ["mean", "spearman"])
def test_intervals_agree_with_the_bootstrap_of_scipy(name):
    """With 20,000 draws, the ends of both intervals err by about 1% of the width."""
    import scipy.stats

    random = np.random.default_rng(3)
    x = random.random(120)
    y = x + random.normal(0, 0.5, 120)
    if name == "mean":
        statistic, data, paired = np.mean, (x,), False
        our_statistic = mean_statistics({"m": x})["m"]
    else:
        ranks = lambda a: scipy.stats.rankdata(a, axis=-1)  # noqa: E731

        def statistic(a, b, axis=-1):
            del axis
            a, b = ranks(a), ranks(b)
            a, b = (r - r.mean(axis=-1, keepdims=True) for r in (a, b))
            return (a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1))

        data, paired = (x, y), True
        our_statistic = Statistic(
            np.ones(120, bool), lambda rows: statistic(x[rows], y[rows])
        )
    metrics = dict(
        sliced_metrics({"m": our_statistic}, ["g"] * 120, samples=20_000, seed=1)
    )
    expected = scipy.stats.bootstrap(
        data,
        statistic,
        n_resamples=20_000,
        method="percentile",
        paired=paired,
        vectorized=True,
        rng=np.random.default_rng(5),
    ).confidence_interval
    width = expected.high - expected.low
    assert metrics["m[g]/low"] == pytest.approx(expected.low, abs=0.05 * width)
    assert metrics["m[g]/high"] == pytest.approx(expected.high, abs=0.05 * width)


def test_nan_items_are_ignored():
    statistics = mean_statistics({"m": [1.0, np.nan, 0.0, np.nan]})
    metrics = dict(sliced_metrics(statistics, ["a", "a", "a", "b"]))
    assert metrics["m[a]"] == 0.5 and metrics["m[a]/items"] == 2
    assert not [name for name in metrics if "[b]" in name]


def test_a_slice_depends_only_on_the_items_of_its_group_and_the_seed():
    values = np.random.default_rng(0).random(60)
    single_group = dict(sliced_metrics(mean_statistics({"m": values[:20]}), ["a"] * 20))

    def slice_two_groups(seed=0):
        statistics = mean_statistics({"m": values})
        return dict(sliced_metrics(statistics, ["a"] * 20 + ["0"] * 40, seed=seed))

    two_groups = slice_two_groups()
    assert single_group == {
        name: value for name, value in two_groups.items() if "[a]" in name
    }
    assert two_groups == slice_two_groups()
    assert two_groups["m[a]/low"] != slice_two_groups(seed=1)["m[a]/low"]


def test_slices_do_not_depend_on_the_block_size(monkeypatch):
    statistics = mean_statistics({"m": np.random.default_rng(0).random(30)})
    expected = dict(sliced_metrics(statistics, ["a"] * 30))
    monkeypatch.setattr(
        slices, "DRAWN_ITEMS_PER_BLOCK", 70
    )  # A block contains two draws.
    assert dict(sliced_metrics(statistics, ["a"] * 30)) == expected
