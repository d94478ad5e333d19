"""Encodings of the embeddings in an index folder: float32, float16 and int8.

| encoding | bytes per number on disk | bytes per number that a scan reads |
|---|---|---|
| float32 | 4 | 4 |
| float16 | 2 | 2 |
| int8 | 2 | 1 |

An int8 row has a scale and integers of 8 bits. A second file has the remainders, also
in 8 bits. A scan reads only the first file. The rows near the requested number of hits
are scored again with both files, which together have about the precision of 16 bits.
The error of the first score is bounded by the norm of the remainder (Cauchy-Schwarz),
so the ranking is the same as if all rows were scored with both files.
"""

import abc
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

# Rows that are converted to float32 at once. The converted rows fit into the second
# level of the processor's cache.
_BLOCK = 256
# Largest integer of a row, and number of steps of a remainder in one unit of it.
_LARGEST = 127
_STEPS = 254
# A number in float16 whose bits are moved to the positions of float32 is smaller by
# 2**112, because the exponents have different offsets. The query and the score have a
# part of this factor each, so that neither overflows.
_QUERY_SCALE = np.float32(2.0**64)
_SCORE_SCALE = np.float32(2.0**48)
_HALF_SHIFT = 13
# Smaller numbers become subnormal, and some libraries make the processor ignore those.
_SMALLEST_HALF = 2.0**-14
# Sign, exponent and fraction of such a number. The other bits are copies of the sign.
_HALF_MASK = np.uint32(0x8FFFFFFF).view(np.int32)

Rows = int | slice | Sequence[int] | np.ndarray


class EncodedRows(abc.ABC):
    """Rows of a vectors file, which are decoded when they are read.

    `rows[start:stop]`, `rows[numbers]` and `rows[number]` are float32 arrays.

    Args:
        planes: memory maps of the files, with one element or row per embedding.
        dimension: int, width of the embeddings.
        deviation: float, largest norm of the part of an embedding that `scan` ignores.
    """

    def __init__(
        self, planes: Sequence[np.ndarray], dimension: int, deviation: float = 0.0
    ) -> None:
        self.planes = planes
        self.dimension = dimension
        self.deviation = deviation

    def __len__(self) -> int:
        return len(self.planes[0])

    @property
    def shape(self) -> tuple[int, int]:
        return len(self), self.dimension

    @property
    def nbytes(self) -> int:
        """Size of the decoded rows in bytes."""
        return 4 * len(self) * self.dimension

    def first(self, count: int) -> "EncodedRows":
        """Returns the first rows."""
        planes = [plane[:count] for plane in self.planes]
        return type(self)(planes, self.dimension, self.deviation)

    @abc.abstractmethod
    def __getitem__(self, rows: Rows) -> np.ndarray:
        """Returns decoded rows, float32 (n, d)."""

    @abc.abstractmethod
    def scan(self, query: np.ndarray, rows: np.ndarray | None) -> np.ndarray:
        """Returns approximate float32 scores (n,), or (n, q) for several queries.

        The error is at most that of `exact_scan.scan_error`, plus `deviation` times the
        norm of the query.

        Args:
            query: float32 (d,), or (d, q) for several queries.
            rows: int64 (m,), rows to score, or None for all rows.
        """


class HalfRows(EncodedRows):
    """Rows of float16."""

    def __getitem__(self, rows: Rows) -> np.ndarray:
        return self.planes[0][rows].astype(np.float32)

    def scan(self, query: np.ndarray, rows: np.ndarray | None) -> np.ndarray:
        # NumPy converts float16 without the instructions of the processor. Moving the
        # bits takes less than half the time.
        bits = self.planes[0].view(np.int16)
        moved = np.empty((_BLOCK, self.dimension), np.int32)
        scaled_query = query * _QUERY_SCALE

        def fill(source: np.ndarray) -> np.ndarray:
            target = moved[: len(source)]
            np.copyto(target, source)
            np.left_shift(target, _HALF_SHIFT, out=target)
            np.bitwise_and(target, _HALF_MASK, out=target)
            return target.view(np.float32)

        scores = _scan_blocks(bits, fill, scaled_query, rows)
        scores *= _SCORE_SCALE
        return scores


class ByteRows(EncodedRows):
    """Rows of int8 with a scale, and remainders of int8."""

    def __getitem__(self, rows: Rows) -> np.ndarray:
        main = self.planes[0][rows]
        numbers = self.planes[1][rows].astype(np.float32)
        numbers *= np.float32(1.0 / _STEPS)
        numbers += main["numbers"]
        numbers *= np.asarray(main["scale"])[..., None]
        return numbers

    def scan(self, query: np.ndarray, rows: np.ndarray | None) -> np.ndarray:
        main = self.planes[0]
        converted = np.empty((_BLOCK, self.dimension), np.float32)

        def fill(source: np.ndarray) -> np.ndarray:
            target = converted[: len(source)]
            np.copyto(target, source)
            return target

        scores = _scan_blocks(main["numbers"], fill, query, rows)
        scales = main["scale"] if rows is None else main["scale"][rows]
        scores *= scales.reshape(-1, *[1] * (query.ndim - 1))
        return scores


