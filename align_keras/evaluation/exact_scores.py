"""Exact scores, which are inner products of fixed-point embeddings in float64.

The scores depend neither on the order of summation nor on the block size. Equal rows
therefore have equal scores, which BLAS alone doesn't guarantee.
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
# A whole block is scored exactly if float32 can't decide more than 1 in 32 of its
# pairs.
PAIRS_PER_UNDECIDED = 32


def as_matrix(embeddings: Any) -> Any:
    """Converts embeddings to an array (rows, dimension). `UnitRows` are unchanged."""
    return embeddings if isinstance(embeddings, UnitRows) else np.asarray(embeddings)


def row_norms(name: str, embeddings: Any) -> np.ndarray:
    """Returns the lengths of the rows as a float64 array (rows,).

    Raises:
        InputError: if a length is not finite.
    """
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
    bad_rows = np.flatnonzero(~np.isfinite(norms))
    if len(bad_rows):
        rows = ", ".join(map(str, bad_rows[:5])) + (", …" if len(bad_rows) > 5 else "")
        raise InputError(
            f"`{name}` must be finite. Received: NaN or infinity in {len(bad_rows)} "
            f"{'row' if len(bad_rows) == 1 else 'rows'}: {rows}. Check for a diverged "
            "model or an image that could not be read."
        )
    return norms


class UnitRows:
    """View of a matrix whose rows are normalized to unit length when they are indexed.

    Indexing returns float64 arrays. The matrix isn't copied. A row of zeros remains
    zero.

    Args:
        name: name of the argument for messages.
        embeddings: real array (rows, dimension).
    """

    ndim = 2
    dtype = np.dtype(float)

    def __init__(self, name: str, embeddings: Any) -> None:
        self._embeddings = as_matrix(embeddings)
        self.shape = self._embeddings.shape
        lengths = row_norms(name, self._embeddings)
        self._lengths = np.where(lengths > 0, lengths, 1)[:, None]

    def __len__(self) -> int:
        return len(self._embeddings)

    def __getitem__(self, rows: Any) -> np.ndarray:
        return np.asarray(self._embeddings[rows], float) / self._lengths[rows]


def fixed_point(block: np.ndarray, norms: np.ndarray) -> np.ndarray:
    """Rounds rows to multiples of 2**-26 of a norm.

    Args:
        block: real array (rows, dimension).
        norms: float array (rows,) or (1,), upper bounds of the lengths of the rows.

    Returns:
        float64 array (rows, dimension) of integers. The length of a row is at most
        about 2**26.
    """
    exponents = np.frexp(norms)[1]
    scaled = np.ldexp(np.asarray(block, float), (FRACTION_BITS - exponents)[:, None])
    return np.rint(scaled)


def as_rows(
    name: str, values: Any, count: int, size: int, items: str, gallery: str
) -> np.ndarray:
    """Converts row numbers to an int64 array (count,).

    Args:
        name: name of the argument for the message.
        values: integers in [0, size).
        count: required number of values.
        size: number of rows of the gallery.
        items: description of the items that have a value, for the message.
        gallery: description of the gallery for the message.

    Raises:
        InputError: if the number, the type or the range of the values is wrong.
    """
    values = np.asarray(values)
    if values.shape != (count,) or values.dtype.kind not in "iu":
        raise InputError(
            f"`{name}` must contain one integer for each of {count} {items}. "
            f"Received: shape {values.shape} and dtype {values.dtype}. Pass an int "
            f"array of the shape ({count},)."
        )
    check_range(name, values, size, gallery)
    return values.astype(np.int64, copy=False)


def check_range(name: str, values: np.ndarray, size: int, gallery: str) -> None:
    """Raises `InputError` unless all integers are in [0, size).

    Args:
        name: name of the argument for the message.
        values: integer array.
        size: number of rows of the gallery.
        gallery: description of the gallery for the message.
    """
    outside = values[(values < 0) | (values >= size)]
    if outside.size:
        raise InputError(
            f"`{name}` must be in [0, {size}), the rows of {gallery}. Received: "
            f"{outside[0]}. Count from 0."
        )


def pair_scores(
    queries: np.ndarray,
    gallery: Callable,
    owners: np.ndarray,
    rows: np.ndarray,
    chunk: int,
) -> np.ndarray:
    """Returns the inner products of `queries[owners]` and `gallery(rows)`.

    The products are exact if both matrices are in fixed point.

    Args:
        queries: real array (queries, dimension).
        gallery: function from an int array (n,) of rows to a real array (n, dimension).
        owners: int array (pairs,), query of each pair.
        rows: int array (pairs,), gallery row of each pair.
        chunk: number of pairs that are computed at once.

    Returns:
        float64 array (pairs,).
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
    """Exact count of the rows whose score reaches the threshold of each query.

    Scores in float32 take half the time of float64. They decide all pairs except those
    that are closer to the threshold than the rounding error. Only the undecided pairs
    are computed in float64.

    Args:
        queries: float64 array (queries, dimension) in fixed point.
        thresholds: float64 array (queries,).
        block_size: maximum number of rows per call.

    Call arguments:
        rows: float64 array (rows, dimension) in fixed point.

    Returns:
        int array (queries,).
    """

    def __init__(
        self, queries: np.ndarray, thresholds: np.ndarray, block_size: int
    ) -> None:
        self._queries = queries
        self._thresholds = thresholds
        self._inexact = queries.astype(np.float32)
        # The bound covers the rounding of both entries, of their products and of the
        # sums in any order. Each score changes by at most (dimension + 2) units of
        # 2**-24 times both lengths, which are 2**26 each. 4 more units cover
        # second-order terms and the rounding of the thresholds.
        slack = (queries.shape[1] + 6) * 2.0 ** (2 * FRACTION_BITS - 24)
        self._low = (thresholds - slack).astype(np.float32)[:, None]
        self._high = (thresholds + slack).astype(np.float32)[:, None]
        # The memory is allocated once, because allocating it for each block would take
        # as long as the product.
        self._scores = np.empty((block_size, len(queries)), np.float32)
        self._chunk = block_size

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        size = (len(self._queries), len(rows))
        scores = self._scores.reshape(-1)[: size[0] * size[1]].reshape(size)
        np.matmul(self._inexact, rows.astype(np.float32).T, out=scores)
        is_above = scores > self._high
        counts = np.count_nonzero(is_above, axis=1)
        is_undecided = scores >= self._low
        is_undecided ^= is_above
        pairs = np.flatnonzero(is_undecided)
        if len(pairs) * PAIRS_PER_UNDECIDED > is_undecided.size:
            exact = self._queries @ rows.T
            return np.count_nonzero(exact >= self._thresholds[:, None], axis=1)
        owners, columns = np.divmod(pairs, len(rows))
        exact = pair_scores(
            self._queries, rows.__getitem__, owners, columns, self._chunk
        )
        reached = owners[exact >= self._thresholds[owners]]
        return counts + np.bincount(reached, minlength=len(counts))
