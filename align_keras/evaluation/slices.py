"""Metrics by the values of a column, with bootstrap intervals."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from align_keras.utils.arguments import check_number
from align_keras.utils.errors import InputError

# Drawn items that are processed together: 32 MB of rows.
DRAWN_ITEMS_PER_BLOCK = 1 << 22
# Percentiles of the bootstrap samples.
_INTERVAL = (2.5, 97.5)


class Statistic(NamedTuple):
    """Metric that can be computed for any subset of items.

    Attributes:
        counts: bool array (items,), True for items that count for the metric.
        function: function from an int array (draws, n), with n items in each row, to a
            float array (draws,). None if there is a `bootstrap`.
        bootstrap: for metrics that are the mean of a bootstrap: function from an int
            array (n,) of items, the number of samples and the seed to a float array
            (samples,), or an empty array for too few items.
    """

    counts: np.ndarray
    function: Callable | None
    bootstrap: Callable | None = None


Statistics = dict[str, Statistic]
Metrics = Iterator[tuple[str, float]]


def item_outcomes(prefix: str, ranks: Any, ks: Iterable[int]) -> dict[str, np.ndarray]:
    """Returns a float array for each k: 1 if the rank of an item is below k, else 0.

    Items with rank -1 don't count, and are NaN. The keys are `PREFIX` and k.
    """
    ranks = np.asarray(ranks)
    return {
        f"{prefix}{k}": np.where(ranks < 0, np.nan, (ranks < k).astype(float))
        for k in ks
    }


def recall_statistics(prefix: str, ranks: Any, ks: Iterable[int]) -> Statistics:
    """Returns the recall at each k: dict from `PREFIXrecall_at_K` to `Statistic`."""
    return mean_statistics(item_outcomes(f"{prefix}recall_at_", ranks, ks))


def mean_statistics(outcomes: Mapping[str, Any]) -> Statistics:
    """Returns metrics that are means over items, for `sliced_metrics`.

    Args:
        outcomes: dict from name to real array (items,), NaN for an item that doesn't
            count.

    Returns:
        dict from name to `Statistic`.
    """
    return {name: _mean_statistic(values) for name, values in outcomes.items()}


def _mean_statistic(outcomes: Any) -> Statistic:
    values = np.asarray(outcomes, float)
    return Statistic(~np.isnan(values), lambda rows: values[rows].mean(axis=-1))


def whole_metrics(statistics: Statistics) -> Metrics:
    """Yields each metric of all items that count, NaN if there are none.

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
    """Yields each metric for each group of items, with its 95% interval.

    The interval is that of the percentile bootstrap over the items of the group. Items
    are drawn one by one. The interval of items that belong together, such as captions
    of one image, is too narrow. A metric with a `bootstrap` is the mean of its samples,
    which determine the interval.

    Args:
        statistics: dict from name to `Statistic`, such as `mean_statistics` returns.
        groups: sequence of str, the group of each item.
        samples: int >= 1.
        seed: int >= 0.

    Yields:
        Pairs of str and float, groups in alphabetical order: `METRIC[GROUP]`, its
        `/low`, `/high` and `/items`, the number of items that count. A group without
        such items, or with too few for a `bootstrap`, is left out.

    Raises:
        InputError: if the numbers of items and groups differ, or for `samples` < 1.

    References:
        Jia et al. 2021, section 10 (analysis by groups before any use);
        Efron and Tibshirani, "An Introduction to the Bootstrap", chapter 13.

    Example:
    >>> statistics = mean_statistics({"top_1": [1, 1, 0, 1]})
    >>> metrics = dict(sliced_metrics(statistics, ["a", "a", "b", "b"]))
    >>> metrics["top_1[b]"], metrics["top_1[b]/low"], metrics["top_1[b]/high"]
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
            if statistic.bootstrap is not None:
                sample_values = statistic.bootstrap(items, samples, seed)
                if not len(sample_values):
                    continue
                value = float(sample_values.mean())
            elif statistic.function is not None:
                value = float(statistic.function(items[None])[0])
                sample_values = _bootstrapped(statistic.function, items, samples, seed)
            yield f"{name}[{group}]", value
            low, high = np.percentile(sample_values, _INTERVAL)
            yield f"{name}[{group}]/low", float(low)
            yield f"{name}[{group}]/high", float(high)
            yield f"{name}[{group}]/items", float(len(items))


def _bootstrapped(
    function: Callable, items: np.ndarray, samples: int, seed: int
) -> np.ndarray:
    """Returns the values (samples,) of a function of items drawn with replacement."""
    random = np.random.default_rng(seed)
    at_once = max(1, DRAWN_ITEMS_PER_BLOCK // len(items))
    values = []
    for start in range(0, samples, at_once):
        draws = min(at_once, samples - start)
        # The draws don't depend on the size of the parts.
        rows = random.integers(0, len(items), (draws, len(items)))
        values.append(function(items[rows]))
    return np.concatenate(values)
