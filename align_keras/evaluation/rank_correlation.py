"""Spearman's correlation with human ratings for SimLex-999 and Crisscrossed Captions.

CxC is short for Crisscrossed Captions.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from align_keras.evaluation.exact_scores import (
    UnitRows,
    check_range,
    pair_scores,
    row_norms,
)
from align_keras.evaluation.slices import Metrics, Statistic, Statistics
from align_keras.utils.arguments import check_number
from align_keras.utils.errors import InputError

_PARTS_OF_SPEECH = {"adjectives": "A", "nouns": "N", "verbs": "V"}
_QUARTILES = (1, 2, 3, 4)
# Kinds of the queries and the items of each CxC task.
_TASKS = {
    "sts": ("texts", "texts"),
    "sis": ("images", "images"),
    "sits": ("images", "texts"),
}
# Minimum number of queries for a bootstrap, whose samples have half of the queries.
_FEWEST_QUERIES = 4
# Number of pairs whose cosine is computed at once.
_CHUNK = 4096


def spearman(first: Any, second: Any) -> float:
    """Returns Spearman's correlation, which is Pearson's correlation of the ranks.

    Equal values have their average rank. The correlation isn't defined if one argument
    is constant, such as the scores of a model with equal embeddings. The result is then
    0.

    Args:
        first: real array (n,), n >= 2, finite.
        second: real array (n,).

    Returns:
        float in [-1, 1].

    Raises:
        InputError: if a value isn't finite.

    Example:
    >>> round(spearman([1, 2, 3, 4], [10, 20, 20, 15]), 4)
    0.3162
    """
    sides = [np.asarray(values, float) for values in (first, second)]
    if not np.isfinite(sides).all():
        raise InputError(
            "`first` and `second` must be finite. Received: NaN or infinity."
        )
    return rank_correlation(dense_codes(sides[0]), dense_codes(sides[1]))


def dense_codes(values: Any) -> np.ndarray:
    """Numbers the distinct values from 0 in ascending order, as an int array (n,)."""
    return np.unique(values, return_inverse=True)[1].reshape(-1)


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Computes Spearman's correlation from the codes that `dense_codes` returns.

    A bootstrap sorts the values only once and reuses the codes for each sample. This
    takes 0.4 times the time of `scipy.stats.spearmanr`.
    """
    first = _centered_ranks(first)
    second = _centered_ranks(second)
    spread = np.sqrt(np.dot(first, first) * np.dot(second, second))
    if spread == 0:
        return 0.0
    return float(np.clip(np.dot(first, second) / spread, -1.0, 1.0))


def _centered_ranks(codes: np.ndarray) -> np.ndarray:
    """Returns the average ranks of codes minus their mean."""
    counts = np.bincount(codes)
    # Equal codes have consecutive ranks, whose average is their middle. The mean of all
    # ranks is (len(codes) + 1) / 2.
    ranks = np.cumsum(counts) - (counts - 1) / 2
    return ranks[codes] - (len(codes) + 1) / 2


