"""Search in an index: from the embedding of a query to the hits."""

from typing import Any, NamedTuple

import numpy as np

from align_keras.embedders import Embedder
from align_keras.search.index.image_store import ImageStore, ScannedRows
from align_keras.search.index.schema import path_of_image
from align_keras.search.query.hits import DetailsCache, Hit, ImageDetails, make_hit
from align_keras.search.query.merged_rows import merge_near_duplicates
from align_keras.search.query.query import Query
from align_keras.search.query.relevance import relevance
from align_keras.utils.errors import InputError


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

    def query(self, query: Query, model: Any) -> list[Hit]:
        """Returns the hits of a query. `model` returns the model of the index."""
        if not query.has_content:
            return self.latest(query.where, query.k)
        return self.search(self._embed(query, model()), query)

    def _embed(self, query: Query, model: Embedder) -> np.ndarray:
        """Returns the embedding of a query, float32 (d,)."""
        stored = [self._embed_image(image, model) for image in query.images]
        return query.encode(model, stored)

    def _embed_image(self, image: Any, model: Embedder) -> np.ndarray:
        if isinstance(image, int | np.integer):
            return self.embedding(int(image))
        # The import of the decoders takes as long as a query by words, which does not
        # need them.
        from align_keras.search.readers.photos import read_query_image

        pixels = read_query_image(image, model.resize_to)
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
        if embedding.shape != (self._store.dimension,):
            raise InputError(
                f"`query` must have shape ({self._store.dimension},) for this index. "
                f"Received: shape {embedding.shape}. Compute the embedding with the "
                "model of the index."
            )
        if not np.isfinite(embedding).all():
            raise InputError(
                "`query` must be finite. Received: NaN or infinity. Compute the "
                "embedding again."
            )
        return embedding
