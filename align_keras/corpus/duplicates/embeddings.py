"""Images' embeddings, and which of them are near: the paper's appendix A."""

import dataclasses
import hashlib
import itertools
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from align_keras.utils.arguments import check_number
from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_path

CLUSTERS = 4096
NEAREST = 10
COSINE_THRESHOLD = 0.975
# Fewer images a cluster make no clusters worth having; of so many k-means learns.
_IMAGES_PER_CLUSTER, _SAMPLE_PER_CLUSTER = 64, 32
# Numbers held of a row, in float16: products of two rows are off by at most 2 ** -10.
_AXES, _ROUNDING = 31, 2e-3
# Limits of memory: rows that are assigned to clusters together, rows that are compared
# with a cluster together, and pairs of rows that are compared exactly together.
PLACED_ROWS_PER_BLOCK = 1 << 14
QUERY_ROWS_PER_BLOCK = 1 << 20
VERIFIED_PAIRS_PER_BLOCK = 4096


def write_embeddings(
    path: str | os.PathLike,
    images: Iterable,
    encode: Callable,
    count: int,
    *,
    batch_size: int = 64,
    dtype: str = "float16",
) -> np.ndarray:
    """Embeds `count` images by `encode` (a list to (images, d)) into a `.npy` file."""
    with atomic_path(path) as temporary:
        _fill(temporary, iter(images), encode, count, batch_size, dtype)
    # An empty file can't be mapped.
    return np.load(path, mmap_mode="r" if count else None)


def _fill(
    path: pathlib.Path,
    images: Iterator[Any],
    encode: Callable[[list[Any]], Any],
    count: int,
    batch_size: int,
    dtype: str,
) -> None:
    stored, done = None, 0
    while batch := list(itertools.islice(images, batch_size)):
        with np.errstate(over="ignore"):
            rows = np.asarray(encode(batch)).astype(dtype)
        if rows.ndim != 2 or len(rows) != len(batch) or not np.isfinite(rows).all():
            raise InputError(
                f"encode must return finite numbers that {dtype} holds, a row an image "
                f"({len(batch)}, dimensions), received {rows.shape} or infinity; pool "
                "its output, check the encoder, or store float32."
            )
        if stored is None:
            shape = (count, rows.shape[1])
            stored = np.lib.format.open_memmap(path, "w+", dtype, shape)
        stored[done : done + len(rows)] = rows
        done += len(rows)
    if stored is None:
        with path.open("wb") as file:
            np.save(file, np.empty((0, 0), dtype))
    else:
        stored.flush()


@dataclasses.dataclass(frozen=True)
class _Rows:
    """Rows of embeddings where they lie, what `place` finds; `[places]` are some."""

    embeddings: np.ndarray
    clusters: np.ndarray
    short: np.ndarray
    rows: np.ndarray

    def __getitem__(self, indices: Any) -> "_Rows":
        return dataclasses.replace(self, rows=self.rows[indices])


