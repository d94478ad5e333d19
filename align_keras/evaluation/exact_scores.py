"""Exact scores: inner products of embeddings in fixed point, which float64 holds.

They depend neither on the order of summation nor on the block, so that equal rows tie;
BLAS alone gives no such promise.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from align_keras.utils.errors import InputError

# Rows are multiples of 2**-26 of their length, and a gallery's of its longest row. Each
# product and partial sum is then a whole number below 2**53; (2**26)**2 leaves one bit
# of these for the rounding of the entries.
FRACTION_BITS = 26
# Row norms are summed in chunks of this size whatever the block size is.
_NORM_CHUNK = 1024
# Where more than one pair in so many is too near to be told apart in float32,
# the whole block is scored exactly.
_FEW = 32


def as_queries_and_gallery(
    query_embeddings: Any, gallery_embeddings: Any
) -> tuple[Any, Any]:
    """Returns both as matrices (rows, dimension), not copied where they are arrays."""
    queries = _as_matrix("query_embeddings", query_embeddings)
    gallery = _as_matrix("gallery_embeddings", gallery_embeddings)
    if queries.shape[1] != gallery.shape[1]:
        raise InputError(
            "`query_embeddings` and `gallery_embeddings` must have one dimension, "
            f"received {queries.shape[1]} and {gallery.shape[1]}; use embeddings of "
            "the same model."
        )
    return queries, gallery


def _as_matrix(name, embeddings):
    if not isinstance(embeddings, np.ndarray | UnitRows):
        embeddings = np.asarray(embeddings)
    if embeddings.ndim != 2 or 0 in embeddings.shape:
        raise InputError(
            f"`{name}` must be a matrix (rows, dimension) with at least one row, "
            f"received shape {embeddings.shape}; pass one embedding a row."
        )
    if embeddings.dtype.kind in "OUScMmb":
        raise InputError(
            f"`{name}` must hold real numbers, received dtype {embeddings.dtype}; "
            "pass float32 embeddings."
        )
    return embeddings


def row_norms(name: str, embeddings: Any) -> np.ndarray:
    """The lengths of the rows, float64 (rows,); raises for rows that aren't finite."""
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
        shown = ", ".join(map(str, wrong[:5])) + (", …" if len(wrong) > 5 else "")
        raise InputError(
            f"`{name}` must be finite, received NaN or infinity in {len(wrong)} "
            f"{'row' if len(wrong) == 1 else 'rows'}: {shown}; look for a diverged "
            "model or an image that could not be read."
        )
    return norms


class UnitRows:
    """Rows divided by their lengths, float64, where they are taken, so that no gallery
    is copied; a row of zeros stays one.
    """

    ndim, dtype = 2, np.dtype(float)

    def __init__(self, name, embeddings):
        self._embeddings = _as_matrix(name, embeddings)
        self.shape = self._embeddings.shape
        lengths = row_norms(name, self._embeddings)
        self._lengths = np.where(lengths > 0, lengths, 1)[:, None]

    def __len__(self):
        return len(self._embeddings)

    def __getitem__(self, rows):
        return np.asarray(self._embeddings[rows], float) / self._lengths[rows]


def fixed_point(block: np.ndarray, norms: np.ndarray) -> np.ndarray:
    """Rounds rows to multiples of 2**-26 of `norms`, at least their lengths: float64
    (rows, dimension) of whole numbers, each row at most about 2**26 long.
    """
    exponents = np.frexp(norms)[1]
    scaled = np.ldexp(np.asarray(block, float), (FRACTION_BITS - exponents)[:, None])
    return np.rint(scaled)


def as_rows(
    name: str, values: Any, count: int, size: int, items: str, of: str
) -> np.ndarray:
    """Returns `values` as int64 (count,) in [0, size), or raises for these `items`, and
    what they are rows `of`.
    """
    values = np.asarray(values)
    if values.shape != (count,) or values.dtype.kind not in "iu":
        raise InputError(
            f"`{name}` must hold one integer for each of {count} {items}, received "
            f"shape {values.shape} and dtype {values.dtype}; give one each."
        )
    check_range(name, values, size, of)
    return values.astype(np.int64, copy=False)


def check_range(name: str, values: np.ndarray, size: int, of: str) -> None:
    """Raises unless all integers lie in [0, size), the rows of what `of` says."""
    outside = values[(values < 0) | (values >= size)]
    if outside.size:
        raise InputError(
            f"`{name}` must lie in [0, {size}), the rows of {of}, received "
            f"{outside[0]}; count from 0."
        )


def pair_scores(
    queries: np.ndarray,
    gallery: Callable,
    owners: np.ndarray,
    rows: np.ndarray,
    chunk: int,
) -> np.ndarray:
    """Inner products of `queries[owners]` and `gallery(rows)`, `chunk` at once; exact
    where both are in fixed point.
    """
    scores = np.empty(len(owners))
    for start in range(0, len(scores), chunk):
        part = slice(start, start + chunk)
        scores[part] = np.einsum(
            "ij,ij->i",
            np.asarray(queries[owners[part]], float),
            np.asarray(gallery(rows[part]), float),
        )
    return scores


class CountAtLeast:
    """Counts, for each query, the rows that score at least its threshold, exactly.

    A first pass in float32, which takes half of float64's time, settles all pairs but
    those so near to the threshold that it may err. Queries and rows are in fixed point,
    at most `block_size` rows a call.
    """

    def __init__(self, queries, thresholds, block_size):
        self._queries, self._thresholds = queries, thresholds
        self._inexact = queries.astype(np.float32)
        # The rounding of both entries, of their product and of the sums, in any
        # order, moves a score by at most (dimension + 2) units of 2**-24 of both
        # lengths; these are 2**26 each, and 4 units more cover terms of the second
        # order and the rounding of the thresholds.
        slack = (queries.shape[1] + 6) * 2.0 ** (2 * FRACTION_BITS - 24)
        self._low = (thresholds - slack).astype(np.float32)[:, None]
        self._high = (thresholds + slack).astype(np.float32)[:, None]
        # Memory that is asked for anew at each block costs as much as the product.
        self._scores = np.empty((block_size, len(queries)), np.float32)
        self._chunk = block_size

    def __call__(self, rows):
        size = (len(self._queries), len(rows))
        scores = self._scores.reshape(-1)[: size[0] * size[1]].reshape(size)
        np.matmul(self._inexact, rows.astype(np.float32).T, out=scores)
        surely = scores > self._high
        counts = np.count_nonzero(surely, axis=1)
        near = scores >= self._low
        near ^= surely
        pairs = np.flatnonzero(near)
        if len(pairs) * _FEW > near.size:
            exact = self._queries @ rows.T
            return np.count_nonzero(exact >= self._thresholds[:, None], axis=1)
        owners, found = np.divmod(pairs, len(rows))
        exact = pair_scores(self._queries, rows.__getitem__, owners, found, self._chunk)
        reached = owners[exact >= self._thresholds[owners]]
        return counts + np.bincount(reached, minlength=len(counts))