def simlex_metrics(cosines: np.ndarray, pairs: Sequence[Any]) -> Metrics:
    """Yields the correlation of cosines with rated similarity for groups of pairs.

    Args:
        cosines: float array (pairs,) from `word_cosines`.
        pairs: sequence of objects with `word1`, `word2`, `part_of_speech` (`"A"`, `"N"`
            or `"V"`), `similarity`, `concreteness_quartile` (1 to 4) and `is_hard`.

    Yields:
        Pairs of str and float: `GROUP/spearman` and the number of `GROUP/pairs` for the
        groups `all`, `adjectives`, `nouns`, `verbs`, `concreteness_1` to
        `concreteness_4`, and `hard`. A group with fewer than two pairs is omitted.

    References:
        Jia et al. 2021, table 12 (results). Hill et al. 2015, SimLex-999 (data).

    Example:
    >>> vectors = {"old": [1, 0], "aged": [1, 0.1], "new": [1, 1], "dog": [0, 1]}
    >>> from types import SimpleNamespace
    >>> pairs = [
    ...     SimpleNamespace(word1="old", word2=word, part_of_speech=part,
    ...         similarity=rating, concreteness_quartile=quartile, is_hard=is_hard)
    ...     for word, part, rating, quartile, is_hard in [
    ...         ("aged", "A", 9.0, 2, False),
    ...         ("new", "A", 1.6, 2, True),
    ...         ("dog", "N", 0.5, 4, False),
    ...     ]
    ... ]
    >>> cosines = word_cosines(lambda words: [vectors[word] for word in words], pairs)
    >>> dict(simlex_metrics(cosines, pairs))["all/spearman"]
    1.0
    """
    similarity = np.array([pair.similarity for pair in pairs], float)
    for name, mask in _groups(pairs).items():
        if np.count_nonzero(mask) > 1:
            yield f"{name}/spearman", spearman(cosines[mask], similarity[mask])
            yield f"{name}/pairs", float(np.count_nonzero(mask))


def word_cosines(encode_words: Callable, pairs: Sequence[Any]) -> np.ndarray:
    """Computes the cosine similarity of the two words of each pair.

    Args:
        encode_words: function from a list of str to a real array (words, dimension).
        pairs: sequence of objects with `word1` and `word2`.

    Returns:
        float64 array (pairs,).

    Example:

    >>> from types import SimpleNamespace
    >>> vectors = {"old": [1, 0], "dog": [0, 1], "aged": [3, 4]}
    >>> pairs = [SimpleNamespace(word1="old", word2=word) for word in ("aged", "dog")]
    >>> word_cosines(lambda words: [vectors[word] for word in words], pairs).tolist()
    [0.6, 0.0]
    """
    pair_words = [(pair.word1, pair.word2) for pair in pairs]
    words = list(dict.fromkeys(word for two_words in pair_words for word in two_words))
    vectors = UnitRows("encode_words", encode_words(words))[:]
    rows = {word: row for row, word in enumerate(words)}
    first = vectors[[rows[word] for word, _ in pair_words]]
    second = vectors[[rows[word] for _, word in pair_words]]
    return np.sum(first * second, axis=1)


def simlex_statistics(cosines: np.ndarray, pairs: Sequence[Any]) -> Statistics:
    """Returns `all/spearman` of `simlex_metrics` as a dict of `Statistic`.

    The correlation of fewer than two pairs is NaN.

    Example:

    >>> from types import SimpleNamespace
    >>> pairs = [SimpleNamespace(similarity=rating) for rating in (9.0, 1.6, 0.5)]
    >>> statistics = simlex_statistics(np.array([0.9, 0.7, 0.1]), pairs)
    >>> statistics["all/spearman"].function(np.array([[0, 1, 2]])).tolist()
    [1.0]
    """
    cosine_codes = dense_codes(cosines)
    rating_codes = dense_codes([pair.similarity for pair in pairs])

    def correlations(drawn: np.ndarray) -> np.ndarray:
        if drawn.shape[1] < 2:
            return np.full(len(drawn), np.nan)
        return np.array(
            [
                rank_correlation(cosine_codes[sample], rating_codes[sample])
                for sample in drawn
            ]
        )

    return {"all/spearman": Statistic(np.ones(len(cosines), bool), correlations)}


def _groups(pairs: Sequence[Any]) -> dict[str, np.ndarray]:
    """Returns a bool array (pairs,) for each group of pairs."""
    part_of_speech = np.array([pair.part_of_speech for pair in pairs])
    quartile = np.array([pair.concreteness_quartile for pair in pairs])
    groups = {"all": np.ones(len(pairs), bool)}
    for name, letter in _PARTS_OF_SPEECH.items():
        groups[name] = part_of_speech == letter
    for number in _QUARTILES:
        groups[f"concreteness_{number}"] = quartile == number
    groups["hard"] = np.array([pair.is_hard for pair in pairs], bool)
    return groups


