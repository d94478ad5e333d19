"""Recall at k over blocks of queries and gallery, with exact scores.

The scores are inner products of embeddings rounded to fixed point: each query
to multiples of 2**-26 of its own length, the gallery to multiples of 2**-26 of
its longest row. Every product and every partial sum of them is then a whole
number below 2**53, which float64 holds exactly, so a score depends neither on
the order of summation nor on the shape of the matrix product that made it.
BLAS gives no such promise: the same two rows score differently in the last bit
when they stand at another place of another block, and equal rows no longer tie.
"""

import operator

import numpy as np

from align_keras.utils.errors import InputError

# (2**26)**2 leaves one bit of float64's 53 for the rounding of the entries.
_FRACTION_BITS = 26

# Row norms are summed in chunks of this size whatever the block size is.
_NORM_CHUNK = 1024


def _named_rows(rows, limit=5):
    """`"3 rows: 1, 4, 9"`, with at most `limit` of them written out."""
    shown = ", ".join(str(row) for row in rows[:limit])
    more = ", …" if len(rows) > limit else ""
    return f"{len(rows)} {'row' if len(rows) == 1 else 'rows'}: {shown}{more}"


def _as_matrix(name, embeddings):
    if not isinstance(embeddings, np.ndarray):
        embeddings = np.asarray(embeddings)
    if embeddings.ndim != 2 or 0 in embeddings.shape:
        raise InputError(
            f"`{name}` must be a matrix (rows, dimension) with at least one row, "
            f"got shape {embeddings.shape}; pass one embedding a row."
        )
    if embeddings.dtype.kind in "OUScMmb":
        raise InputError(
            f"`{name}` must hold real numbers, got dtype {embeddings.dtype}; "
            "pass float32 embeddings."
        )
    return embeddings


def _row_norms(name, embeddings):
    """Float64 lengths of the rows; refuses rows that aren't finite."""
    norms = np.empty(len(embeddings))
    for start in range(0, len(embeddings), _NORM_CHUNK):
        chunk = np.ascontiguousarray(embeddings[start : start + _NORM_CHUNK], float)
        # Scaled, so that neither huge nor tiny rows leave float64's range.
        largest = np.abs(chunk).max(axis=1)
        with np.errstate(invalid="ignore", over="ignore"):
            scaled = chunk / np.where(largest > 0, largest, 1.0)[:, None]
            norms[start : start + len(chunk)] = largest * np.sqrt(
                np.square(scaled).sum(axis=1)
            )
    wrong = np.flatnonzero(~np.isfinite(norms))
    if len(wrong):
        raise InputError(
            f"`{name}` must be finite, got NaN or infinity in {_named_rows(wrong)}; "
            "look for a diverged model or a picture that could not be read."
        )
    return norms


def _fixed_point(block, norms):
    """Whole numbers in float64, rows of length at most about 2**26."""
    exponents = np.frexp(norms)[1]
    scaled = np.ldexp(np.asarray(block, float), (_FRACTION_BITS - exponents)[:, None])
    return np.rint(scaled)


def as_positive_lists(positives, query_rows, gallery_rows):
    """Checks `positives` and returns it as a list of integer arrays.

    Args:
        positives: sequence with, for each query, the gallery rows that are
            hits: a sequence of integers, or one integer.
        query_rows: int, the number of queries.
        gallery_rows: int, the number of gallery rows.

    Returns:
        List of `query_rows` int64 arrays. Duplicates are kept.

    Raises:
        InputError: for another number of queries, entries that aren't
            integers, and rows outside the gallery.
    """
    if len(positives) != query_rows:
        raise InputError(
            "`positives` must hold one list of gallery rows a query, got "
            f"{len(positives)} lists for {query_rows} queries."
        )
    lists = []
    for query, rows in enumerate(positives):
        rows = np.atleast_1d(np.asarray(rows))
        if rows.size == 0:
            rows = np.empty(0, np.int64)
        if rows.dtype.kind not in "iu" or rows.ndim != 1:
            raise InputError(
                f"`positives[{query}]` must list gallery rows as integers, got "
                f"dtype {rows.dtype} and shape {rows.shape}."
            )
        outside = rows[(rows < 0) | (rows >= gallery_rows)]
        if outside.size:
            raise InputError(
                f"`positives[{query}]` must lie in [0, {gallery_rows}), the rows of "
                f"the gallery, got {outside[0]}."
            )
        lists.append(rows.astype(np.int64, copy=False))
    return lists


def as_ks(ks):
    """Checks `ks` and returns it as a tuple of integers >= 1."""
    try:
        values = tuple(operator.index(k) for k in ks)
    except TypeError:
        values = ()
    if not values or min(values) < 1:
        raise InputError(
            f"`ks` must be a sequence of integers >= 1, got {ks!r}; "
            "pass for instance (1, 5, 10)."
        )
    return values


def _as_block_size(block_size):
    if not isinstance(block_size, (int, np.integer)) or block_size < 1:
        raise InputError(
            f"`block_size` must be an integer >= 1, got {block_size!r}; "
            "leave it out for 4096."
        )
    return int(block_size)


def count_without_positives(positives):
    """Number of queries that recall leaves out because nothing can be a hit.

    Args:
        positives: sequence with, for each query, its gallery rows.

    Returns:
        int.

    Example:
    >>> count_without_positives([[0], [], [1, 2]])
    1
    """
    return sum(np.size(rows) == 0 for rows in positives)