class EmbeddingSearch:
    """Finds near images by their embeddings' cosines, above `threshold`.

    An image is compared with those of its `nearest` k-means clusters, where the paper
    takes buckets of three of the ten nearest of 4,096. Small corpora have a cluster for
    64 images; with fewer than 4 times `nearest` all are compared with all. The
    threshold depends on the encoder: `tools/benchmarks/bench_duplicates.py` measures
    it.

    Most pairs are ruled out by a few numbers of each unit row, those along the sample's
    principal axes and the length of the rest: their product is never below the cosine
    (Cauchy and Schwarz). All other pairs are compared exactly. Memory is some hundred
    bytes an image, 32 embeddings a cluster, and `block_rows` times as many numbers.

    References:
        Jia et al. 2021, appendix A.
    """

    def __init__(
        self,
        clusters: int = CLUSTERS,
        nearest: int = NEAREST,
        threshold: float = COSINE_THRESHOLD,
        seed: int = 0,
        block_rows: int = 2048,
    ) -> None:
        remedy = f"the paper's is {NEAREST} of {CLUSTERS} clusters"
        check_number("nearest", nearest, 1, clusters, whole=True, remedy=remedy)
        remedy = f"a cosine, the paper's is {COSINE_THRESHOLD}"
        check_number("threshold", threshold, _ROUNDING, 1, remedy=remedy)
        self.clusters = clusters
        self.nearest = nearest
        self.threshold = threshold
        self.seed = seed
        self.block_rows = block_rows
        self.centers: Any = None

    def fit(self, keys: Sequence[str], embeddings: np.ndarray) -> None:
        """Learns centers and axes from the images with the lowest hashes of keys."""
        self.centers = None
        clusters = min(self.clusters, len(keys) // _IMAGES_PER_CLUSTER)
        encoded = (key.encode("utf-8", "surrogatepass") for key in keys)
        digests = [hashlib.blake2b(key, digest_size=8).digest() for key in encoded]
        order = np.argsort(np.frombuffer(b"".join(digests), "<u8"), kind="stable")
        sample = order[: max(clusters, _IMAGES_PER_CLUSTER) * _SAMPLE_PER_CLUSTER]
        unit = _unit_rows(embeddings, sample)
        self.axes = np.linalg.eigh(unit.T @ unit)[1][:, -_AXES:]
        if clusters < min(4 * self.nearest, self.clusters):
            return
        import faiss  # Only here: few corpora take it.

        means = faiss.Kmeans(
            embeddings.shape[1],
            clusters,
            niter=10,
            seed=self.seed,
            spherical=True,
            max_points_per_centroid=_SAMPLE_PER_CLUSTER,
            min_points_per_centroid=1,
        )
        means.train(unit)
        self.centers = means.index

    def place(self, embeddings: np.ndarray) -> _Rows:
        """Finds what `lowest` needs of all rows of embeddings (n, d)."""
        rows = np.arange(len(embeddings))
        nearest = 1 if self.centers is None else self.nearest
        clusters = np.zeros((len(rows), nearest), np.min_scalar_type(self.clusters))
        short = np.empty((len(rows), self.axes.shape[1] + 1), np.float16)
        for start in range(0, len(rows), PLACED_ROWS_PER_BLOCK):
            part = rows[start : start + PLACED_ROWS_PER_BLOCK]
            unit = _unit_rows(embeddings, part)
            along = unit @ self.axes
            squared_remainder = np.square(unit).sum(axis=1) - np.square(along).sum(
                axis=1
            )
            short[part, :-1], short[part, -1] = (
                along,
                np.sqrt(np.maximum(squared_remainder, 0)),
            )
            if self.centers is not None:
                clusters[part] = self.centers.search(unit, nearest)[1]
        return _Rows(embeddings, clusters, short, rows)

    def lowest(
        self,
        queries: _Rows,
        references: _Rows,
        ranks: np.ndarray,
        below: np.ndarray,
    ) -> np.ndarray:
        """Returns each query's lowest rank of a near reference, if below `below`."""
        best = below.copy()
        order = np.argsort(ranks, kind="stable")
        references, ranks = references[order], ranks[order]
        clusters = 1 if self.centers is None else self.centers.ntotal
        references_of_clusters = _by_cluster(
            references.clusters[references.rows, :1], clusters
        )
        for start in range(0, len(best), QUERY_ROWS_PER_BLOCK):
            block = queries.rows[start : start + QUERY_ROWS_PER_BLOCK]
            queries_of_clusters = _by_cluster(queries.clusters[block], clusters)
            for query_rows, reference_rows in zip(
                queries_of_clusters, references_of_clusters, strict=True
            ):
                for first in range(0, len(reference_rows), self.block_rows):
                    part = reference_rows[first : first + self.block_rows]
                    self._compare(
                        queries, start + query_rows, references, part, ranks, best
                    )
        return best

    def _compare(
        self,
        queries: _Rows,
        query_rows: np.ndarray,
        references: _Rows,
        part: np.ndarray,
        ranks: np.ndarray,
        best: np.ndarray,
    ) -> None:
        """Lowers `best` of the queries `asked` by the references `part`."""
        # Who has found a lower rank than all of these is done.
        query_rows = query_rows[best[query_rows] > ranks[part[0]]]
        if not len(query_rows):
            return
        there = references.short[references.rows[part]].astype(np.float32).T
        for start in range(0, len(query_rows), self.block_rows):
            places = query_rows[start : start + self.block_rows]
            here = queries.short[queries.rows[places]].astype(np.float32)
            # `nonzero` of two dimensions takes twice as long as all else here.
            above = np.flatnonzero(here @ there > self.threshold - _ROUNDING)
            query, found = np.divmod(above, len(part))
            pairs = places[query], part[found]
            self._lower(queries, references, *pairs, ranks, best)

    def _lower(
        self,
        queries: _Rows,
        references: _Rows,
        query: np.ndarray,
        reference: np.ndarray,
        ranks: np.ndarray,
        best: np.ndarray,
    ) -> None:
        """Lowers `best` by pairs that may be near, sorted by query, then by rank."""
        while True:
            lower = ranks[reference] < best[query]
            query, reference = query[lower], reference[lower]
            if not len(query):
                return
            # The lowest rank of each query is compared first. The next ranks follow if
            # that one is not near.
            first = np.append(True, query[1:] != query[:-1])
            near = self._near(queries, query[first], references, reference[first])
            best[query[first][near]] = ranks[reference[first][near]]
            query, reference = query[~first], reference[~first]

    def _near(
        self,
        queries: _Rows,
        query: np.ndarray,
        references: _Rows,
        reference: np.ndarray,
    ) -> np.ndarray:
        """Returns the pairs with exact cosines above the threshold, bool (pairs,)."""
        near = np.empty(len(query), bool)
        for start in range(0, len(query), VERIFIED_PAIRS_PER_BLOCK):
            pairs = slice(start, start + VERIFIED_PAIRS_PER_BLOCK)
            first = queries.embeddings[queries.rows[query[pairs]]]
            second = references.embeddings[references.rows[reference[pairs]]]
            near[pairs] = _exact_cosines(first, second) > self.threshold
        return near


def _by_cluster(clusters: np.ndarray, count: int) -> list[np.ndarray]:
    """Returns each cluster's rows, ascending, of clusters (n, k) below `count`."""
    order = np.argsort(clusters, axis=None, kind="stable")
    ends = np.cumsum(np.bincount(clusters.ravel(), minlength=count))
    return np.split(order // clusters.shape[1], ends[:-1])


def _unit_rows(embeddings: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Reads rows and scales each to length 1, float32 (m, d); zeros stay zeros."""
    part = np.asarray(embeddings[rows], np.float32)
    length = np.linalg.norm(part, axis=1, keepdims=True)
    return part / np.where(length > 0, length, 1)


def _exact_cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Cosines of pairs of rows, in float64 and in an order that is always the same."""
    first, second = first.astype(np.float64), second.astype(np.float64)
    products = np.einsum("nd,nd->n", first, second)
    squares = np.einsum("nd,nd->n", first, first)
    lengths = np.sqrt(squares * np.einsum("nd,nd->n", second, second))
    return products / np.where(lengths > 0, lengths, 1)