def cxc_similarity_metrics(
    images: Any,
    texts: Any,
    rated: Mapping[str, tuple],
    samples: int = 1000,
    seed: int = 0,
) -> Metrics:
    """Yields the correlations of cosines with the human ratings of CxC.

    Each sample of a bootstrap draws half of the queries, and one rated item for each of
    them. The metric is the mean of Spearman's correlation over the samples.

    Args:
        images: real array (images, dimension), unit length.
        texts: real array (captions, dimension), unit length.
        rated: dict from `"sts"` (captions), `"sis"` (images) and `"sits"` (images and
            captions) to arrays of query rows, item rows and ratings, as returned by
            `align_keras.datasets.benchmarks.cxc_rated_rows`.
        samples: int >= 1, number of samples.
        seed: seed of the samples.

    Yields:
        Pairs of str and float: `TASK/spearman`, its standard deviation over the
        samples `TASK/spearman_std` and the number of `TASK/queries` for the tasks
        `sts`, `sis` and `sits`, and `mean/spearman`, the mean of the three tasks.

    Raises:
        InputError: if an embedding is not finite, or if a task has fewer than four
            queries or rows that are out of range.

    References:
        Jia et al. 2021, section 5.1 and table 3. Parekh et al. 2021, section 5.

    Example:

    >>> angles = np.linspace(0.0, 1.5, 8)
    >>> units = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    >>> rows = np.arange(8)
    >>> rated = {task: (rows, rows[::-1], -abs(rows - 3.5)) for task in
    ...     ("sts", "sis", "sits")}
    >>> metrics = dict(cxc_similarity_metrics(units, units, rated, samples=5))
    >>> metrics["sts/queries"], round(metrics["mean/spearman"], 3)
    (8.0, 1.0)
    """
    check_number("`samples`", samples, 1, 2**31, whole=True)
    means = []
    for task in _scored(images, texts, rated):
        correlations = bootstrapped_spearman(
            task.queries, task.cosines, task.ratings, samples, seed
        )
        means.append(correlations.mean())
        yield f"{task.name}/spearman", float(correlations.mean())
        yield f"{task.name}/spearman_std", float(correlations.std())
        yield f"{task.name}/queries", float(len(np.unique(task.queries)))
    yield "mean/spearman", float(np.mean(means))


@dataclasses.dataclass(frozen=True)
class _ScoredTask:
    """Rated pairs of a CxC task with their cosines.

    Attributes:
        name: `"sts"`, `"sis"` or `"sits"`.
        queries: int array (pairs,), row of the query.
        cosines: float array (pairs,).
        ratings: float array (pairs,).
    """

    name: str
    queries: np.ndarray
    cosines: np.ndarray
    ratings: np.ndarray


def _scored(
    images: Any, texts: Any, rated: Mapping[str, tuple]
) -> Iterator[_ScoredTask]:
    """Yields the CxC tasks with the cosines of their rated pairs."""
    embeddings = {"images": np.asarray(images), "texts": np.asarray(texts)}
    for name, rows in embeddings.items():
        # The codes of NaN would have ranks like numbers.
        row_norms(name, rows)
    for name, (query_kind, item_kind) in _TASKS.items():
        queries, items, ratings = map(np.asarray, rated[name])
        query_embeddings = embeddings[query_kind]
        item_embeddings = embeddings[item_kind]
        for rows, gallery in ((queries, query_embeddings), (items, item_embeddings)):
            check_range(f"rated[{name!r}]", rows, len(gallery), "the embeddings")
        query_count = len(np.unique(queries))
        if query_count < _FEWEST_QUERIES:
            raise InputError(
                f"`rated[{name!r}]` must have at least {_FEWEST_QUERIES} queries, "
                f"because half of them are drawn. Received: {query_count}."
            )
        cosines = pair_scores(
            query_embeddings, item_embeddings.__getitem__, queries, items, _CHUNK
        )
        yield _ScoredTask(name, queries, cosines, ratings)