def _best_positive(queries, gallery, gallery_norm, lists, block_size):
    """Per query of the block: best positive score, and how many reach it."""
    owners = np.repeat(np.arange(len(lists)), [len(rows) for rows in lists])
    rows = np.concatenate(lists)
    # The same row twice must count once among the rows that reach the score.
    pairs = np.unique(np.stack([owners, rows]), axis=1)
    scores = np.empty(pairs.shape[1])
    for start in range(0, len(scores), block_size):
        owner, row = pairs[:, start : start + block_size]
        right = _fixed_point(gallery[row], np.full(len(row), gallery_norm))
        scores[start : start + len(row)] = (queries[owner] * right).sum(axis=1)
    best = np.full(len(lists), -np.inf)
    np.maximum.at(best, pairs[0], scores)
    reached = np.bincount(
        pairs[0], weights=scores == best[pairs[0]], minlength=len(lists)
    )
    return best, reached.astype(np.int64)


def rank_of_best_positive(
    query_embeddings, gallery_embeddings, positives, block_size=4096
):
    """Rank of each query's best hit: how many wrong rows come before it.

    Ties are pessimistic: a wrong row with the same score ranks before the
    right one. Other right rows don't count.

    Args:
        query_embeddings: real array (queries, dimension), finite.
        gallery_embeddings: real array (rows, dimension), finite; may be
            memory-mapped.
        positives: sequence with, for each query, the gallery rows that are
            hits: a sequence of integers in [0, rows), or one integer.
        block_size: int >= 1, queries and gallery rows scored at once. Memory
            grows with its square; the result doesn't depend on it.

    Returns:
        int64 array (queries,): 0 for a hit in first place, -1 for a query
        without positives.

    Raises:
        InputError: as `recall_at_k`.

    Example:
    >>> import numpy as np
    >>> gallery = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    >>> rank_of_best_positive(gallery, gallery, [[0], [1], []]).tolist()
    [1, 0, -1]
    """
    queries = _as_matrix("query_embeddings", query_embeddings)
    gallery = _as_matrix("gallery_embeddings", gallery_embeddings)
    if queries.shape[1] != gallery.shape[1]:
        raise InputError(
            "`query_embeddings` and `gallery_embeddings` must have one dimension, "
            f"got {queries.shape[1]} and {gallery.shape[1]}; use embeddings of the "
            "same model."
        )
    block_size = _as_block_size(block_size)
    lists = as_positive_lists(positives, len(queries), len(gallery))
    query_norms = _row_norms("query_embeddings", queries)
    gallery_norm = _row_norms("gallery_embeddings", gallery).max()

    ranks = np.full(len(queries), -1, np.int64)
    answerable = np.array([query for query, rows in enumerate(lists) if len(rows)], int)
    for start in range(0, len(answerable), block_size):
        chosen = answerable[start : start + block_size]
        block = _fixed_point(queries[chosen], query_norms[chosen])
        best, reached = _best_positive(
            block, gallery, gallery_norm, [lists[q] for q in chosen], block_size
        )
        at_least = np.zeros(len(chosen), np.int64)
        for row in range(0, len(gallery), block_size):
            rows = gallery[row : row + block_size]
            rows = _fixed_point(rows, np.full(len(rows), gallery_norm))
            at_least += (block @ rows.T >= best[:, None]).sum(axis=1)
        # What reaches the best right score and isn't right itself comes first.
        ranks[chosen] = at_least - reached
    return ranks


def recall_at_k(
    query_embeddings, gallery_embeddings, positives, ks=(1, 5, 10), block_size=4096
):
    """Fraction of queries with at least one right row among their k best.

    Rows are ranked by inner product. Ties are pessimistic: a wrong row with
    the same score ranks before the right one, so a model that has collapsed to
    one point scores 0 and not chance. Two scores are the same when they agree
    to about 1e-8 of the embeddings' lengths (see the module), and the result
    depends neither on `block_size` nor on the machine. A query without
    positives is left out; `count_without_positives` counts these.

    Args:
        query_embeddings: real array (queries, dimension), finite. Unit length
            makes the inner product the cosine.
        gallery_embeddings: real array (rows, dimension), finite; may be
            memory-mapped.
        positives: sequence with, for each query, the gallery rows that are
            hits: a sequence of integers in [0, rows), or one integer.
        ks: integers >= 1; one beyond the gallery's size is met by every query.
        block_size: int >= 1, queries and gallery rows scored at once, so that
            memory doesn't grow with their numbers.

    Returns:
        dict from each k to a float in [0, 1].

    Raises:
        InputError: for shapes that don't fit, empty or non-finite embeddings
            (the rows are named), positives outside the gallery, k < 1, and
            when no query has a positive.

    References:
        Jia et al. 2021, section 5.1 (Recall@K of both directions).

    Example:
    >>> import numpy as np
    >>> images = np.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    >>> texts = np.array([[0.8, 0.6], [0.0, 1.0]])
    >>> recall_at_k(texts, images, positives=[[0], [2]], ks=(1, 2))
    {1: 0.5, 2: 1.0}
    """
    ks = as_ks(ks)
    ranks = rank_of_best_positive(
        query_embeddings, gallery_embeddings, positives, block_size
    )
    ranks = ranks[ranks >= 0]
    if not len(ranks):
        raise InputError(
            "`positives` must name a gallery row for at least one query, got none; "
            "check that queries and gallery belong together."
        )
    return {k: float(np.mean(ranks < k)) for k in ks}
