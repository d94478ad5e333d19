"""Exact scores: inner products of embeddings in fixed point, computed in float64.

They depend neither on the order of summation nor on the block, so that equal rows have
equal scores. BLAS alone doesn't guarantee this.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from align_keras.utils.errors import InputError

# Rows are rounded to multiples of 2**-26 of their length, and rows of a gallery to
# multiples of 2**-26 of its longest row. Each product and partial sum is then an
# integer below 2**53. (2**26)**2 leaves one bit for the rounding of the entries.
FRACTION_BITS = 26
# Row norms are summed in chunks of this size for any block size.
_NORM_CHUNK = 1024
# A block is scored exactly if float32 can't decide more than one in this number of its
# pairs.
PAIRS_PER_UNDECIDED = 32


def as_queries_and_gallery(
    query_embeddings: Any, gallery_embeddings: Any
) -> tuple[Any, Any]:
    """Returns both as matrices (rows, dimension), without copying arrays."""
    queries = _as_matrix("query_embeddings", query_embeddings)
    gallery = _as_matrix("gallery_embeddings", gallery_embeddings)
    if queries.shape[1] != gallery.shape[1]:
        raise InputError(
            "`query_embeddings` and `gallery_embeddings` must have one dimension, "
            f"received {queries.shape[1]} and {gallery.shape[1]}; use embeddings of "
            "the same model."
        )
    return queries, gallery


def _as_matrix(name: str, embeddings: Any) -> Any:
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
    """Returns the lengths of the rows, float64 (rows,), or raises if not finite."""
    norms = np.empty(len(embeddings))
    for start in range(0, len(embeddings), _NORM_CHUNK):
        chunk = np.ascontiguousarray(embeddings[start : start + _NORM_CHUNK], float)
        # Scaled rows don't overflow or underflow float64.
        largest = np.abs(chunk).max(axis=1)
        with np.errstate(invalid="ignore", over="ignore"):
            scaled = chunk / np.where(largest > 0, largest, 1.0)[:, None]
            norms[start : start + len(chunk)] = largest * np.sqrt(
                np.square(scaled).sum(axis=1)
            )
    wrong = np.flatnonzero(~np.isfinite(norms))
    if len(wrong):
        rows = ", ".join(map(str, wrong[:5])) + (", …" if len(wrong) > 5 else "")
        raise InputError(
            f"`{name}` must be finite, received NaN or infinity in {len(wrong)} "
            f"{'row' if len(wrong) == 1 else 'rows'}: {rows}; look for a diverged "
            "model or an image that could not be read."
        )
    return norms


class UnitRows:
    """Rows of a matrix that are divided by their lengths when they are indexed.

    The result of an index is float64. The matrix isn't copied. A row of zeros stays
    zero.
    """

    ndim = 2
    dtype = np.dtype(float)

    def __init__(self, name: str, embeddings: Any) -> None:
        self._embeddings = _as_matrix(name, embeddings)
        self.shape = self._embeddings.shape
        lengths = row_norms(name, self._embeddings)
        self._lengths = np.where(lengths > 0, lengths, 1)[:, None]

    def __len__(self) -> int:
        return len(self._embeddings)

    def __getitem__(self, rows: Any) -> np.ndarray:
        return np.asarray(self._embeddings[rows], float) / self._lengths[rows]


def fixed_point(block: np.ndarray, norms: np.ndarray) -> np.ndarray:
    """Rounds rows to multiples of 2**-26 of `norms`, which are at least their lengths.

    Returns:
        float64 array (rows, dimension) of integers. The length of a row is about 2**26
        at most.
    """
    exponents = np.frexp(norms)[1]
    scaled = np.ldexp(np.asarray(block, float), (FRACTION_BITS - exponents)[:, None])
    return np.rint(scaled)


def as_rows(
    name: str, values: Any, count: int, size: int, items: str, gallery: str
) -> np.ndarray:
    """Returns `values` as an int64 array (count,) in [0, size), or raises.

    Args:
        name: str, name of the argument.
        values: integers.
        count: int, required number of values.
        size: int, number of rows of the gallery.
        items: str, for the message: the items that have a value each.
        gallery: str, for the message: the values are rows of it.
    """
    values = np.asarray(values)
    if values.shape != (count,) or values.dtype.kind not in "iu":
        raise InputError(
            f"`{name}` must hold one integer for each of {count} {items}, received "
            f"shape {values.shape} and dtype {values.dtype}; give one each."
        )
    check_range(name, values, size, gallery)
    return values.astype(np.int64, copy=False)


def check_range(name: str, values: np.ndarray, size: int, gallery: str) -> None:
    """Raises unless all integers are in [0, size), rows of what `gallery` names."""
    outside = values[(values < 0) | (values >= size)]
    if outside.size:
        raise InputError(
            f"`{name}` must lie in [0, {size}), the rows of {gallery}, received "
            f"{outside[0]}; count from 0."
        )


def pair_scores(
    queries: np.ndarray,
    gallery: Callable,
    owners: np.ndarray,
    rows: np.ndarray,
    chunk: int,
) -> np.ndarray:
    """Returns the inner products of `queries[owners]` and `gallery(rows)`.

    They are exact if both are in fixed point. `chunk` pairs are computed at once.
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
    """Exact number of rows with a score of at least a threshold, for each query.

    A first pass in float32, which takes half the time of float64, decides all pairs but
    those that are closer to the threshold than its error. Queries and rows are in fixed
    point, with at most `block_size` rows a call.
    """

    def __init__(
        self, queries: np.ndarray, thresholds: np.ndarray, block_size: int
    ) -> None:
        self._queries = queries
        self._thresholds = thresholds
        self._inexact = queries.astype(np.float32)
        # Rounding of both entries, of their product and of the sums, in any order,
        # changes a score by at most (dimension + 2) units of 2**-24 of both lengths,
        # which are 2**26 each. 4 more units cover second-order terms and the rounding
        # of the thresholds.
        slack = (queries.shape[1] + 6) * 2.0 ** (2 * FRACTION_BITS - 24)
        self._low = (thresholds - slack).astype(np.float32)[:, None]
        self._high = (thresholds + slack).astype(np.float32)[:, None]
        # Allocating this memory for each block would take as long as the product.
        self._scores = np.empty((block_size, len(queries)), np.float32)
        self._chunk = block_size

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        size = (len(self._queries), len(rows))
        scores = self._scores.reshape(-1)[: size[0] * size[1]].reshape(size)
        np.matmul(self._inexact, rows.astype(np.float32).T, out=scores)
        surely = scores > self._high
        counts = np.count_nonzero(surely, axis=1)
        near = scores >= self._low
        near ^= surely
        pairs = np.flatnonzero(near)
        if len(pairs) * PAIRS_PER_UNDECIDED > near.size:
            exact = self._queries @ rows.T
            return np.count_nonzero(exact >= self._thresholds[:, None], axis=1)
        owners, columns = np.divmod(pairs, len(rows))
        exact = pair_scores(
            self._queries, rows.__getitem__, owners, columns, self._chunk
        )
        reached = owners[exact >= self._thresholds[owners]]
        return counts + np.bincount(reached, minlength=len(counts))