def cxc_similarity_statistics(
    images: Any, texts: Any, rated: Mapping[str, tuple]
) -> Statistics:
    """Returns the correlations of `cxc_similarity_metrics` for `sliced_metrics`.

    The items are the images followed by the captions. A group of items contains the
    rated pairs whose query is in the group. The bootstrap of the protocol runs over
    these pairs, and its samples have half of the queries of the group.
    `mean/spearman` averages the three tasks in each sample. A group with fewer than
    four queries has no metric.

    Args:
        images: real array (images, dimension), unit length.
        texts: real array (captions, dimension), unit length.
        rated: as for `cxc_similarity_metrics`.

    Returns:
        dict from metric name to `Statistic`.

    Example:

    >>> angles = np.linspace(0.0, 1.5, 8)
    >>> units = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    >>> rows = np.arange(8)
    >>> rated = {task: (rows, rows[::-1], -abs(rows - 3.5)) for task in
    ...     ("sts", "sis", "sits")}
    >>> sorted(cxc_similarity_statistics(units, units, rated))
    ['mean/spearman', 'sis/spearman', 'sits/spearman', 'sts/spearman']
    """
    statistics: Statistics = {}
    bootstraps: list[Callable] = []
    count = len(images) + len(texts)
    for task in _scored(images, texts, rated):
        queries = task.queries
        if _TASKS[task.name][0] == "texts":
            queries = queries + len(images)
        bootstrap = _bootstrap_of_items(queries, task.cosines, task.ratings)
        counts = np.zeros(count, bool)
        counts[queries] = True
        statistics[f"{task.name}/spearman"] = Statistic(counts, None, bootstrap)
        bootstraps.append(bootstrap)

    def mean(items: np.ndarray, samples: int, seed: int) -> np.ndarray:
        values = [bootstrap(items, samples, seed) for bootstrap in bootstraps]
        return np.mean(values, axis=0) if all(map(len, values)) else np.empty(0)

    counts = np.any([part.counts for part in statistics.values()], axis=0)
    return statistics | {"mean/spearman": Statistic(counts, None, mean)}


def _bootstrap_of_items(
    queries: np.ndarray, cosines: np.ndarray, ratings: np.ndarray
) -> Callable[[np.ndarray, int, int], np.ndarray]:
    """Returns a bootstrap that draws from the pairs whose query is in `items`."""

    def bootstrap(items: np.ndarray, samples: int, seed: int) -> np.ndarray:
        is_included = np.isin(queries, items)
        item_queries = queries[is_included]
        if len(np.unique(item_queries)) < _FEWEST_QUERIES:
            return np.empty(0)
        return bootstrapped_spearman(
            item_queries, cosines[is_included], ratings[is_included], samples, seed
        )

    return bootstrap


def bootstrapped_spearman(
    queries: np.ndarray,
    scores: np.ndarray,
    ratings: np.ndarray,
    samples: int = 1000,
    seed: int = 0,
) -> np.ndarray:
    """Computes Spearman's correlation for random samples of half of the queries.

    A sample contains one pair for each of its queries.

    Args:
        queries: int array (pairs,), query of each rated pair.
        scores: real array (pairs,), scores of the model.
        ratings: real array (pairs,), human ratings.
        samples: number of samples.
        seed: seed of the samples.

    Returns:
        float64 array (samples,).
    """
    order = np.argsort(queries, kind="stable")
    _, starts, counts = np.unique(queries[order], return_index=True, return_counts=True)
    scores = dense_codes(scores[order])
    ratings = dense_codes(ratings[order])
    random = np.random.default_rng(seed)
    correlations = np.empty(samples)
    for sample in range(samples):
        drawn = random.choice(len(starts), len(starts) // 2, replace=False)
        pairs = starts[drawn] + random.integers(counts[drawn])
        correlations[sample] = rank_correlation(scores[pairs], ratings[pairs])
    return correlations
