"""Crisscrossed Captions: do cosines rank pairs as people's ratings do?"""

import numpy as np

from align_keras.evaluation.positives import flatten_captions
from align_keras.evaluation.slices import Statistic
from align_keras.evaluation.spearman import dense_codes, rank_correlation
from align_keras.utils.errors import InputError

# What the two sides of a rated pair are: the query and the item.
_TASKS = {"sts": ("texts", "texts"), "sis": ("images", "images")}
_TASKS["sits"] = ("images", "texts")

# Queries of which half are drawn.
_FEWEST_QUERIES = 4
# Pairs whose cosine is computed at a time.
_CHUNK = 4096


def evaluate_cxc_similarity(
    encode_images, encode_texts, images, captions, rated, samples=1000, seed=0
):
    """Correlates cosines with people's ratings, bootstrapped.

    Each sample draws half of the queries, and for each of them one of its rated
    items; the metric is the mean of Spearman's correlation over the samples.

    Args:
        encode_images: function from `images` to a real array (pictures,
            dimension), unit length.
        encode_texts: function from a list of str to a real array (captions,
            dimension), unit length.
        images: sequence of whatever `encode_images` takes.
        captions: for each picture its captions, a sequence of str or one str; they
            are numbered in this order.
        rated: dict from `"sts"` (captions), `"sis"` (pictures) and `"sits"`
            (pictures and captions) to (query rows, item rows, ratings): int,
            int and float arrays, one entry a rated pair, such as
            `align_keras.datasets.benchmarks.cxc_rated_rows` makes.
        samples: int >= 1.
        seed: int, of the draws.

    Yields:
        Pairs of str and float: `sts/spearman`, `sts/spearman_std` (the standard
        deviation over the samples) and `sts/queries`, the same of `sis` and
        `sits`, and `mean/spearman`, the mean of the three.

    Raises:
        InputError: for fewer than four queries, rows outside the embeddings, and
            lists of different lengths.

    References:
        Jia et al. 2021, section 5.1 and table 3; Parekh et al. 2021, section 5.

    Example:
    >>> def encode(items):
    ...     turns = np.array([int(item[1:]) for item in items])
    ...     return np.stack([np.cos(turns), np.sin(turns)], axis=1)
    >>> pictures, captions = ([f"{kind}{row}" for row in range(8)] for kind in "pc")
    >>> pairs = (np.arange(6), np.arange(6) + 1, np.arange(6.0))
    >>> rated = {"sts": pairs, "sis": pairs, "sits": pairs}
    >>> found = evaluate_cxc_similarity(
    ...     encode, encode, pictures, captions, rated, samples=10)
    >>> [name for name, _ in found if name.endswith("spearman")]
    ['sts/spearman', 'sis/spearman', 'sits/spearman', 'mean/spearman']
    """
    texts, _ = flatten_captions(captions)
    yield from cxc_similarity_metrics(
        encode_images(images), encode_texts(texts), rated, samples, seed
    )


def cxc_similarity_metrics(images, texts, rated, samples=1000, seed=0):
    """As `evaluate_cxc_similarity`, of embeddings.

    Args:
        images: real array (pictures, dimension), unit length.
        texts: real array (captions, dimension), unit length.
        rated: as `evaluate_cxc_similarity`.
        samples: as `evaluate_cxc_similarity`.
        seed: as `evaluate_cxc_similarity`.

    Yields:
        As `evaluate_cxc_similarity`.

    Raises:
        InputError: as `evaluate_cxc_similarity`.
    """
    if not isinstance(samples, (int, np.integer)) or samples < 1:
        raise InputError(f"`samples` must be an integer >= 1, got {samples!r}.")
    means = []
    for name, scored in _scored(images, texts, rated):
        found = bootstrapped_spearman(*scored, samples, seed)
        means.append(found.mean())
        yield f"{name}/spearman", float(found.mean())
        yield f"{name}/spearman_std", float(found.std())
        yield f"{name}/queries", float(len(np.unique(scored[0])))
    yield "mean/spearman", float(np.mean(means))


