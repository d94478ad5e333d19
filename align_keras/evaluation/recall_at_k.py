"""Recall@k from exact scores, which are computed in blocks, and its value by chance."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from align_keras.evaluation.exact_scores import (
    CountAtLeast,
    as_matrix,
    as_rows,
    check_range,
    fixed_point,
    pair_scores,
    row_norms,
)
from align_keras.utils.arguments import check_number
from align_keras.utils.errors import InputError

# Values of k in the paper.
PAPER_KS = (1, 5, 10)


def as_positive_lists(
    positives: Any, query_rows: int, gallery_rows: int
) -> list[np.ndarray]:
    """Converts positives to an int64 array of gallery rows for each query.

    Duplicate rows aren't removed.

    Raises:
        InputError: if the number of queries differs, or if a row isn't an integer in
            [0, gallery_rows).
    """
    if len(positives) != query_rows:
        raise InputError(
            "`positives` must contain one list of gallery rows per query. Received: "
            f"{len(positives)} lists for {query_rows} queries. Pass an empty list for "
            "a query without positives."
        )
    lists = []
    for query, rows in enumerate(positives):
        rows = np.atleast_1d(np.asarray(rows))
        if rows.size == 0:
            rows = np.empty(0, np.int64)
        if rows.dtype.kind not in "iu" or rows.ndim != 1:
            raise InputError(
                f"`positives[{query}]` must be a list of integer gallery rows. "
                f"Received: dtype {rows.dtype} and shape {rows.shape}. Convert it to a "
                "list of integers."
            )
        check_range(f"positives[{query}]", rows, gallery_rows, "the gallery")
        lists.append(rows.astype(np.int64, copy=False))
    return lists


def count_without_positives(positives: Any) -> int:
    """Returns the number of queries without a positive, which the recall ignores.

    Example:
    >>> count_without_positives([[0], [], [1, 2]])
    1
    """
    return sum(np.size(rows) == 0 for rows in positives)


def _best_positive(
    queries: np.ndarray, gallery: Callable, lists: list[np.ndarray], block_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the best score of a positive of each query and its number of ties."""
    owners = np.repeat(np.arange(len(lists)), [len(rows) for rows in lists])
    # Duplicate positives are removed.
    pairs = np.unique(np.stack([owners, np.concatenate(lists)]), axis=1)
    owners = pairs[0]
    scores = pair_scores(queries, gallery, owners, pairs[1], block_size)
    best = np.full(len(lists), -np.inf)
    np.maximum.at(best, owners, scores)
    counts = np.bincount(owners, weights=scores == best[owners], minlength=len(lists))
    return best, counts.astype(np.int64)


def rank_of_best_positive(
    query_embeddings: Any,
    gallery_embeddings: Any,
    positives: Any,
    block_size: int = 4096,
    *,
    leave_out: Any = None,
) -> np.ndarray:
    """Returns the number of wrong rows that rank before the best positive.

    The arguments, errors and ties are those of `recall_at_k`. `leave_out` is None or
    integers (queries,), the gallery row that each query ignores, such as the query
    itself.

    Returns:
        int64 array (queries,). The rank is 0 if a positive is first, and -1 if the
        query has no positives.

    Example:
    >>> gallery = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    >>> rank_of_best_positive(gallery, gallery, [[0], [1], []]).tolist()
    [1, 0, -1]
    """
    queries = as_matrix(query_embeddings)
    gallery = as_matrix(gallery_embeddings)
    check_number("`block_size`", block_size, 1, 2**31, whole=True)
    lists = as_positive_lists(positives, len(queries), len(gallery))
    if leave_out is not None:
        leave_out = as_rows(
            "leave_out", leave_out, len(lists), len(gallery), "queries", "the gallery"
        )
        for query, row in enumerate(leave_out):
            if row in lists[query]:
                raise InputError(
                    f"`positives[{query}]` must not contain row {row}, which "
                    "`leave_out` removes from the gallery. Remove it from `positives`."
                )
    query_norms = row_norms("query_embeddings", queries)
    gallery_norm = row_norms("gallery_embeddings", gallery).max()

    def fixed_rows(rows: Any) -> np.ndarray:
        return fixed_point(gallery[rows], gallery_norm[None])

    ranks = np.full(len(queries), -1, np.int64)
    answerable = np.array([query for query, rows in enumerate(lists) if len(rows)], int)
    for start in range(0, len(answerable), block_size):
        block_queries = answerable[start : start + block_size]
        block = fixed_point(queries[block_queries], query_norms[block_queries])
        block_lists = [lists[query] for query in block_queries]
        best, excluded = _best_positive(block, fixed_rows, block_lists, block_size)
        if leave_out is not None:
            scores = pair_scores(
                block,
                fixed_rows,
                np.arange(len(block_queries)),
                leave_out[block_queries],
                block_size,
            )
            excluded += scores >= best
        count = CountAtLeast(block, best, min(block_size, len(gallery)))
        at_least = np.zeros(len(block_queries), np.int64)
        for row in range(0, len(gallery), block_size):
            rows = fixed_rows(slice(row, row + block_size))
            at_least += count(rows)
        # Wrong rows with the score of the best positive rank before it.
        ranks[block_queries] = at_least - excluded
    return ranks


