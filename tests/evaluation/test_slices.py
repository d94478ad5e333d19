import numpy as np
import pytest

from align_keras.evaluation import slices
from align_keras.evaluation.slices import (
    Statistic,
    item_outcomes,
    mean_statistics,
    sliced_metrics,
)
from align_keras.utils.errors import InputError


def test_outcomes_by_hand():
    found = item_outcomes("t2i/recall_at_", [0, 4, 5, -1], (1, 5))
    np.testing.assert_array_equal(found["t2i/recall_at_1"], [1, 0, 0, np.nan])
    np.testing.assert_array_equal(found["t2i/recall_at_5"], [1, 1, 0, np.nan])


def test_the_slices_are_the_metric_of_each_group():
    random = np.random.default_rng(0)
    values = random.random(500)
    groups = random.choice(["red", "green", "blue"], 500)
    found = dict(sliced_metrics(mean_statistics({"m": values}), groups, samples=50))
    assert list(found)[::4] == ["m[blue]", "m[green]", "m[red]"]
    for group in ("red", "green", "blue"):
        own = values[groups == group]
        assert found[f"m[{group}]"] == pytest.approx(own.mean())
        assert found[f"m[{group}]/items"] == len(own)
        assert (
            found[f"m[{group}]/low"] < found[f"m[{group}]"] < found[f"m[{group}]/high"]
        )


@pytest.mark.ci
@pytest.mark.parametrize("name", ["mean", "spearman"])
def test_intervals_are_those_of_scipys_bootstrap(name):
    """20,000 draws each: the ends of both intervals err by about 1% of the width."""
    import scipy.stats

    random = np.random.default_rng(3)
    x = random.random(120)
    y = x + random.normal(0, 0.5, 120)
    if name == "mean":
        statistic, data, paired = np.mean, (x,), False
        own = mean_statistics({"m": x})["m"]
    else:
        ranks = lambda a: scipy.stats.rankdata(a, axis=-1)  # noqa: E731

        def statistic(a, b, axis=-1):
            del axis
            a, b = ranks(a), ranks(b)
            a, b = (r - r.mean(axis=-1, keepdims=True) for r in (a, b))
            return (a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1))

        data, paired = (x, y), True
        own = Statistic(np.ones(120, bool), lambda rows: statistic(x[rows], y[rows]))
    found = dict(sliced_metrics({"m": own}, ["g"] * 120, samples=20_000, seed=1))
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
    assert found["m[g]/low"] == pytest.approx(expected.low, abs=0.05 * width)
    assert found["m[g]/high"] == pytest.approx(expected.high, abs=0.05 * width)


def test_items_that_do_not_count_are_left_out():
    statistics = mean_statistics({"m": [1.0, np.nan, 0.0, np.nan]})
    found = dict(sliced_metrics(statistics, ["a", "a", "a", "b"]))
    assert found["m[a]"] == 0.5 and found["m[a]/items"] == 2
    assert not [name for name in found if "[b]" in name]


def test_a_group_depends_on_its_own_items_alone():
    values = np.random.default_rng(0).random(60)
    statistics = mean_statistics({"m": values})
    alone = dict(sliced_metrics(mean_statistics({"m": values[:20]}), ["a"] * 20))
    among = dict(sliced_metrics(statistics, ["a"] * 20 + ["0"] * 40))
    assert alone == {name: value for name, value in among.items() if "[a]" in name}
    again = dict(sliced_metrics(statistics, ["a"] * 20 + ["0"] * 40))
    other = dict(sliced_metrics(statistics, ["a"] * 20 + ["0"] * 40, seed=1))
    assert among == again
    assert among["m[a]/low"] != other["m[a]/low"]


def test_the_result_does_not_depend_on_the_parts(monkeypatch):
    statistics = mean_statistics({"m": np.random.default_rng(0).random(30)})
    whole = dict(sliced_metrics(statistics, ["a"] * 30))
    monkeypatch.setattr(slices, "DRAWN_ITEMS_PER_BLOCK", 70)  # Two draws at a time.
    assert dict(sliced_metrics(statistics, ["a"] * 30)) == whole


def test_errors_name_the_argument():
    statistics = mean_statistics({"m": [1, 0]})
    with pytest.raises(InputError, match="`groups`.*received 1 for the 2 items of m"):
        dict(sliced_metrics(statistics, ["a"]))
    with pytest.raises(InputError, match="`samples` must be a whole number from 1"):
        dict(sliced_metrics(statistics, ["a", "a"], samples=0))
