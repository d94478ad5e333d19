"""Embedder whose embeddings are truncated to their first components."""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from align_keras.embedders.embedder import Embedder
from align_keras.utils.arguments import check_number
from align_keras.utils.truncation import truncate_embeddings

if TYPE_CHECKING:
    from align_keras.embedders.image_transforms import ImageTransform


class TruncatedEmbedder(Embedder):
    """Embedder that returns the first components of the embeddings of another one.

    The components are scaled to unit length. The embeddings of a model that was trained
    with `MatryoshkaLoss` lose little of their recall.

    Args:
        embedder: `Embedder`, whose embeddings are truncated.
        dimensions: in [1, `embedder.dimension`], number of components.

    Raises:
        InputError: if `dimensions` is out of range.

    References:
        Kusupati et al. 2022, "Matryoshka Representation Learning".
    """

    def __init__(self, embedder: Embedder, dimensions: int) -> None:
        self._embedder = embedder
        remedy = "Leave `dimensions` out for all components."
        check_number("dimensions", dimensions, 1, embedder.dimension, True, remedy)
        self.dimension = dimensions
        self.truncated_to = dimensions
        self.name = embedder.name
        self.runtime = embedder.runtime
        self.runtime_option = embedder.runtime_option
        self.in_memory = embedder.in_memory
        self.image_size = embedder.image_size
        self.resize_to = embedder.resize_to
        self.align = embedder.align
        self.text_weight = embedder.text_weight
        self.fingerprint = self._digest(embedder.fingerprint)
        self.image_fingerprint = self._digest(embedder.image_fingerprint)
        self.text_fingerprint = self._digest(embedder.text_fingerprint)

    @property
    def image_transform(self) -> "ImageTransform":
        return self._embedder.image_transform

    def encode_images(self, images: Sequence[Any]) -> np.ndarray:
        return self._truncate(self._embedder.encode_images(images))

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        return self._truncate(self._embedder.encode_texts(texts))

    def count_tokens(self, texts: Sequence[str]) -> int:
        return self._embedder.count_tokens(texts)

    def encode_resized(self, images: Sequence[np.ndarray]) -> np.ndarray:
        return self._truncate(self._embedder.encode_resized(images))

    def encode_words(self, words: Sequence[str]) -> np.ndarray:
        # These outputs are from before the projection, so they are not truncated.
        return self._embedder.encode_words(words)

    def _truncate(self, embeddings: np.ndarray) -> np.ndarray:
        return truncate_embeddings(embeddings, self.dimension)

    def _digest(self, fingerprint: str) -> str:
        text = f"{fingerprint} {self.dimension}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]