def _scan_blocks(
    encoded: np.ndarray, fill: Any, query: np.ndarray, rows: np.ndarray | None
) -> np.ndarray:
    """Returns the products of rows and queries, float32 (n,) or (n, q).

    Args:
        encoded: array (n, d), encoded rows.
        fill: function that converts encoded rows to float32.
        query: float32 (d,) or (d, q).
        rows: int64 (m,), rows to score, or None for all rows.
    """
    count = len(encoded) if rows is None else len(rows)
    scores = np.empty((count, *query.shape[1:]), np.float32)
    for start in range(0, count, _BLOCK):
        stop = min(start + _BLOCK, count)
        block = encoded[start:stop] if rows is None else encoded[rows[start:stop]]
        # The caller checks the scores for damaged rows.
        with np.errstate(over="ignore", invalid="ignore"):
            np.matmul(fill(block), query, out=scores[start:stop])
    return scores


def encode(vectors: np.ndarray, encoding: str) -> list[np.ndarray]:
    """Encodes embeddings.

    Args:
        vectors: float32 (n, d).
        encoding: one of `index_files.ENCODINGS`.

    Returns:
        list of arrays, the content of each file of the encoding.
    """
    if encoding == "float32":
        return [np.ascontiguousarray(vectors, "<f4")]
    if encoding == "float16":
        return [np.ascontiguousarray(vectors, "<f2")]
    main_type, remainder_type = _plane_types("int8", vectors.shape[1])
    main = np.empty(len(vectors), main_type)
    scales = np.abs(vectors).max(axis=1) / np.float32(_LARGEST)
    main["scale"] = np.maximum(scales, np.finfo(np.float32).tiny)
    in_units = vectors / main["scale"][:, None]
    main["numbers"] = np.clip(np.rint(in_units), -_LARGEST, _LARGEST)
    remainders = np.rint((in_units - main["numbers"]) * _STEPS)
    remainders = np.clip(remainders, -_LARGEST, _LARGEST)
    return [main, remainders.astype(remainder_type.base)]


def open_rows(
    planes: Sequence[np.ndarray], encoding: str, dimension: int, deviation: float = 0.0
) -> Any:
    """Returns the rows of files as float32, which are decoded when they are read.

    Args:
        planes: arrays of the files, as `encode` returns them.
        encoding: one of `index_files.ENCODINGS`.
        dimension: int, width of the embeddings.
        deviation: float, the result of `scan_deviation` for these rows.

    Returns:
        The array itself for float32, and otherwise `EncodedRows`.
    """
    if encoding == "float32":
        return planes[0]
    if encoding == "float16":
        return HalfRows(planes, dimension, _SMALLEST_HALF * math.sqrt(dimension))
    return ByteRows(planes, dimension, deviation)


def map_rows(
    paths: Sequence[pathlib.Path],
    encoding: str,
    count: int,
    dimension: int,
    deviation: float,
) -> Any:
    """Maps the files of an encoding into memory. See `open_rows`.

    Raises:
        OSError: if a file cannot be opened.
        ValueError: if a file has fewer rows.
    """
    planes = []
    for path, kind in zip(paths, _plane_types(encoding, dimension), strict=True):
        shape = (count, *kind.shape)
        planes.append(np.memmap(path, kind.base, "r", shape=shape))
    return open_rows(planes, encoding, dimension, deviation)


def scan_deviation(planes: Sequence[np.ndarray], encoding: str) -> float:
    """Returns the largest norm of the part of an embedding that a scan ignores."""
    if encoding != "int8" or not len(planes[0]):
        return 0.0
    remainders = planes[1].astype(np.float64) * (planes[0]["scale"][:, None] / _STEPS)
    return float(np.sqrt(np.square(remainders).sum(axis=1)).max())


def row_bytes(encoding: str, dimension: int) -> list[int]:
    """Returns the size of a row in each file of an encoding."""
    return [kind.itemsize for kind in _plane_types(encoding, dimension)]


def _plane_types(encoding: str, dimension: int) -> list[np.dtype]:
    """Returns the type of a row in each file of an encoding."""
    if encoding == "int8":
        main = np.dtype([("scale", "<f4"), ("numbers", "i1", (dimension,))])
        return [main, np.dtype(("i1", (dimension,)))]
    return [np.dtype(({"float32": "<f4", "float16": "<f2"}[encoding], (dimension,)))]
