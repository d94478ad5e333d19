"""Interface of every model that embeds images and texts."""

import abc
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from align_keras.models.composed_query import encode_query
from align_keras.utils.errors import InputError

if TYPE_CHECKING:
    from align_keras.models import ALIGN


class Embedder(abc.ABC):
    """Model that embeds images and texts, whatever computes the embeddings.

    `align_keras.load_model` returns one. Embeddings have unit length, so that the dot
    product of two of them is their cosine.

    Attributes:
        name: str, the name by which `load_model` opens the model again. A model in
            memory has the name of its `ALIGN`.
        runtime: str, what computes the embeddings, one of
            `align_keras.embedders.locations.RUNTIMES` except `"auto"`, or the path of a
            `.tflite` file.
        runtime_option: str, the `runtime` with which `load_model` opens the model
            again, `"auto"` where that is enough.
        in_memory: bool, True if no other process can open the model by its name.
        dimension: int, length of an embedding.
        image_size: int, side of the image tower's input in pixels.
        resize_to: int, side in pixels to which images are resized before the center is
            cropped.
        fingerprint: str, digest of the weights and the preprocessing. Indexes name
            their model by it.
        image_fingerprint: str, digest of all that image embeddings depend on. Caches
            of embeddings are keyed by it.
        text_fingerprint: str, the same of text embeddings.
        align: `ALIGN` that computes the embeddings, or None for exported models.
    """

    name: str
    runtime: str
    runtime_option: str = "auto"
    in_memory: bool = False
    dimension: int
    image_size: int
    resize_to: int
    fingerprint: str
    image_fingerprint: str
    text_fingerprint: str
    align: "ALIGN | None" = None

    @abc.abstractmethod
    def encode_images(self, images: Sequence[Any]) -> np.ndarray:
        """Embeds images.

        Args:
            images: sequence of paths, file contents as bytes, or uint8 arrays
                (height, width, 3).

        Returns:
            float32 array (n, d), rows of unit length.

        Raises:
            InputError: if an image cannot be read. The message names it.
        """

    @abc.abstractmethod
    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embeds texts: float32 array (n, d), rows of unit length.

        Raises:
            InputError: if `texts` is anything but a sequence of str.
        """

    @abc.abstractmethod
    def encode_resized(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Embeds images that have the size `resize_to`. Threads may call it at once.

        Args:
            images: sequence of uint8 arrays (resize_to, resize_to, 3).

        Returns:
            float32 array (n, d), rows of unit length.
        """

    def encode_words(self, words: Sequence[str]) -> np.ndarray:
        """Embeds words by BERT's [CLS] before the projection: float32 (n, hidden_dim).

        Raises:
            InputError: if the runtime is not Keras. Exports have no such output.
        """
        raise InputError(
            "model must be a Keras model to embed words before the projection. "
            f"Received: {self.name} with the runtime {self.runtime}. Name the run "
            "folder or the Hugging Face folder."
        )

    encode_query = encode_query

    def reference(self) -> dict[str, str]:
        """Returns what opens and verifies the same model in another process."""
        reference = {"name": self.name, "fingerprint": self.fingerprint}
        if self.runtime_option != "auto":
            reference["runtime"] = self.runtime_option
        return reference


def check_is_sequence(name: str, kinds: str, values: Any) -> None:
    """Raises if one image or one text stands where a sequence of them is needed."""
    if isinstance(values, str | bytes | os.PathLike):
        raise InputError(
            f"`{name}` must be a list of {kinds}. Received: one "
            f"{type(values).__name__}. Write [{name[:-1]}]."
        )


def check_texts(texts: Sequence[str]) -> None:
    """Raises unless all values are str."""
    check_is_sequence("texts", "str", texts)
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(
                f"`texts` must be a list of str. Received: {type(text).__name__} at "
                f"position {position}."
            )
