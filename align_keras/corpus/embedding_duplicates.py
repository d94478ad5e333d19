"""Which embeddings are near: the buckets of the paper's appendix A."""

import numpy as np

from align_keras.corpus.embedding_clusters import (
    PICTURES_PER_CLUSTER,
    learn_centres,
    nearest_clusters,
    one_thread,
    unit_rows,
)
from align_keras.corpus.placed_embeddings import PlacedEmbeddings
from align_keras.utils.errors import InputError

CLUSTERS = 4096
NEAREST = 10
TRIPLE = 3
THRESHOLD = 0.975
# Cosines of unit rows in float32 are good to about 1e-6; so close to the threshold
# they are computed again.
_UNCERTAIN = 1e-4
_FIRST_LEADERS, _LEADERS = 16, 1024
_VERIFIED_AT_ONCE = 4096
_ENTRIES_AT_ONCE = 1 << 22


class EmbeddingSearch:
    """Finds near pictures by the cosines of their embeddings.

    Each picture goes to its `nearest` clusters of k-means, and to a bucket for each
    `triple` of them: 120 buckets of the 10 nearest of 4,096 clusters. Pictures in the
    same bucket whose cosine is above `threshold` are near. Two pictures have a bucket
    in common if and only if they have `triple` clusters in common, so the buckets
    aren't stored: the pictures of each cluster are compared, and of near ones the
    common clusters are counted.

    Small corpora have fewer clusters, one for 64 pictures; with fewer than
    4 × `nearest` clusters (2,560 pictures by default) there are none, and all are
    compared with all.

    What is found depends on the encoder, and so must the threshold. With
    EfficientNet-Lite0's 320 features, `tools/bench_duplicates.py --start 5` finds of
    5,950 planted copies above 0.9, 0.95 and 0.975: all kinds 90, 75 and 56 %; with
    10 % cropped 90, 53 and 18 %, mirrored 100, 97 and 67 %, grey 57, 45 and 40 %. Of
    595 different pictures 60, 40 and 26 leave in error, mostly stars of many points.
    In so small a corpus, of 92 clusters, the buckets lose nothing against
    comparing all with all; with 4,096 it wasn't measured.

    Memory is some tens of bytes a picture, the sample that k-means learns from
    (32 embeddings a cluster) and blocks; embeddings are read where they lie.

    Args:
        clusters: int, the most clusters.
        nearest: int, the clusters of a picture.
        triple: int, the clusters of a bucket.
        threshold: float in (0, 1]; cosines must be above it.
        seed: int, of k-means.
        block_rows: int, how many embeddings are read at once; changes the memory,
            not the result.

    Raises:
        InputError: if an argument is out of range.

    References:
        Jia et al. 2021, appendix A.
    """

    # From so much work on `DividedSearch` takes several workers, which is about ten
    # seconds of one: queries × references, and pictures × clusters.
    divided_from, placed_from = 5 * 10**10, 5 * 10**8

    def __init__(
        self,
        clusters=CLUSTERS,
        nearest=NEAREST,
        triple=TRIPLE,
        threshold=THRESHOLD,
        seed=0,
        block_rows=4096,
    ):
        if not 1 <= triple <= nearest <= clusters:
            raise InputError(
                "a bucket's clusters, a picture's and all must ascend from 1, received "
                f"triple {triple!r}, nearest {nearest!r}, clusters {clusters!r}; the "
                f"paper's are {TRIPLE}, {NEAREST} and {CLUSTERS}."
            )
        if not 0 < threshold <= 1:
            raise InputError(
                "threshold must be a cosine above 0 and at most 1, received "
                f"{threshold!r}; the paper's is {THRESHOLD}."
            )
        if block_rows < 1:
            raise InputError(
                f"block_rows must be at least 1, received {block_rows!r}; leave it out."
            )
        self.clusters = clusters
        self.nearest = nearest
        self.triple = triple
        self.threshold = threshold
        self.seed = seed
        self.block_rows = block_rows
        self.centres = None

    def fit(self, keys, embeddings):
        """Learns the clusters' centres.

        Args:
            keys: sequence of str, the pictures' keys.
            embeddings: float array (n, d), may be memory-mapped.

        Raises:
            InputError: if the embeddings have another shape or type, hold NaN or
                infinity, or if scikit-learn is needed and isn't installed.
        """
        self.centres = None
        self._check(embeddings, "the corpus")
        clusters = min(self.clusters, len(keys) // PICTURES_PER_CLUSTER)
        if clusters >= min(4 * self.nearest, self.clusters):
            centres = learn_centres(embeddings, keys, clusters, self.seed)
            if len(centres) >= self.nearest:
                self.centres = centres

    def place(self, embeddings, where, start=0, stop=None):
        """Puts pictures into their clusters.

        Args:
            embeddings: float array (n, d), may be memory-mapped.
            where: str, whose embeddings they are, for the error.
            start: int, the first row to place; 0 by default.
            stop: int, the one behind the last; n by default.

        Returns:
            `PlacedEmbeddings`.

        Raises:
            InputError: if the embeddings have another shape or type than those of
                the corpus, or hold NaN or infinity.
        """
        rows = np.arange(start, len(embeddings) if stop is None else stop)
        part = embeddings[start:stop]
        self._check(part, where, start)
        if self.centres is None:  # One bucket holds all.
            clusters = np.arange(self.triple, dtype=np.uint16)
            clusters = np.broadcast_to(clusters, (len(rows), self.triple))
        else:
            if embeddings.shape[1] != self.centres.shape[1]:
                raise InputError(
                    f"the embeddings of {where} must have {self.centres.shape[1]} "
                    f"numbers as the corpus's, received {embeddings.shape[1]}; embed "
                    "all pictures by one encoder."
                )
            clusters = nearest_clusters(
                part, self.centres, self.nearest, self.block_rows
            )
        return PlacedEmbeddings(embeddings, rows, clusters)

    def placing_work(self, embeddings):
        """Returns what `place` has to do, pictures × clusters."""
        return 0 if self.centres is None else len(embeddings) * len(self.centres)

    def take(self, placed, rows):
        """Returns some of the placed pictures."""
        return PlacedEmbeddings(
            placed.embeddings, placed.rows[rows], placed.clusters[rows]
        )

    def lowest(self, queries, references, ranks, below):
        """Finds for each query the lowest rank among the references near to it.

        Args:
            queries: `PlacedEmbeddings` of n pictures.
            references: `PlacedEmbeddings` of m pictures.
            ranks: int64 array (m,).
            below: int64 array (n,), only lower ranks count.

        Returns:
            int64 array (n,); `below` where there is none.
        """
        best = below.copy()
        order = np.argsort(ranks, kind="stable")
        references, ranks = self.take(references, order), ranks[order]
        with one_thread():
            for rows, reference_rows in self._shared_clusters(queries, references):
                for start in range(0, len(rows), self.block_rows):
                    part = rows[start : start + self.block_rows]
                    self._compare(
                        queries, part, references, reference_rows, ranks, best
                    )
        return best

    def _shared_clusters(self, queries, references):
        """Yields (rows of queries, rows of references) for each cluster of both."""
        entries = max(queries.clusters.size, references.clusters.size)
        highest = max(int(own.clusters.max(initial=0)) for own in (queries, references))
        count = highest + 1
        step = max(1, min(count, count * _ENTRIES_AT_ONCE // max(1, entries)))
        for low in range(0, count, step):
            lists = [
                self._members(own.clusters, low, low + step)
                for own in (queries, references)
            ]
            for first, second in zip(*lists, strict=True):
                if len(first) and len(second):
                    yield first, second

    def _members(self, clusters, low, high):
        """Returns the ascending rows of the pictures in each cluster of a range."""
        # The lowest of `triple` common clusters is in neither picture's last places.
        clusters = clusters[:, : clusters.shape[1] - self.triple + 1]
        rows, places = np.nonzero((clusters >= low) & (clusters < high))
        own = clusters[rows, places]
        order = np.argsort(own, kind="stable")
        edges = np.searchsorted(own[order], np.arange(low + 1, high))
        return np.split(rows[order], edges)

    def _compare(self, queries, query_rows, references, reference_rows, ranks, best):
        """Compares the pictures of one cluster; references by ascending rank."""
        vectors = unit_rows(queries.embeddings, queries.rows[query_rows])
        start, size = 0, _FIRST_LEADERS
        while start < len(reference_rows):
            leaders = reference_rows[start : start + size]
            # Who has found a lower rank than all that follow is done.
            alive = np.flatnonzero(best[query_rows] > ranks[leaders[0]])
            if not len(alive):
                return
            cosines = (
                vectors[alive]
                @ unit_rows(references.embeddings, references.rows[leaders]).T
            )
            leader, query = np.nonzero(cosines.T > self.threshold - _UNCERTAIN)
            self._settle(
                (queries, query_rows[alive[query]]),
                (references, leaders[leader]),
                cosines[query, leader],
                (ranks, best),
            )
            start, size = start + size, min(2 * size, _LEADERS)

    def _settle(self, queries, references, cosines, ranks_and_best):
        """Checks pairs that may be near, those with low ranks first."""
        (queries, first), (references, second) = queries, references
        ranks, best = ranks_and_best
        for start in range(0, len(first), _VERIFIED_AT_ONCE):
            part = slice(start, start + _VERIFIED_AT_ONCE)
            open_ = np.flatnonzero(ranks[second[part]] < best[first[part]]) + start
            common = queries.clusters[first[open_], :, None]
            common = common == references.clusters[second[open_], None, :]
            open_ = open_[common.sum((1, 2)) >= self.triple]
            near = cosines[open_] > self.threshold
            close = np.abs(cosines[open_] - self.threshold) <= _UNCERTAIN
            exact = open_[close]
            near[close] = (
                _exact_cosines(
                    queries.embeddings[queries.rows[first[exact]]],
                    references.embeddings[references.rows[second[exact]]],
                )
                > self.threshold
            )
            np.minimum.at(best, first[open_[near]], ranks[second[open_[near]]])

    def _check(self, embeddings, where, first=0):
        if np.ndim(embeddings) != 2 or embeddings.dtype.kind != "f":
            raise InputError(
                f"the embeddings of {where} must be a float array (pictures, "
                f"dimensions), received {getattr(embeddings, 'dtype', None)} "
                f"{np.shape(embeddings)}; an encoder returns such an array."
            )
        for start in range(0, len(embeddings), self.block_rows):
            part = embeddings[start : start + self.block_rows]
            if not np.isfinite(part).all():
                row = first + start + int(np.argmin(np.isfinite(part).all(1)))
                raise InputError(
                    f"the embeddings of {where} must be finite, received NaN or "
                    f"infinity in row {row}; check the encoder."
                )


def _exact_cosines(first, second):
    """Cosines of pairs of rows, in float64 and in an order that is always the same."""
    first, second = first.astype(np.float64), second.astype(np.float64)
    products = np.einsum("nd,nd->n", first, second)
    squares = np.einsum("nd,nd->n", first, first)
    lengths = np.sqrt(squares * np.einsum("nd,nd->n", second, second))
    return products / np.where(lengths > 0, lengths, 1)
