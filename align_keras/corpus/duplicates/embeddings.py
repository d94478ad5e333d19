"""Image embeddings and the search for near duplicates among them.

The search follows appendix A of the paper.
"""

import dataclasses
import hashlib
import itertools
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_path

# Defaults: number of k-means clusters, number of clusters that are searched for each
# image, and cosine above which two images are near. The first two values are from the
# paper.
CLUSTERS = 4096
NEAREST = 10
COSINE_THRESHOLD = 0.975
# Smallest average number of images in a cluster. Smaller clusters would save no time,
# so small corpora have fewer clusters.
_IMAGES_PER_CLUSTER = 64
# Number of images for each cluster from which k-means learns.
_SAMPLE_PER_CLUSTER = 32
# Number of principal axes for the fast comparison of embeddings.
_AXES = 31
# The projections are stored in float16, which changes a cosine by at most 2 ** -10. The
# fast comparison lowers its threshold by this larger value.
_ROUNDING = 2e-3
# Seed of k-means.
_SEED = 0
# Batch sizes, which limit the memory: images that are embedded together, rows that are
# assigned to clusters, rows that are compared with each other, rows that are compared
# with a cluster, and pairs that are compared exactly.
IMAGES_PER_BATCH = 64
ASSIGNED_ROWS_PER_BLOCK = 1 << 14
COMPARED_ROWS_PER_BLOCK = 2048
QUERY_ROWS_PER_BLOCK = 1 << 20
VERIFIED_PAIRS_PER_BLOCK = 4096


def write_embeddings(
    path: str | os.PathLike,
    images: Iterable,
    encode: Callable,
    count: int,
) -> np.ndarray:
    """Embeds images and writes the embeddings as float16 to a `.npy` file.

    Args:
        path: file to write.
        images: iterable of the inputs of `encode`.
        encode: callable from a list of images to an array (images, dimensions).
        count: number of images.

    Returns:
        Memory-mapped array (count, dimensions).

    Raises:
        InputError: If `encode` returns another shape, or numbers that are not finite in
            float16.
    """
    with atomic_path(path) as temporary:
        _fill(temporary, iter(images), encode, count)
    # An empty file can't be mapped.
    return np.load(path, mmap_mode="r" if count else None)


def _fill(
    path: pathlib.Path,
    images: Iterator[Any],
    encode: Callable[[list[Any]], Any],
    count: int,
) -> None:
    stored, done = None, 0
    while batch := list(itertools.islice(images, IMAGES_PER_BATCH)):
        with np.errstate(over="ignore"):
            rows = np.asarray(encode(batch)).astype(np.float16)
        if rows.ndim != 2 or len(rows) != len(batch) or not np.isfinite(rows).all():
            raise InputError(
                "encode must return one row per image, with finite numbers in "
                f"float16, as an array ({len(batch)}, dimensions). Received: shape "
                f"{rows.shape}, or numbers that are not finite. Pool the output of the "
                "encoder."
            )
        if stored is None:
            shape = (count, rows.shape[1])
            stored = np.lib.format.open_memmap(path, "w+", np.float16, shape)
        stored[done : done + len(rows)] = rows
        done += len(rows)
    if stored is None:
        with path.open("wb") as file:
            np.save(file, np.empty((0, 0), np.float16))
    else:
        stored.flush()


@dataclasses.dataclass(frozen=True)
class _PreparedRows:
    """Rows of embeddings with their clusters and projections.

    Indexing selects rows without copying the arrays.

    Attributes:
        embeddings: float array (n, d), all embeddings, possibly memory-mapped.
        clusters: unsigned array (n, nearest), the nearest clusters of each embedding.
        projections: float16 array (n, axes + 1), coordinates of the unit rows on the
            principal axes, and the length of the remainder.
        rows: int array, the selected rows.
    """

    embeddings: np.ndarray
    clusters: np.ndarray
    projections: np.ndarray
    rows: np.ndarray

    def __getitem__(self, indices: Any) -> "_PreparedRows":
        return dataclasses.replace(self, rows=self.rows[indices])


