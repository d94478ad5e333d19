"""Metrics of groups of items with bootstrap intervals."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from align_keras.utils.arguments import check_number

# Number of drawn items that are processed at once. Their row numbers take 32 MB.
DRAWN_ITEMS_PER_BLOCK = 1 << 22
# Percentiles of the bootstrap samples.
_INTERVAL = (2.5, 97.5)


class Statistic(NamedTuple):
    """Metric that can be computed for any subset of items.

    Attributes:
        counts: bool array (items,), True for the items that the metric includes.
        function: function from an int array (draws, n) of item numbers to a float
            array (draws,) with the metric of each row, or with NaN if n items are too
            few for the metric. None if there is a `bootstrap`.
        bootstrap: function for metrics that are the mean of a bootstrap, or None. It
            takes an int array (n,) of item numbers, the number of samples and the seed,
            and returns a float array (samples,), or an empty array for too few items.

    Example:

    >>> statistic = Statistic(np.ones(2, bool), lambda draws: draws.mean(axis=1))
    >>> statistic.function(np.array([[0, 1], [1, 1]])).tolist()
    [0.5, 1.0]
    """

    counts: np.ndarray
    function: Callable | None
    bootstrap: Callable | None = None


Statistics = dict[str, Statistic]
Metrics = Iterator[tuple[str, float]]


def item_outcomes(prefix: str, ranks: Any, ks: Iterable[int]) -> dict[str, np.ndarray]:
    """Returns arrays that mark the items with a rank below k.

    Args:
        prefix: start of the keys.
        ranks: int array (items,), -1 for items that metrics ignore.
        ks: integers >= 1.

    Returns:
        dict from `PREFIX` followed by k to a float array (items,) with 1 if the rank is
        below k, else 0, and NaN for the rank -1.

    Example:

    >>> outcomes = item_outcomes("recall_at_", [0, 3, -1], [1, 5])
    >>> outcomes["recall_at_1"].tolist(), outcomes["recall_at_5"].tolist()
    ([1.0, 0.0, nan], [1.0, 1.0, nan])
    """
    ranks = np.asarray(ranks)
    return {
        f"{prefix}{k}": np.where(ranks < 0, np.nan, (ranks < k).astype(float))
        for k in ks
    }


def recall_statistics(prefix: str, ranks: Any, ks: Iterable[int]) -> Statistics:
    """Returns a dict from `PREFIXrecall_at_K` to the `Statistic` of Recall@k.

    Example:

    >>> dict(whole_metrics(recall_statistics("i2t/", [0, 3], [1, 5])))
    {'i2t/recall_at_1': 0.5, 'i2t/recall_at_5': 1.0}
    """
    return mean_statistics(item_outcomes(f"{prefix}recall_at_", ranks, ks))


def mean_statistics(outcomes: Mapping[str, Any]) -> Statistics:
    """Returns metrics that are means over items for `sliced_metrics`.

    Args:
        outcomes: dict from name to real array (items,), NaN for items that the metric
            ignores.

    Returns:
        dict from name to `Statistic`.

    Example:

    >>> statistics = mean_statistics({"top_1": [1.0, 0.0, np.nan]})
    >>> statistics["top_1"].counts.tolist()
    [True, True, False]
    """
    return {name: _mean_statistic(values) for name, values in outcomes.items()}


def _mean_statistic(outcomes: Any) -> Statistic:
    values = np.asarray(outcomes, float)
    return Statistic(~np.isnan(values), lambda rows: values[rows].mean(axis=-1))


def whole_metrics(statistics: Statistics) -> Metrics:
    """Yields each metric over all of its items, or NaN if it has no items.

    Args:
        statistics: dict from name to `Statistic` without `bootstrap`.

    Example:
    >>> dict(whole_metrics(mean_statistics({"right": [1.0, 0.0, np.nan]})))
    {'right': 0.5}
    """
    for name, statistic in statistics.items():
        items = np.flatnonzero(statistic.counts)
        value = float("nan")
        if len(items) and statistic.function is not None:
            value = float(statistic.function(items[None])[0])
        yield name, value


def sliced_metrics(
    statistics: Statistics, groups: Any, samples: int = 1000, seed: int = 0
) -> Metrics:
    """Yields each metric for each group of items with its 95% confidence interval.

    The interval is that of the percentile bootstrap over the items of the group. Items
    are drawn independently. The interval is therefore too narrow for dependent items,
    such as captions of the same image. A metric with a `bootstrap` is the mean of its
    samples, which also determine the interval.

    Args:
        statistics: dict from name to `Statistic`, such as the result of
            `mean_statistics`.
        groups: group of each item.
        samples: int >= 1, number of bootstrap samples.
        seed: int >= 0.

    Yields:
        Pairs of str and float: `METRIC[GROUP]`, the ends of its interval
        `METRIC[GROUP]/low` and `METRIC[GROUP]/high`, and the number of items
        `METRIC[GROUP]/items`. The groups are in alphabetical order. A metric is omitted
        for a group without items or with too few items.

    Raises:
        InputError: if `samples` < 1.

    References:
        Jia et al. 2021, section 10 (analysis by groups before any use). Efron and
        Tibshirani, "An Introduction to the Bootstrap", chapter 13.

    Example:
    >>> statistics = mean_statistics({"top_1": [1, 1, 0, 1]})
    >>> metrics = dict(sliced_metrics(statistics, ["a", "a", "b", "b"]))
    >>> metrics["top_1[b]"], metrics["top_1[b]/low"], metrics["top_1[b]/high"]
    (0.5, 0.0, 1.0)
    """
    check_number("`samples`", samples, 1, 2**31, whole=True)
    groups = np.asarray(groups, str)
    for group in np.unique(groups):
        for name, statistic in statistics.items():
            items = np.flatnonzero((groups == group) & statistic.counts)
            if not len(items):
                continue
            if statistic.bootstrap is not None:
                sample_values = statistic.bootstrap(items, samples, seed)
                if not len(sample_values):
                    continue
                value = float(sample_values.mean())
            elif statistic.function is not None:
                value = float(statistic.function(items[None])[0])
                if np.isnan(value):
                    continue
                sample_values = _bootstrapped(statistic.function, items, samples, seed)
            yield f"{name}[{group}]", value
            low, high = np.percentile(sample_values, _INTERVAL)
            yield f"{name}[{group}]/low", float(low)
            yield f"{name}[{group}]/high", float(high)
            yield f"{name}[{group}]/items", float(len(items))


def _bootstrapped(
    function: Callable, items: np.ndarray, samples: int, seed: int
) -> np.ndarray:
    """Returns the values (samples,) of a function for items drawn with replacement."""
    random = np.random.default_rng(seed)
    block_size = max(1, DRAWN_ITEMS_PER_BLOCK // len(items))
    values = []
    for start in range(0, samples, block_size):
        draws = min(block_size, samples - start)
        # The drawn items don't depend on the block size.
        rows = random.integers(0, len(items), (draws, len(items)))
        values.append(function(items[rows]))
    return np.concatenate(values)