def _scored(images, texts, rated):
    """Yields each task's name and (query rows, cosines, ratings)."""
    embeddings = {"images": np.asarray(images), "texts": np.asarray(texts)}
    for name, (query_kind, item_kind) in _TASKS.items():
        queries, items, ratings = map(np.asarray, rated[name])
        rows = {"queries": queries, "items": items}
        _check_rated(name, rows, ratings, embeddings[query_kind], embeddings[item_kind])
        cosines = _pair_cosines(
            embeddings[query_kind], queries, embeddings[item_kind], items
        )
        yield name, (queries, cosines, ratings)


def cxc_similarity_statistics(images, texts, rated):
    """The correlations among any choice of queries, as `sliced_metrics` takes them.

    The items are the pictures and then the captions. Those of a group keep the rated
    pairs whose query they are, whatever group the other side belongs to, and the
    protocol's own bootstrap runs over these: the metric is the mean of its samples,
    of half of the group's queries each, and the interval lies between their
    percentiles. It tells how one such sample varies, as the paper's deviation does.
    `mean/spearman` is the mean of the three tasks, sample by sample.

    Args:
        images: as `cxc_similarity_metrics`.
        texts: as `cxc_similarity_metrics`.
        rated: as `evaluate_cxc_similarity`.

    Returns:
        dict, `sts/spearman`, `sis/spearman`, `sits/spearman` and `mean/spearman` →
        `Statistic` over the pictures and captions. It isn't defined for fewer than
        four queries, of the mean in any task.

    Raises:
        InputError: as `evaluate_cxc_similarity`.

    References:
        Jia et al. 2021, sections 5.1 and 10; Parekh et al. 2021, section 5.

    Example:
    >>> turned = np.array([[np.cos(turn), np.sin(turn)] for turn in range(8)])
    >>> pairs = (np.zeros(6, int) + range(6), np.arange(6) + 1, np.arange(6.0))
    >>> found = cxc_similarity_statistics(
    ...     turned, turned, {"sts": pairs, "sis": pairs, "sits": pairs})
    >>> len(found["sis/spearman"].bootstrap(np.arange(5), samples=7, seed=0))
    7
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
        own = queries[chosen]
        if len(np.unique(own)) < _FEWEST_QUERIES:
            return np.empty(0)
        return bootstrapped_spearman(
            own, cosines[chosen], ratings[chosen], samples, seed
        )

    return Statistic(counts, None, bootstrap)


def _check_rated(name, rows, ratings, *embeddings):
    if not rows["queries"].shape == rows["items"].shape == ratings.shape:
        raise InputError(
            f"`rated[{name!r}]` must hold three lists of one length, got shapes "
            f"{rows['queries'].shape}, {rows['items'].shape} and {ratings.shape}."
        )
    for (side, own), gallery in zip(rows.items(), embeddings, strict=True):
        if own.size and not 0 <= own.min() <= own.max() < len(gallery):
            raise InputError(
                f"the {side} of `rated[{name!r}]` must lie in [0, {len(gallery)}), the "
                f"rows of the embeddings, got {own.min()} to {own.max()}."
            )
    if len(np.unique(rows["queries"])) < _FEWEST_QUERIES:
        raise InputError(
            f"`rated[{name!r}]` must have at least {_FEWEST_QUERIES} queries, of which "
            f"half are drawn, got {len(np.unique(rows['queries']))}; give more rated "
            "pairs."
        )


def _pair_cosines(queries, query_rows, items, item_rows):
    cosines = np.empty(len(query_rows))
    for start in range(0, len(cosines), _CHUNK):
        part = slice(start, start + _CHUNK)
        cosines[part] = np.einsum(
            "ij,ij->i",
            np.asarray(queries[query_rows[part]], float),
            np.asarray(items[item_rows[part]], float),
        )
    return cosines


def bootstrapped_spearman(queries, scores, ratings, samples=1000, seed=0):
    """Spearman's correlation over samples of half of the queries, one item each.

    Args:
        queries: int array (pairs,), which query a rated pair belongs to.
        scores: real array (pairs,), the model's.
        ratings: real array (pairs,), people's.
        samples: int >= 1.
        seed: int.

    Returns:
        float64 array (samples,).

    Example:
    >>> queries = np.repeat(np.arange(10), 2)
    >>> bootstrapped_spearman(queries, queries, queries, samples=3).tolist()
    [1.0, 1.0, 1.0]
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