class EmbeddingSearch:
    """Search for near images by the cosine of their embeddings.

    Embeddings are grouped by k-means, and an image is compared with the images whose
    nearest cluster is one of its `nearest` clusters. The paper compares images that
    share three of their ten nearest of 4,096 clusters, which takes ten entries for each
    image instead of one. Both rules find all 316 pairs of 8,000 icons with a cosine
    above 0.975, and all 2,231 above 0.9 (embeddings of align_small_en).

    Small corpora have one cluster for each 64 images. If that gives fewer than four
    times `nearest` clusters, every image is compared with every other.

    A fast comparison rules out most pairs. It uses the projections of the unit rows on
    the principal axes of a sample, and the length of the remainder. The product of two
    such rows is an upper bound of the cosine (Cauchy–Schwarz inequality). The pairs
    that remain are compared exactly. The search needs about a hundred bytes for each
    image, 32 embeddings for each cluster, and 2,048 × 2,048 numbers.

    Args:
        clusters: number of clusters of a large corpus.
        nearest: number of clusters that are searched for each image.
        threshold: the cosine above which two images are near. A good value depends on
            the encoder.

    References:
        Jia et al. 2021, appendix A.
    """

    def __init__(
        self,
        clusters: int = CLUSTERS,
        nearest: int = NEAREST,
        threshold: float = COSINE_THRESHOLD,
    ) -> None:
        self.clusters = clusters
        self.nearest = nearest
        self.threshold = threshold
        self.centers: Any = None

    def fit(self, keys: Sequence[str], embeddings: np.ndarray) -> None:
        """Learns the cluster centers and principal axes from a sample of the images.

        The sample consists of the images whose keys have the lowest hashes, so that it
        doesn't depend on the order of the images.

        Args:
            keys: str of each image.
            embeddings: float array (n, d).
        """
        self.centers = None
        clusters = min(self.clusters, len(keys) // _IMAGES_PER_CLUSTER)
        encoded = (key.encode("utf-8", "surrogatepass") for key in keys)
        digests = [hashlib.blake2b(key, digest_size=8).digest() for key in encoded]
        order = np.argsort(np.frombuffer(b"".join(digests), "<u8"), kind="stable")
        sample = order[: max(clusters, _IMAGES_PER_CLUSTER) * _SAMPLE_PER_CLUSTER]
        unit = unit_rows(embeddings, sample)
        self.axes = np.linalg.eigh(unit.T @ unit)[1][:, -_AXES:]
        if clusters < min(4 * self.nearest, self.clusters):
            return
        # Only corpora that are large enough for clusters need faiss.
        import faiss

        means = faiss.Kmeans(
            embeddings.shape[1],
            clusters,
            niter=10,
            seed=_SEED,
            spherical=True,
            max_points_per_centroid=_SAMPLE_PER_CLUSTER,
            min_points_per_centroid=1,
        )
        means.train(unit)
        self.centers = means.index

    def prepare(self, embeddings: np.ndarray) -> _PreparedRows:
        """Computes the clusters and projections of embeddings (n, d)."""
        rows = np.arange(len(embeddings))
        nearest = 1 if self.centers is None else self.nearest
        clusters = np.zeros((len(rows), nearest), np.min_scalar_type(self.clusters))
        projections = np.empty((len(rows), self.axes.shape[1] + 1), np.float16)
        for start in range(0, len(rows), ASSIGNED_ROWS_PER_BLOCK):
            part = rows[start : start + ASSIGNED_ROWS_PER_BLOCK]
            unit = unit_rows(embeddings, part)
            coordinates = unit @ self.axes
            squared_length = np.square(unit).sum(axis=1)
            squared_remainder = squared_length - np.square(coordinates).sum(axis=1)
            projections[part, :-1] = coordinates
            projections[part, -1] = np.sqrt(np.maximum(squared_remainder, 0))
            if self.centers is not None:
                clusters[part] = self.centers.search(unit, nearest)[1]
        return _PreparedRows(embeddings, clusters, projections, rows)

    def lowest_ranks(
        self,
        queries: _PreparedRows,
        references: _PreparedRows,
        ranks: np.ndarray,
        upper_bounds: np.ndarray,
    ) -> np.ndarray:
        """Returns the lowest rank among the near references of each query.

        Args:
            queries: rows from `prepare`.
            references: rows from `prepare`.
            ranks: int64 array (references,).
            upper_bounds: int64 array (queries,), returned for queries without a near
                reference of a lower rank.

        Returns:
            int64 array (queries,).
        """
        best = upper_bounds.copy()
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
                for first in range(0, len(reference_rows), COMPARED_ROWS_PER_BLOCK):
                    part = reference_rows[first : first + COMPARED_ROWS_PER_BLOCK]
                    self._compare(
                        queries, start + query_rows, references, part, ranks, best
                    )
        return best

    def _compare(
        self,
        queries: _PreparedRows,
        query_rows: np.ndarray,
        references: _PreparedRows,
        part: np.ndarray,
        ranks: np.ndarray,
        best: np.ndarray,
    ) -> None:
        """Lowers the ranks in `best` by comparing `query_rows` with `part`."""
        # `part` holds rows of the references in ascending order of their ranks.
        # A query whose rank is below all ranks of the part is skipped.
        query_rows = query_rows[best[query_rows] > ranks[part[0]]]
        if not len(query_rows):
            return
        reference_projections = (
            references.projections[references.rows[part]].astype(np.float32).T
        )
        for start in range(0, len(query_rows), COMPARED_ROWS_PER_BLOCK):
            block = query_rows[start : start + COMPARED_ROWS_PER_BLOCK]
            query_projections = queries.projections[queries.rows[block]]
            bounds = query_projections.astype(np.float32) @ reference_projections
            # `nonzero` on two dimensions would take twice as long as this whole loop.
            candidates = np.flatnonzero(bounds > self.threshold - _ROUNDING)
            query, reference = np.divmod(candidates, len(part))
            pairs = block[query], part[reference]
            self._lower(queries, references, *pairs, ranks, best)

    def _lower(
        self,
        queries: _PreparedRows,
        references: _PreparedRows,
        query: np.ndarray,
        reference: np.ndarray,
        ranks: np.ndarray,
        best: np.ndarray,
    ) -> None:
        """Lowers the ranks in `best` by pairs that may be near."""
        # The pairs are sorted by query, then by the rank of the reference.
        while True:
            lower = ranks[reference] < best[query]
            query, reference = query[lower], reference[lower]
            if not len(query):
                return
            # Compares the reference of the lowest rank for each query. The next rank
            # follows only if that reference is not near.
            first = np.append(True, query[1:] != query[:-1])
            near = self._near(queries, query[first], references, reference[first])
            best[query[first][near]] = ranks[reference[first][near]]
            query, reference = query[~first], reference[~first]

    def _near(
        self,
        queries: _PreparedRows,
        query: np.ndarray,
        references: _PreparedRows,
        reference: np.ndarray,
    ) -> np.ndarray:
        """Returns a mask of the pairs whose exact cosine is above the threshold."""
        near = np.empty(len(query), bool)
        for start in range(0, len(query), VERIFIED_PAIRS_PER_BLOCK):
            pairs = slice(start, start + VERIFIED_PAIRS_PER_BLOCK)
            first = queries.embeddings[queries.rows[query[pairs]]]
            second = references.embeddings[references.rows[reference[pairs]]]
            near[pairs] = _exact_cosines(first, second) > self.threshold
        return near


def _by_cluster(clusters: np.ndarray, count: int) -> list[np.ndarray]:
    """Returns the rows of each cluster in ascending order."""
    order = np.argsort(clusters, axis=None, kind="stable")
    ends = np.cumsum(np.bincount(clusters.ravel(), minlength=count))
    return np.split(order // clusters.shape[1], ends[:-1])


def unit_rows(embeddings: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Reads rows and scales each to length 1, float32 (m, d). Zero rows stay zero."""
    part = np.asarray(embeddings[rows], np.float32)
    length = np.linalg.norm(part, axis=1, keepdims=True)
    return part / np.where(length > 0, length, 1)


def _exact_cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns the cosines of pairs of rows in float64."""
    # `einsum` adds the products in a fixed order, so that the result is deterministic.
    first, second = first.astype(np.float64), second.astype(np.float64)
    products = np.einsum("nd,nd->n", first, second)
    squares = np.einsum("nd,nd->n", first, first)
    lengths = np.sqrt(squares * np.einsum("nd,nd->n", second, second))
    return products / np.where(lengths > 0, lengths, 1)
