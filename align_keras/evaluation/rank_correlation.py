"""Spearman's correlation with people's ratings, of words and of CxC's pairs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from align_keras.evaluation.exact_scores import UnitRows, check_range, pair_scores
from align_keras.evaluation.slices import Metrics, Statistic, Statistics
from align_keras.utils.arguments import check_number
from align_keras.utils.errors import InputError

_PARTS_OF_SPEECH = {"adjectives": "A", "nouns": "N", "verbs": "V"}
_QUARTILES = (1, 2, 3, 4)
# What the two sides of a rated pair are: the query and the item.
_TASKS = {"sts": ("texts", "texts"), "sis": ("images", "images")}
_TASKS["sits"] = ("images", "texts")
# Queries of which half are drawn.
_FEWEST_QUERIES = 4
# Pairs whose cosine is computed at a time.
_CHUNK = 4096


def spearman(first: Any, second: Any) -> float:
    """Pearson's correlation of the ranks, equal values at their average rank.

    Where one side is constant it ranks nothing, and the correlation, which isn't
    defined, counts as 0: so does a model that has collapsed to one point.

    Args:
        first: real array (n,), n >= 2, finite.
        second: real array (n,).

    Returns:
        float in [-1, 1].

    Raises:
        InputError: for other shapes, fewer than two values, and what isn't finite.

    Example:
    >>> round(spearman([1, 2, 3, 4], [10, 20, 20, 15]), 4)
    0.3162
    """
    sides = [np.asarray(values, float) for values in (first, second)]
    if sides[0].shape != sides[1].shape or sides[0].ndim != 1 or len(sides[0]) < 2:
        raise InputError(
            "`first` and `second` must be two lists of one length, at least 2, "
            f"received shapes {sides[0].shape} and {sides[1].shape}; give one value a "
            "pair."
        )
    if not np.isfinite(sides).all():
        raise InputError(
            "`first` and `second` must be finite, received NaN or infinity; look for a "
            "diverged model."
        )
    return rank_correlation(*map(dense_codes, sides))


def dense_codes(values: Any) -> np.ndarray:
    """Numbers the distinct values in their order, from 0: int array (n,)."""
    return np.unique(values, return_inverse=True)[1].reshape(-1)


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """As `spearman`, of codes that `dense_codes` gave. These serve for every sample of
    pairs: a bootstrap sorts once, in 0.4 times the time of `scipy.stats.spearmanr`.
    """
    first, second = _centered_ranks(first), _centered_ranks(second)
    spread = np.sqrt(np.dot(first, first) * np.dot(second, second))
    if spread == 0:
        return 0.0
    return float(np.clip(np.dot(first, second) / spread, -1.0, 1.0))


def _centered_ranks(codes):
    counts = np.bincount(codes)
    # A code's average rank lies in the middle of its run, and the ranks' mean in
    # the middle of all.
    ranks = np.cumsum(counts) - (counts - 1) / 2
    return ranks[codes] - (len(codes) + 1) / 2


def simlex_metrics(cosines: np.ndarray, rows: Sequence[tuple]) -> Metrics:
    """Yields the correlation of cosines with rated similarity, by groups of pairs.

    Args:
        cosines: float array (rows,), as `word_cosines` gives.
        rows: sequence of (word1, word2, part of speech `"A"`, `"N"` or `"V"`,
            similarity, concreteness quartile 1 to 4, whether it is hard).

    Yields:
        Pairs of str and float: `GROUP/spearman` and `GROUP/pairs` for the groups all,
        adjectives, nouns, verbs, concreteness_1 to _4, and hard. A group of fewer
        than two pairs is left out.

    References:
        Jia et al. 2021, table 12; Hill et al. 2015, SimLex-999.

    Example:
    >>> vectors = {"old": [1, 0], "aged": [1, 0.1], "new": [1, 1], "dog": [0, 1]}
    >>> rows = [("old", "aged", "A", 9.0, 2, False), ("old", "new", "A", 1.6, 2, True),
    ...         ("old", "dog", "N", 0.5, 4, False)]
    >>> cosines = word_cosines(lambda words: [vectors[word] for word in words], rows)
    >>> dict(simlex_metrics(cosines, rows))["all/spearman"]
    1.0
    """
    similarity = np.array([row[3] for row in rows], float)
    for name, chosen in _groups(rows).items():
        if np.count_nonzero(chosen) > 1:
            yield f"{name}/spearman", spearman(cosines[chosen], similarity[chosen])
            yield f"{name}/pairs", float(np.count_nonzero(chosen))


def word_cosines(encode_words: Callable, rows: Sequence[tuple]) -> np.ndarray:
    """Cosines of the two words' vectors, float64 (rows,).

    Args:
        encode_words: function from a list of str to a real array (words, dimension).
        rows: sequence of tuples that begin with two words.

    Raises:
        InputError: for no rows, and unless `encode_words` gives one vector a word.
    """
    if not len(rows):
        raise InputError(
            "`rows` must hold at least one pair of words, received none; check the "
            "file that they come from."
        )
    words = list(dict.fromkeys(word for row in rows for word in row[:2]))
    vectors = np.asarray(encode_words(words), float)
    if vectors.ndim != 2 or len(vectors) != len(words) or not vectors.size:
        raise InputError(
            f"`encode_words` must return one vector a word, received {vectors.shape} "
            f"for {len(words)} words; return a matrix (words, dimension)."
        )
    vectors = UnitRows("encode_words", vectors)[:]
    place = {word: row for row, word in enumerate(words)}
    pairs = np.array([[place[word] for word in row[:2]] for row in rows])
    return np.sum(vectors[pairs[:, 0]] * vectors[pairs[:, 1]], axis=1)


def simlex_statistics(cosines: np.ndarray, rows: Sequence[tuple]) -> Statistics:
    """`all/spearman` of `simlex_metrics`: dict, name → `Statistic` of the pairs."""
    sides = dense_codes(cosines), dense_codes([row[3] for row in rows])

    def correlations(drawn):
        return np.array(
            [rank_correlation(*(side[pairs] for side in sides)) for pairs in drawn]
        )

    return {"all/spearman": Statistic(np.ones(len(cosines), bool), correlations)}


def _groups(rows):
    """Masks of the rows by the name of their group."""
    speech, quartile, hard = (
        np.array([row[field] for row in rows]) for field in (2, 4, 5)
    )
    return {
        "all": np.ones(len(rows), bool),
        **{name: speech == letter for name, letter in _PARTS_OF_SPEECH.items()},
        **{f"concreteness_{number}": quartile == number for number in _QUARTILES},
        "hard": hard.astype(bool),
    }


def cxc_similarity_metrics(
    images: Any,
    texts: Any,
    rated: Mapping[str, tuple],
    samples: int = 1000,
    seed: int = 0,
) -> Metrics:
    """Correlates cosines with people's ratings, bootstrapped.

    Each sample draws half of the queries, and for each of them one of its rated
    items; the metric is the mean of Spearman's correlation over the samples.

    Args:
        images: real array (images, dimension), unit length.
        texts: real array (captions, dimension), unit length.
        rated: dict from `"sts"` (captions), `"sis"` (images) and `"sits"` (images and
            captions) to arrays of query rows, item rows and ratings, as
            `align_keras.datasets.benchmarks.cxc_rated_rows` makes.
        samples: int >= 1.
        seed: int, of the draws.

    Yields:
        Pairs of str and float: of `sts`, `sis` and `sits` `/spearman`, over the samples
        `/spearman_std`, and `/queries`; and `mean/spearman`, the mean of the three.

    Raises:
        InputError: for fewer than four queries, and rows and lists that don't fit.

    References:
        Jia et al. 2021, section 5.1 and table 3; Parekh et al. 2021, section 5.
    """
    check_number("`samples`", samples, 1, 2**31, whole=True)
    means = []
    for name, (queries, cosines, ratings) in _scored(images, texts, rated):
        found = bootstrapped_spearman(queries, cosines, ratings, samples, seed)
        means.append(found.mean())
        yield f"{name}/spearman", float(found.mean())
        yield f"{name}/spearman_std", float(found.std())
        yield f"{name}/queries", float(len(np.unique(queries)))
    yield "mean/spearman", float(np.mean(means))


def _scored(images, texts, rated):
    """Yields each task's name and (query rows, cosines, ratings)."""
    embeddings = {"images": np.asarray(images), "texts": np.asarray(texts)}
    for name, (query_kind, item_kind) in _TASKS.items():
        queries, items, ratings = map(np.asarray, rated[name])
        sides = embeddings[query_kind], embeddings[item_kind]
        _check_rated(name, queries, items, ratings, *sides)
        cosines = pair_scores(sides[0], sides[1].__getitem__, queries, items, _CHUNK)
        yield name, (queries, cosines, ratings)


