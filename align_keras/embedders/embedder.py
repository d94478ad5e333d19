"""Interface of all models that embed images and texts."""

import abc
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from align_keras.models.composed_query import encode_query
from align_keras.utils.arguments import check_is_sequence
from align_keras.utils.errors import InputError

if TYPE_CHECKING:
    from align_keras.embedders.image_transforms import ImageTransform
    from align_keras.embedders.label_thresholds import LabelThresholds
    from align_keras.models import ALIGN

# Weight of each text relative to an image for models without `search.json`. The paper
# uses 2 for its large models.
DEFAULT_TEXT_WEIGHT = 0.5
# Number of images that `encode_images` has in memory at a time.
_BATCH_SIZE = 64


class Embedder(abc.ABC):
    """Base class of models that embed images and texts with any runtime.

    `align_keras.load_model` returns an `Embedder`. Embeddings have unit length, so the
    dot product of two embeddings is their cosine similarity.

    Attributes:
        name: name with which `load_model` opens the model again. A model in memory has
            the name of its `ALIGN`.
        runtime: runtime that computes the embeddings. It is one of
            `align_keras.embedders.locations.RUNTIMES` except `"auto"`, or the path of a
            `.tflite` file.
        runtime_option: argument `runtime` with which `load_model` opens the model
            again, or `"auto"` if the argument can be omitted.
        in_memory: True if no other process can open the model by its name.
        dimension: length of an embedding.
        image_size: side of the input of the image tower in pixels.
        resize_to: side in pixels of the images that `encode_resized` takes.
        fingerprint: digest of the weights and the preprocessing. Indexes store it to
            identify their model.
        image_fingerprint: digest that changes whenever image embeddings may change. It
            is part of the keys of embedding caches.
        text_fingerprint: digest that changes whenever text embeddings may change.
        align: `ALIGN` that computes the embeddings, or None for exported models.
        truncated_to: argument `dimensions` with which `load_model` opens the model
            again, or None for complete embeddings.
        text_weight: default weight of each text relative to an image, which has weight
            1, in a query of both.
        label_threshold: default cosine similarity at which an image gets a label, or
            None if it is unknown.

    Example:

    >>> import align_keras
    >>> model = align_keras.load_model("align_small_en")
    >>> model.encode_texts(["a dog", "a cat"]).shape
    (2, 384)
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
    truncated_to: int | None = None
    text_weight: float = DEFAULT_TEXT_WEIGHT
    label_threshold: float | None = None

    @property
    def image_transform(self) -> "ImageTransform":
        """Function from an image of any size to the pixels of `encode_resized`."""
        # Text queries are faster without this import.
        from align_keras.embedders.image_transforms import ResizeSquare

        return ResizeSquare(self.resize_to)

    def encode_images(self, images: Sequence[Any]) -> np.ndarray:
        """Embeds images.

        Args:
            images: sequence of paths, file contents as bytes, or uint8 arrays
                (height, width, 3).

        Returns:
            float32 array (n, d) with rows of unit length.

        Raises:
            InputError: if an image cannot be read. The message names the image.
        """
        # Text queries are faster without this import.
        import concurrent.futures

        check_is_sequence("images", "paths, bytes or arrays", images)
        rows = [np.zeros((0, self.dimension), np.float32)]
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            for start in range(0, len(images), _BATCH_SIZE):
                batch = images[start : start + _BATCH_SIZE]
                rows += pool.map(self._encode_image, batch)
        return np.concatenate(rows)

    def _encode_image(self, image: Any) -> np.ndarray:
        from align_keras.embedders.pixels import transformed_pixels

        pixels = transformed_pixels(image, self.image_transform)
        return self.encode_resized([pixels])

    @abc.abstractmethod
    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embeds texts.

        Args:
            texts: sequence of str.

        Returns:
            float32 array (n, d) with rows of unit length.

        Raises:
            InputError: if `texts` is not a sequence of str.
        """

    def count_tokens(self, texts: Sequence[str]) -> int:
        """Returns the number of tokens that `encode_texts` reads.

        Each text includes the tokens `[CLS]` and `[SEP]`, and is cut to the sequence
        length of the model. The result is 0 if the runtime does not return tokens.
        """
        return 0

    @abc.abstractmethod
    def encode_resized(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Embeds images that `image_transform` returned.

        Several threads may call this method in parallel.

        Args:
            images: sequence of uint8 arrays (resize_to, resize_to, 3).

        Returns:
            float32 array (n, d) with rows of unit length.
        """

    def encode_words(self, words: Sequence[str]) -> np.ndarray:
        """Embeds words as outputs of the text encoder before the projection.

        Args:
            words: sequence of str.

        Returns:
            float32 array (n, hidden_dim), BERT's output for the token [CLS].

        Raises:
            InputError: if the runtime is not Keras. Exports do not have this output.
        """
        raise InputError(
            "`model` must be a Keras model to embed words before the projection. "
            f"Received: {self.name} with the runtime {self.runtime}. Use the folder of "
            "the run or of the Hugging Face model."
        )

    encode_query = encode_query

    def classify(
        self,
        images: Sequence[Any],
        class_names: Sequence[str],
        thresholds: "LabelThresholds | float | None" = None,
    ) -> list[list[str]]:
        """Chooses the labels of images by their similarity (zero-shot).

        Args:
            images: as in `encode_images`.
            class_names: the labels.
            thresholds: `LabelThresholds`, or float, the minimum cosine similarity of an
                image and a label. The default is `label_threshold`.

        Returns:
            list with a list of labels for each image, in descending order of the
            similarity. It is empty if none of the labels fits.

        Raises:
            InputError: if there is no label, a label is blank or repeated, or there is
                no threshold for this model.

        Example:

        >>> import align_keras
        >>> model = align_keras.load_model("align_small_en")
        >>> red = np.full((32, 32, 3), [255, 0, 0], np.uint8)
        >>> model.classify([red], ["a red square", "a cat"], thresholds=0.1)
        [['a red square']]
        """
        from align_keras.embedders.label_thresholds import check_labels

        labels = check_labels(class_names)
        chosen = self.label_thresholds(thresholds)
        scores = self.encode_images(images) @ self.encode_texts(labels).T
        return chosen.choose(scores, labels)

    def label_thresholds(
        self, thresholds: "LabelThresholds | float | None" = None
    ) -> "LabelThresholds":
        """Returns the thresholds that `classify` uses.

        Args:
            thresholds: as in `classify`.

        Raises:
            InputError: if the thresholds belong to another model, or the model has no
                default threshold.
        """
        # A search does not need this import.
        from align_keras.embedders.label_thresholds import LabelThresholds

        if thresholds is None:
            if self.label_threshold is None:
                raise InputError(
                    f"`thresholds` must be set for the model {self.name}, which has no "
                    "default threshold. Received: no thresholds. Pass a number, or "
                    "calibrate them with `align-keras tag --calibrate`."
                )
            return LabelThresholds(self.label_threshold)
        if not isinstance(thresholds, LabelThresholds):
            return LabelThresholds(thresholds)
        if thresholds.model not in ("", self.fingerprint):
            raise InputError(
                f"`thresholds` must be calibrated with the model {self.name} "
                f"({self.fingerprint}). Received: thresholds of another model "
                f"({thresholds.model}). Calibrate again."
            )
        return thresholds

    def reference(self) -> dict[str, Any]:
        """Returns the name, fingerprint and options of the model.

        Another process can open the model with these values and verify that it is the
        same model.
        """
        reference: dict[str, Any] = {
            "name": self.name,
            "fingerprint": self.fingerprint,
        }
        if self.runtime_option != "auto":
            reference["runtime"] = self.runtime_option
        if self.truncated_to is not None:
            reference["dimensions"] = self.truncated_to
        return reference
