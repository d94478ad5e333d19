"""Embedder of a Keras model."""

import hashlib
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from align_keras.embedders.embedder import Embedder
from align_keras.models import ALIGN
from align_keras.utils.errors import InputError


class KerasEmbedder(Embedder):
    """Embedder of an `ALIGN`. Another runtime may embed its images.

    Args:
        name: name that opens the model again, or None for a model in memory.
        runtime: runtime that embeds the images.
        runtime_key: part of the image fingerprint that is different for each runtime.
        image_tower: function from RGB images, float array (n, S, S, 3) in [0, 255], to
            embeddings, float32 array (n, d), or None for Keras.
    """

    align: ALIGN

    def __init__(
        self,
        align: ALIGN,
        name: str | None = None,
        runtime: str = "keras",
        runtime_key: str = "keras",
        image_tower: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> None:
        from align_keras.images import crop_size_to_resize_size

        self.align = align
        self.name = align.name if name is None else name
        self.in_memory = name is None
        self.runtime = runtime
        self.image_size = align.image_size
        self.resize_to = crop_size_to_resize_size(align.image_size)
        self.dimension = int(align.image_encoder.output_shape[-1])
        self._image_tower = image_tower
        self._image_digest = align.image_encoder.fingerprint()
        text_digest = align.text_encoder.fingerprint()
        digests = self._image_digest + text_digest + runtime_key
        self.fingerprint = hashlib.sha256(digests.encode()).hexdigest()[:16]
        self.image_fingerprint = image_fingerprint(self._image_digest, runtime_key)
        self.text_fingerprint = text_fingerprint(text_digest, align)
        # TensorFlow uses all cores for a call, so parallel calls would not be faster.
        self._lock = threading.Lock()

    def encode_images(self, images: Sequence[Any]) -> np.ndarray:
        from align_keras.models.embedding import embed_images

        with self._lock:
            if self._image_tower is None:
                return self.align.encode_images(images)
            return embed_images(
                images,
                self.image_tower(),
                self.align.require_preprocessor().image_converter,
                self.dimension,
            )

    def image_tower(self) -> Callable[[np.ndarray], np.ndarray]:
        """Returns the function that embeds preprocessed images.

        Returns:
            Function from RGB images, float array (n, S, S, 3) in [0, 255] with
            S = `image_size`, to float32 array (n, d) with rows of unit length.

        Raises:
            InputError: if the model was trained after its tower was converted.
        """
        from align_keras.models.inference import image_function

        if self._image_tower is None:
            return image_function(self.align)
        if self.in_memory and (
            self.align.image_encoder.fingerprint() != self._image_digest
        ):
            raise InputError(
                f"The image tower for runtime={self.runtime!r} must have the weights "
                "of its model, which was trained after load_model. Call load_model "
                "again."
            )
        return self._image_tower

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        with self._lock:
            return self.align.encode_texts(texts)

    def count_tokens(self, texts: Sequence[str]) -> int:
        from align_keras.models.embedding import count_tokens

        return count_tokens(texts, self.align.require_preprocessor())

    def encode_resized(self, images: Sequence[np.ndarray]) -> np.ndarray:
        return self.encode_images(images)

    def encode_words(self, words: Sequence[str]) -> np.ndarray:
        with self._lock:
            return self.align.encode_words(words)


def image_fingerprint(encoder_digest: str, runtime_key: str) -> str:
    """Returns a digest that changes whenever image embeddings may change.

    Args:
        encoder_digest: `image_encoder.fingerprint()`.
        runtime_key: part of the digest that is different for each runtime.
    """
    from align_keras.images.preprocess import PREPROCESSING_VERSION

    return _joint_digest(encoder_digest, [runtime_key, str(PREPROCESSING_VERSION)])


def text_fingerprint(encoder_digest: str, align: ALIGN) -> str:
    """Returns a digest that changes whenever text embeddings may change.

    Args:
        encoder_digest: `text_encoder.fingerprint()`.
        align: `ALIGN`. Its vocabulary and normalization are part of the digest.
    """
    from align_keras.text.wordpiece_tokenizer import TOKENIZATION_VERSION

    vocabulary = align.vocabulary or ()
    parts = [align.normalization, str(TOKENIZATION_VERSION), *vocabulary]
    return _joint_digest(encoder_digest, parts)


def _joint_digest(encoder_digest: str, parts: Sequence[str]) -> str:
    """Returns a digest of the digest of an encoder and of a list of str."""
    digest = hashlib.sha256(encoder_digest.encode())
    for part in parts:
        digest.update(hashlib.sha256(part.encode("utf-8", "surrogatepass")).digest())
    return digest.hexdigest()[:16]