def cxc_similarity_statistics(
    images: Any, texts: Any, rated: Mapping[str, tuple]
) -> Statistics:
    """The correlations among any choice of queries, as `sliced_metrics` takes them.

    The items are the images and then the captions. Those of a group keep the rated
    pairs whose query they are, and the protocol's bootstrap runs over these: the metric
    is the mean of its samples, of half of the group's queries each. `mean/spearman` is
    the mean of the three, sample by sample. Fewer than four queries define none.
    """
    statistics, count = {}, len(images) + len(texts)
    for name, (queries, *scored) in _scored(images, texts, rated):
        if _TASKS[name][0] == "texts":
            queries = queries + len(images)
        statistics[f"{name}/spearman"] = _own_bootstrap(count, queries, *scored)
    parts = list(statistics.values())

    def mean(items, samples, seed):
        values = [part.bootstrap(items, samples, seed) for part in parts]
        return np.mean(values, axis=0) if all(map(len, values)) else np.empty(0)

    counts = np.any([part.counts for part in parts], axis=0)
    return statistics | {"mean/spearman": Statistic(counts, None, mean)}


def _own_bootstrap(count, queries, cosines, ratings):
    counts = np.zeros(count, bool)
    counts[queries] = True

    def bootstrap(items, samples, seed):
        chosen = np.isin(queries, items)
        of_items = queries[chosen]
        if len(np.unique(of_items)) < _FEWEST_QUERIES:
            return np.empty(0)
        return bootstrapped_spearman(
            of_items, cosines[chosen], ratings[chosen], samples, seed
        )

    return Statistic(counts, None, bootstrap)


