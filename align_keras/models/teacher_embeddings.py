"""Embeddings of a teacher, which batches of images and captions look up by content."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from align_keras.losses.distillation_loss import TEACHER_INPUTS
from align_keras.utils.errors import InputError


class TeacherEmbeddings:
    """Embeddings of images and captions that a teacher computed once.

    `align_keras.teacher_embeddings` computes them. `image_text_batches` and
    `training_batches` add them to each batch. The embeddings of an image are those of
    the whole image as the teacher reads it, also if the student sees an augmented crop
    of it.

    Args:
        image_hashes: int64 array (images,), `image_hash` of each image.
        image_embeddings: float32 array (images, t), which may be memory-mapped.
        captions: sequence of str.
        caption_embeddings: float32 array (captions, t), which may be memory-mapped.

    Attributes:
        dimension: int, width of the embeddings.

    Example:

    >>> hashes = np.array([7])
    >>> teacher = TeacherEmbeddings(hashes, np.eye(1, 4), ["a"], np.eye(1, 4))
    >>> batch = teacher.lookup(tf.constant(hashes), tf.constant(["a"]))
    >>> batch["teacher_text_embeddings"].shape
    TensorShape([1, 4])
    """

    def __init__(
        self,
        image_hashes: np.ndarray,
        image_embeddings: np.ndarray,
        captions: Sequence[str],
        caption_embeddings: np.ndarray,
    ) -> None:
        self.dimension = int(image_embeddings.shape[1])
        encoded = [caption.encode("utf-8", "surrogatepass") for caption in captions]
        caption_hashes = _caption_hashes(tf.constant(encoded, tf.string)).numpy()
        self._images = _Rows("image", image_hashes, image_embeddings)
        self._captions = _Rows("caption", caption_hashes, caption_embeddings)

    def lookup(
        self, image_hashes: tf.Tensor, captions: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """Returns the embeddings of a batch, in a graph or eagerly.

        Args:
            image_hashes: int64 tensor (n,), `image_hash` of each image.
            captions: string tensor (n,).

        Returns:
            dict of `teacher_image_embeddings` and `teacher_text_embeddings`, float32
            (n, t).

        Raises:
            InputError: if the teacher has not embedded an image or a caption. In a
                `tf.data` pipeline it is a TensorFlow error with the same message.
        """
        hashes = (image_hashes, _caption_hashes(captions))
        embeddings: dict[str, tf.Tensor] = {}
        for name, rows, row_hashes in zip(
            TEACHER_INPUTS, (self._images, self._captions), hashes, strict=True
        ):
            if tf.executing_eagerly():
                values = tf.constant(rows.select(row_hashes.numpy()))
            else:
                values = tf.numpy_function(rows.select, [row_hashes], tf.float32)
            shape = (row_hashes.shape[0], self.dimension)
            embeddings[name] = tf.ensure_shape(values, shape)
        return embeddings

    def add_to(
        self, inputs: dict[str, tf.Tensor], captions: tf.Tensor, with_image_ids: bool
    ) -> dict[str, tf.Tensor]:
        """Returns the inputs of a batch with the embeddings of the teacher.

        Args:
            inputs: dict with `image_ids`, the `image_hash` of each image.
            captions: string tensor (n,).
            with_image_ids: bool, False to remove `image_ids`.
        """
        embeddings = self.lookup(inputs["image_ids"], captions)
        if with_image_ids:
            return {**inputs, **embeddings}
        return embeddings


class _Rows:
    """Rows of an array that are selected by hashes.

    Args:
        kind: `"image"` or `"caption"`, for messages.
        hashes: int64 array (rows,).
        values: float array (rows, t).
    """

    def __init__(self, kind: str, hashes: np.ndarray, values: np.ndarray) -> None:
        self._kind = kind
        self._values = values
        # Equal hashes belong to equal items, which have equal embeddings.
        self._hashes, self._row_numbers = np.unique(hashes, return_index=True)

    def select(self, hashes: np.ndarray) -> np.ndarray:
        """Returns the rows with these hashes, float32 (n, t)."""
        positions = np.searchsorted(self._hashes, hashes)
        positions = np.minimum(positions, len(self._hashes) - 1)
        missing = np.flatnonzero(self._hashes[positions] != hashes)
        if len(missing):
            raise InputError(
                f"The teacher must have embedded each {self._kind} of a batch. "
                f"Received: {len(missing)} of {len(hashes)} without an embedding. Pass "
                "the same images and captions to align_keras.teacher_embeddings."
            )
        rows = self._values[self._row_numbers[positions]]
        return np.ascontiguousarray(rows, np.float32)


def _caption_hashes(captions: tf.Tensor) -> tf.Tensor:
    """Returns an int64 hash of each caption."""
    return tf.strings.to_hash_bucket_fast(captions, 2**63 - 1)