def recall_of_ranks(ranks: Any, ks: Sequence[int] = PAPER_KS) -> dict[int, float]:
    """Returns the fraction of queries whose rank is below k.

    Args:
        ranks: int array (queries,) from `rank_of_best_positive`. Queries with the rank
            -1 are ignored.
        ks: integers >= 1.

    Returns:
        dict from each k to a float in [0, 1], or to NaN if no query has a positive.

    Example:
    >>> recall_of_ranks([0, 3, -1, 9], ks=(1, 4))
    {1: 0.3333333333333333, 4: 0.6666666666666666}
    """
    ranks = np.asarray(ranks)
    ranks = ranks[ranks >= 0]
    return {k: float(np.mean(ranks < k)) for k in ks}


def recall_at_k(
    query_embeddings: Any,
    gallery_embeddings: Any,
    positives: Any,
    ks: Sequence[int] = PAPER_KS,
    block_size: int = 4096,
) -> dict[int, float]:
    """Returns the fraction of queries with a positive among the top k rows.

    Rows are ranked by inner product. Ties are pessimistic, which means that a wrong row
    with the same score (to about 1e-8 of the lengths) ranks before the positive. The
    recall of a model with equal embeddings is therefore 0. The result depends neither
    on `block_size` nor on the machine. Queries without positives are ignored.

    Args:
        query_embeddings: real array (queries, dimension), finite.
        gallery_embeddings: real array (rows, dimension), finite, can be memory-mapped.
        positives: sequence with the correct gallery row or rows of each query.
        ks: integers >= 1. The recall at the size of the gallery is 1.
        block_size: int >= 1, number of queries and gallery rows that are scored at
            once.

    Returns:
        dict from each k to a float in [0, 1].

    Raises:
        InputError: if embeddings are not finite, or if positives are out of range.

    References:
        Jia et al. 2021, section 5.1 (Recall@K of both directions).

    Example:
    >>> images = np.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    >>> texts = np.array([[0.8, 0.6], [0.0, 1.0]])
    >>> recall_at_k(texts, images, positives=[[0], [2]], ks=(1, 2))
    {1: 0.5, 2: 1.0}
    """
    ranks = rank_of_best_positive(
        query_embeddings, gallery_embeddings, positives, block_size
    )
    return recall_of_ranks(ranks, ks)


def chance_recall_at_k(
    positives: Any,
    gallery_rows: int,
    ks: Sequence[int] = PAPER_KS,
    *,
    leave_out_self: bool = False,
) -> dict[int, float]:
    """Returns the exact expected Recall@k of a uniformly random ranking.

    For a query with m positives among n rows, the probability of no positive in the
    first k rows is C(n - m, k) / C(n, k). The expected recall is 1 minus the mean of
    this probability over the queries.

    Args:
        positives: as for `recall_at_k`.
        gallery_rows: int >= 1, size of the gallery.
        ks: integers >= 1.
        leave_out_self: True if each query is a gallery row that it ignores.

    Returns:
        dict from each k to a float in (0, 1].

    Raises:
        InputError: if positives are out of range.

    Example:
    >>> chance_recall_at_k([[0], [1]], gallery_rows=4, ks=(1, 2, 9))
    {1: 0.25, 2: 0.5, 9: 1.0}
    """
    lists = as_positive_lists(positives, len(positives), gallery_rows)
    counts = np.array([len(np.unique(rows)) for rows in lists if len(rows)])
    rows = gallery_rows - leave_out_self
    counts, queries = np.unique(counts, return_counts=True)
    expected = {}
    for k in ks:
        drawn = min(k, rows)
        subsets = math.comb(rows, drawn)
        misses = [math.comb(max(rows - m, 0), drawn) / subsets for m in counts.tolist()]
        expected[k] = float(np.average(1 - np.array(misses), weights=queries))
    return expected