def _check_rated(name, queries, items, ratings, *embeddings):
    if not queries.shape == items.shape == ratings.shape:
        raise InputError(
            f"`rated[{name!r}]` must hold three lists of one length, received shapes "
            f"{queries.shape}, {items.shape} and {ratings.shape}; give each pair a "
            "rating."
        )
    sides = {"queries": queries, "items": items}
    for (side, rows), gallery in zip(sides.items(), embeddings, strict=True):
        check_range(f"{side} of rated[{name!r}]", rows, len(gallery), "the embeddings")
    if len(np.unique(queries)) < _FEWEST_QUERIES:
        raise InputError(
            f"`rated[{name!r}]` must have at least {_FEWEST_QUERIES} queries, of which "
            f"half are drawn, received {len(np.unique(queries))}; give more rated "
            "pairs."
        )


def bootstrapped_spearman(
    queries: np.ndarray,
    scores: np.ndarray,
    ratings: np.ndarray,
    samples: int = 1000,
    seed: int = 0,
) -> np.ndarray:
    """Spearman's correlation over samples of half of the queries, one item each, of
    each pair's query, the model's score and people's rating: float64 (samples,).
    """
    order = np.argsort(queries, kind="stable")
    _, starts, counts = np.unique(queries[order], return_index=True, return_counts=True)
    scores, ratings = dense_codes(scores[order]), dense_codes(ratings[order])
    random = np.random.default_rng(seed)
    found = np.empty(samples)
    for sample in range(samples):
        drawn = random.choice(len(starts), len(starts) // 2, replace=False)
        pairs = starts[drawn] + random.integers(counts[drawn])
        found[sample] = rank_correlation(scores[pairs], ratings[pairs])
    return found
