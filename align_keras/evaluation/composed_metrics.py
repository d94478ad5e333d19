"""Retrieval with composed queries, which are an image plus or minus words."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from align_keras.evaluation.exact_scores import UnitRows
from align_keras.evaluation.recall_at_k import (
    PAPER_KS,
    as_positive_lists,
    chance_recall_at_k,
    rank_of_best_positive,
)
from align_keras.evaluation.slices import Metrics, Statistics, recall_statistics

Ranks = Mapping[str, np.ndarray]
_SIGNS = {"": (1, -1), "plus/": (1,), "minus/": (-1,)}


def rank_composed_queries(
    encode_texts: Callable,
    image_embeddings: np.ndarray,
    queries: Iterable[Any],
    image_weight: float = 1.0,
    text_weight: float = 2.0,
) -> dict[str, np.ndarray]:
    """Ranks the images for each composed query, for its image and for its words.

    A query that adds words has the vector image_weight · image + text_weight · words,
    with embeddings of unit length. A query that subtracts words has the embedding of
    the image without the part that points toward the words, as in `encode_query`. The
    gallery consists of all images except the image of the query.
    Wrong images rank before targets with the same score.

    Args:
        encode_texts: function from a list of str to a real array (n, dimension).
        image_embeddings: real array (images, dimension), finite.
        queries: sequence of objects with `image` (int, row of the image), `words`
            (str), `sign` (1 or -1) and `targets` (rows of the correct images, without
            `image`).
        image_weight: weight of the image embedding.
        text_weight: weight of the text embedding.

    Returns:
        dict of int64 arrays (queries,) with the rank of the best target. The key `""`
        is for the composed queries, `"paper/"` for the formula of the paper, which is
        image_weight · image − text_weight · words for queries that subtract words, and
        `"image_alone/"` and `"text_alone/"` are for their parts.

    Raises:
        InputError: if a row is out of range, or if the embeddings are not finite.

    References:
        Jia et al. 2021, section 7 and figure 5.

    Example:
    >>> from types import SimpleNamespace
    >>> query = SimpleNamespace(image=0, words="plus", sign=1, targets=[2])
    >>> images = np.array([[1.0, 0.0], [0.9, -0.4], [0.6, 0.8]])
    >>> ranks = rank_composed_queries(lambda _: np.eye(2)[1:], images, [query])
    >>> {name: rank.tolist() for name, rank in ranks.items()}
    {'': [0], 'paper/': [0], 'image_alone/': [1], 'text_alone/': [0]}
    """
    queries = list(queries)
    words = sorted({query.words for query in queries})
    word_rows = np.searchsorted(words, [query.words for query in queries])
    texts = UnitRows("encode_texts", encode_texts(words))[word_rows]
    gallery = UnitRows("image_embeddings", image_embeddings)
    rows = np.array([query.image for query in queries])
    as_positive_lists(rows, len(queries), len(gallery))
    targets = [query.targets for query in queries]
    images = image_weight * gallery[rows]
    signs = np.array([[query.sign] for query in queries])
    cosines = (images * texts).sum(axis=1, keepdims=True)
    without_words = images - np.maximum(cosines, 0) * texts
    texts = text_weight * signs * texts
    return {
        name: rank_of_best_positive(vectors, gallery, targets, leave_out=rows)
        for name, vectors in (
            ("", np.where(signs > 0, images + texts, without_words)),
            ("paper/", images + texts),
            ("image_alone/", images),
            ("text_alone/", texts),
        )
    }


def composed_statistics(ranks: Ranks) -> Statistics:
    """Returns the recalls of `composed_metrics` as a dict of `Statistic`.

    Example:

    >>> sorted(composed_statistics({"": np.array([0, 3])}))
    ['recall_at_1', 'recall_at_10', 'recall_at_5']
    """
    statistics: Statistics = {}
    for name, query_ranks in ranks.items():
        statistics |= recall_statistics(name, query_ranks, PAPER_KS)
    return statistics


def composed_metrics(ranks: Ranks, queries: Sequence[Any], image_count: int) -> Metrics:
    """Yields Recall@k of composed queries and its baselines.

    Args:
        ranks: dict of int arrays (queries,) from `rank_composed_queries`.
        queries: sequence of the queries.
        image_count: number of images.

    Yields:
        Pairs of str and float: `recall_at_K`, and with the prefixes `paper/`,
        `image_alone/` and `text_alone/` those of the formula of the paper and of the
        parts, `chance_recall_at_K`, the number of `queries`, and
        `candidates`, the number of images that each query ranks. The metrics have no
        prefix for all queries, `plus/` for queries that add words, and `minus/` for
        queries that subtract words.

    Example:

    >>> from types import SimpleNamespace
    >>> queries = [
    ...     SimpleNamespace(sign=1, targets=[2]), SimpleNamespace(sign=-1, targets=[1])
    ... ]
    >>> metrics = dict(composed_metrics({"": np.array([0, 3])}, queries, 5))
    >>> metrics["recall_at_1"], metrics["plus/recall_at_1"]
    (0.5, 1.0)
    """
    signs = np.array([query.sign for query in queries])
    for kind, kind_signs in _SIGNS.items():
        rows = np.flatnonzero(np.isin(signs, kind_signs))
        if not len(rows):
            continue
        # The gallery doesn't contain the image of the query. Only the number of targets
        # matters for the recall by chance.
        targets = [range(len(queries[int(row)].targets)) for row in rows]
        chance = chance_recall_at_k(targets, image_count - 1, PAPER_KS)
        for k in PAPER_KS:
            for name, query_ranks in ranks.items():
                recall = float(np.mean(query_ranks[rows] < k))
                yield f"{kind}{name}recall_at_{k}", recall
            yield f"{kind}chance_recall_at_{k}", chance[k]
        yield f"{kind}queries", float(len(rows))
        yield f"{kind}candidates", float(image_count - 1)
