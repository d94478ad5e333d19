"""Search in an index: from the embedding of a query to the hits.

Near-duplicates among the ranked rows are merged into the best row.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from align_keras.embedders.embedder import Embedder
from align_keras.search.index.folder_files import path_of_image
from align_keras.search.index.image_store import ImageStore, RankedRows, ScannedRows
from align_keras.search.query.hits import (
    DetailsCache,
    Hit,
    ImageDetails,
    make_hit,
    relevance,
)
from align_keras.search.query.query import Query
from align_keras.utils.errors import InputError

# Minimum cosine similarity of near-duplicates. With align_small_en and 80 JPEGs, the
# threshold detects 97% of the copies at 0.7 times the size, 91% at half the size, 76%
# with 2% cropped on each side, and 65% at JPEG quality 50. Among 962 stamp images it
# detects 24 pairs, which are mirrored or nearly the same.
NEAR_DUPLICATE_COSINE = 0.95
# Number of rows that are compared with each other at a time, and maximum number of
# similarities that are in memory at a time.
_ROWS_PER_PART = 64
SCORES_PER_PART = 1_000_000


class _RankedImage(NamedTuple):
    """Image in the result of a search, with the paths of its near-duplicates."""

    score: float
    details: ImageDetails
    copies: list[str]


class Searcher:
    """Searches of an index, which several threads may run at the same time."""

    def __init__(self, store: ImageStore) -> None:
        self._store = store
        self._details = DetailsCache(store)
        self._sample: tuple | None = None
        self._column_values: tuple | None = None

    def query(self, query: Query, model: Embedder) -> list[Hit]:
        """Returns the hits of a query with a text or an image."""
        stored = [self._embed_image(image, model) for image in query.images]
        return self.search(query.encode(model, stored), query)

    def _embed_image(self, image: Any, model: Embedder) -> np.ndarray:
        if isinstance(image, int | np.integer):
            return self.embedding(int(image))
        # The import of the decoders takes as long as a query by words, which does not
        # need them.
        from align_keras.search.readers.photos import read_query_image

        pixels = read_query_image(image, model.image_transform)
        embedding: np.ndarray = model.encode_resized([pixels])[0]
        return embedding

    def embedding(self, id: int) -> np.ndarray:
        """Returns the embedding of an image of the index, float32 (d,)."""
        return self._store.with_stable_rows(
            lambda: self._store.vector(self._store.image(id)["row"])
        )

    def search(
        self, embedding: np.ndarray, query: Query, scanned: ScannedRows | None = None
    ) -> list[Hit]:
        """Returns the hits for the embedding of a query, as `Index.search`."""
        embedding = self._check_embedding(embedding)
        images = self._store.with_stable_rows(
            lambda: self._find_images(embedding, query, scanned)
        )
        probabilities = self._probabilities(images, embedding, query, scanned)
        return [
            make_hit(image.details, rank, image.score, probability, image.copies)
            for rank, (image, probability) in enumerate(
                zip(images, probabilities, strict=True), start=1
            )
        ]

    def _find_images(
        self, embedding: np.ndarray, query: Query, scanned: ScannedRows | None
    ) -> list[_RankedImage]:
        """Returns the best images, after their embeddings were checked for damage."""
        store = self._store
        condition, parameters = store.condition(query.where)
        ranked = store.ranked(embedding, condition, parameters, query.k, scanned)
        keep_duplicates = query.duplicates
        if keep_duplicates is None:
            keep_duplicates = store.has_items
        results = merge_near_duplicates(ranked, query.k, keep_duplicates)
        rows = [result.row for result in results]
        store.check_rows(rows)
        details = self._details.of_rows(rows)
        copies = [row for result in results for row in result.copies]
        copied_images = store.images_of_rows(copies) if copies else {}
        return [
            _RankedImage(
                result.score,
                details[result.row],
                [
                    path_of_image(copied_images[row])
                    for row in result.copies
                    if row in copied_images
                ],
            )
            for result in results
            # Another process may have removed an image since `ranked` read it.
            if result.row in details
        ]

    def _probabilities(
        self,
        images: list[_RankedImage],
        embedding: np.ndarray,
        query: Query,
        scanned: ScannedRows | None,
    ) -> list[float] | list[None]:
        """Returns the `relevance` of each image."""
        if not query.has_relevance:
            return [None] * len(images)
        sample, count = self._get_sample()
        if scanned is None:
            sample_scores = sample @ embedding
        else:
            sample_scores = scanned.sample()
        scores = np.array([image.score for image in images])
        return relevance(scores, sample_scores, count)

    def _get_sample(self) -> tuple[np.ndarray, int]:
        """Returns embeddings of the index and its size, cached until it changes."""
        version = self._store.database.version
        if self._sample is None or self._sample[0] != version:
            sample = self._store.sample()
            if not len(sample):
                sample = np.zeros((1, self._store.dimension), np.float32)
            self._sample = version, sample, len(self._store)
        _, sample, count = self._sample
        return sample, count

    def latest(self, where: str | None, k: int) -> list[Hit]:
        """Returns the images that were indexed last, as `Index.latest`."""
        condition, parameters = self._store.condition(where)
        images = self._store.latest(condition, parameters, k)
        details_of_images = self._details.of_images(images)
        return [
            make_hit(details, rank)
            for rank, details in enumerate(details_of_images, start=1)
        ]

    def column_values(self) -> dict[str, list[dict[str, Any]]]:
        """Returns the values of the text columns with few values, as `count_values`.

        The values are cached until the index changes. In an index of a million images,
        counting takes about 0.3 seconds per column.
        """
        # A search from the command line does not need this import.
        from align_keras.search.query.column_values import count_values

        version = self._store.database.version
        if self._column_values is None or self._column_values[0] != version:
            self._column_values = version, count_values(self._store.tables)
        _, values = self._column_values
        return values

    def _check_embedding(self, embedding: np.ndarray) -> np.ndarray:
        embedding = np.ascontiguousarray(embedding, np.float32)
        is_finite = np.isfinite(embedding).all()
        if embedding.shape != (self._store.dimension,) or not is_finite:
            numbers = "finite numbers" if is_finite else "NaN or infinity"
            raise InputError(
                f"`query` must have {self._store.dimension} finite numbers for this "
                f"index. Received: shape {embedding.shape} with {numbers}. Compute "
                "the embedding with the model of the index."
            )
        return embedding


@dataclasses.dataclass(slots=True)
class RankedRow:
    """Row in the result of a search, with the rows of its near-duplicates."""

    score: float
    row: int
    copies: list[int] = dataclasses.field(default_factory=list)


def merge_near_duplicates(
    ranked: Iterable[RankedRows], k: int, keep_duplicates: bool
) -> list[RankedRow]:
    """Merges near-duplicates into the best image among them.

    Args:
        ranked: blocks of rows in descending order of the score.
        k: maximum number of results.
        keep_duplicates: True to return near-duplicates as separate results.

    Returns:
        The best rows. The copies are the near-duplicates that were merged into the row.
    """
    merged = _MergedRows(k)
    for block in ranked:
        if keep_duplicates:
            merged.append_all(block)
        else:
            merged.merge(block)
        if len(merged.results) >= k:
            break
    return merged.results


class _MergedRows:
    """Results of `merge_near_duplicates`, and their vectors."""

    def __init__(self, k: int) -> None:
        self.results: list[RankedRow] = []
        self._k = k
        # The size of the array is doubled when it is full.
        self._vectors = np.zeros((64, 0), np.float32)

    def append_all(self, block: RankedRows) -> None:
        """Adds the rows of a block to the results without merging them."""
        count = self._k - len(self.results)
        self.results += map(
            RankedRow, block.scores[:count].tolist(), block.rows[:count].tolist()
        )

    def merge(self, block: RankedRows) -> None:
        """Adds each row of a block to the results or to the copies of a result."""
        start = 0
        while start < len(block.rows):
            stop = start + _ROWS_PER_PART
            num_results = len(self.results)
            if num_results >= self._k:
                # No row becomes a result, so the rows are not compared with each other.
                stop = start + max(_ROWS_PER_PART, SCORES_PER_PART // num_results)
            self._merge_part(RankedRows(*(values[start:stop] for values in block)))
            start = stop

    def _merge_part(self, part: RankedRows) -> None:
        num_old = len(self.results)
        old_vectors = self._vectors[:num_old]
        if not num_old:
            old_vectors = part.vectors[:0]
        is_near_old: np.ndarray = part.vectors @ old_vectors.T >= NEAR_DUPLICATE_COSINE
        has_near = np.asarray(is_near_old.any(axis=1))
        is_near_part = None
        if num_old < self._k:
            is_near_part = part.vectors @ part.vectors.T >= NEAR_DUPLICATE_COSINE
            has_near = has_near | np.tril(is_near_part, -1).any(axis=1)
        rows, scores = part.rows.tolist(), part.scores.tolist()
        # Positions in the part that become results.
        added: list[int] = []
        for position, may_be_copy in enumerate(has_near.tolist()):
            if may_be_copy:
                is_near = is_near_old[position]
                if is_near_part is not None:
                    is_near = np.append(is_near, is_near_part[position, added])
                if is_near.any():
                    best = int(np.argmax(is_near))
                    self.results[best].copies.append(rows[position])
                    continue
            if len(self.results) < self._k:
                self.results.append(RankedRow(scores[position], rows[position]))
                added.append(position)
        self._append_vectors(num_old, part.vectors[added])

    def _append_vectors(self, start: int, vectors: np.ndarray) -> None:
        stop = start + len(vectors)
        if not start:
            self._vectors = np.zeros((len(self._vectors), vectors.shape[1]), np.float32)
        while stop > len(self._vectors):
            unused = np.zeros_like(self._vectors)
            self._vectors = np.concatenate([self._vectors, unused])
        self._vectors[start:stop] = vectors
