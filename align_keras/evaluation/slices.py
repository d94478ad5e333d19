"""Metrics by the values of a column, with bootstrap intervals."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from align_keras.utils.arguments import check_number
from align_keras.utils.errors import InputError

# Drawn items that are looked at in one go: 32 MB of rows.
_DRAWN = 1 << 22
_INTERVAL = (2.5, 97.5)


class Statistic(NamedTuple):
    """A metric that can be computed of any choice of items.

    Attributes:
        counts: bool array (items,), which items the metric is made of.
        function: from an int array (draws, n), n items in each row, to a float
            array (draws,). None beside `bootstrap`.
        bootstrap: where the metric is itself the mean over a bootstrap: from an int
            array (n,) of items, the number of samples and the seed to its values,
            float (samples,), or an empty array for too few items.
    """

    counts: np.ndarray
    function: Callable | None
    bootstrap: Callable | None = None


Statistics = dict[str, Statistic]
Metrics = Iterator[tuple[str, float]]


def item_outcomes(prefix: str, ranks: Any, ks: Iterable[int]) -> dict[str, np.ndarray]:
    """Says of each item whether it is right within its first k: 1, 0, or NaN for rank
    -1, an item that doesn't count; the names are `PREFIX` and k.
    """
    ranks = np.asarray(ranks)
    return {
        f"{prefix}{k}": np.where(ranks < 0, np.nan, (ranks < k).astype(float))
        for k in ks
    }


def recall_statistics(prefix: str, ranks: Any, ks: Iterable[int]) -> Statistics:
    """Recall at each k of `item_outcomes`: dict, `PREFIXrecall_at_K` → `Statistic`."""
    return mean_statistics(item_outcomes(f"{prefix}recall_at_", ranks, ks))


def mean_statistics(outcomes: Mapping[str, Any]) -> Statistics:
    """Metrics that are means over items, as `sliced_metrics` takes them.

    Args:
        outcomes: dict, name → real array (items,), NaN for an item that doesn't count.

    Returns:
        dict, name → `Statistic`.
    """
    statistics = {}
    for name, values in outcomes.items():
        values = np.asarray(values, float)
        statistics[name] = Statistic(
            ~np.isnan(values), lambda rows, values=values: values[rows].mean(axis=-1)
        )
    return statistics


def whole_metrics(statistics: Statistics) -> Metrics:
    """Yields each metric of all items that count; NaN where there are none.

    Args:
        statistics: dict, name → `Statistic` without `bootstrap`.

    Example:
    >>> dict(whole_metrics(mean_statistics({"right": [1.0, 0.0, np.nan]})))
    {'right': 0.5}
    """
    for name, statistic in statistics.items():
        items = np.flatnonzero(statistic.counts)
        yield name, _value(statistic, items) if len(items) else float("nan")


def _value(statistic, items):
    return float(statistic.function(items[None])[0])


def sliced_metrics(
    statistics: Statistics, groups: Any, samples: int = 1000, seed: int = 0
) -> Metrics:
    """Yields each metric for each group of items, with its 95% interval.

    The interval is that of the percentile bootstrap over the group's items. They are
    drawn one by one: where they belong together, as captions of one image do, it is too
    narrow. A metric with a `bootstrap` is the mean of that, which makes its interval.

    Args:
        statistics: dict, name → `Statistic`, such as `mean_statistics` gives.
        groups: sequence of str, the group of each item.
        samples: int >= 1.
        seed: int >= 0.

    Yields:
        Pairs of str and float, groups in alphabetical order: `METRIC[GROUP]`, its
        `/low`, `/high` and `/items`, the number of items that count. A group without
        any, or with too few for a `bootstrap`, is left out.

    Raises:
        InputError: where the numbers of items and groups differ; for `samples` < 1.

    References:
        Jia et al. 2021, section 10 (analysis by groups before any use);
        Efron and Tibshirani, "An Introduction to the Bootstrap", chapter 13.

    Example:
    >>> statistics = mean_statistics({"top_1": [1, 1, 0, 1]})
    >>> found = dict(sliced_metrics(statistics, ["a", "a", "b", "b"]))
    >>> found["top_1[b]"], found["top_1[b]/low"], found["top_1[b]/high"]
    (0.5, 0.0, 1.0)
    """
    check_number("`samples`", samples, 1, 2**31, whole=True)
    groups = np.asarray(groups, str)
    for name, statistic in statistics.items():
        if len(statistic.counts) != len(groups):
            raise InputError(
                f"`groups` must hold one value an item, received {len(groups)} for the "
                f"{len(statistic.counts)} items of {name}; give those of the same "
                "items."
            )
    for group in np.unique(groups):
        for name, statistic in statistics.items():
            items = np.flatnonzero((groups == group) & statistic.counts)
            if not len(items):
                continue
            if statistic.bootstrap is None:
                value = _value(statistic, items)
                drawn = _bootstrapped(statistic.function, items, samples, seed)
            else:
                drawn = statistic.bootstrap(items, samples, seed)
                if not len(drawn):
                    continue
                value = float(drawn.mean())
            yield f"{name}[{group}]", value
            low, high = np.percentile(drawn, _INTERVAL)
            yield f"{name}[{group}]/low", float(low)
            yield f"{name}[{group}]/high", float(high)
            yield f"{name}[{group}]/items", float(len(items))


def _bootstrapped(function, items, samples, seed):
    random = np.random.default_rng(seed)
    at_once = max(1, _DRAWN // len(items))
    values = []
    for start in range(0, samples, at_once):
        draws = min(at_once, samples - start)
        # The draws come in one order, in whatever parts they are made.
        rows = random.integers(0, len(items), (draws, len(items)))
        values.append(function(items[rows]))
    return np.concatenate(values)
