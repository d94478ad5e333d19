"""Embeddings of teachers, which batches of images and captions look up by content."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from align_keras.losses.distillation_loss import TEACHER_INPUTS
from align_keras.utils.errors import InputError


class TeacherEmbeddings:
    """Embeddings of images and captions that one or several teachers computed once.

    `align_keras.teacher_embeddings` computes them. `image_text_batches` and
    `training_batches` add them to each batch. The embeddings of an image are those of
    the whole image as the teacher reads it, also if the student sees an augmented crop
    of it.

    The embeddings of several teachers are scaled and joined to one vector of unit
    length, so that its cosines are the weighted means of the cosines of the teachers.

    Args:
        image_hashes: int64 array (images,), `image_hash` of each image.
        image_embeddings: list with a float32 array (images, t) of each teacher. The
            arrays may be memory-mapped and have different widths.
        captions: sequence of str.
        caption_embeddings: list with a float32 array (captions, t) of each teacher, in
            the same order.
        weights: list with a float > 0 for each teacher, relative to the weights of the
            others. None weights all teachers equally.

    Attributes:
        dimension: int, width of the embeddings, the sum of those of all teachers.

    References:
        Hinton et al. 2015, section 3 (distilling an ensemble).

    Example:

    >>> hashes = np.array([7])
    >>> rows = [np.eye(1, 4), np.eye(1, 2)]
    >>> teachers = TeacherEmbeddings(hashes, rows, ["a"], rows)
    >>> batch = teachers.lookup(tf.constant(hashes), tf.constant(["a"]))
    >>> batch["teacher_text_embeddings"].shape
    TensorShape([1, 6])
    """

    def __init__(
        self,
        image_hashes: np.ndarray,
        image_embeddings: Sequence[np.ndarray],
        captions: Sequence[str],
        caption_embeddings: Sequence[np.ndarray],
        weights: Sequence[float] | None = None,
    ) -> None:
        self.dimension = sum(int(rows.shape[1]) for rows in image_embeddings)
        encoded = [caption.encode("utf-8", "surrogatepass") for caption in captions]
        caption_hashes = _caption_hashes(tf.constant(encoded, tf.string)).numpy()
        shares = np.ones(len(image_embeddings)) if weights is None else weights
        scales = np.sqrt(np.asarray(shares, np.float32) / np.sum(shares))
        self._images = _Rows("image", image_hashes, image_embeddings, scales)
        self._captions = _Rows("caption", caption_hashes, caption_embeddings, scales)

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
            with_image_ids: False to remove `image_ids`.
        """
        embeddings = self.lookup(inputs["image_ids"], captions)
        if with_image_ids:
            return {**inputs, **embeddings}
        return embeddings


class _Rows:
    """Rows of arrays that are selected by hashes.

    Args:
        kind: `"image"` or `"caption"`, for messages.
        hashes: int64 array (rows,).
        values: float arrays (rows, t).
        scales: float array, factor of each array.
    """

    def __init__(
        self,
        kind: str,
        hashes: np.ndarray,
        values: Sequence[np.ndarray],
        scales: np.ndarray,
    ) -> None:
        self._kind = kind
        self._values = values
        self._scales = scales
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
        numbers = self._row_numbers[positions]
        rows = [
            scale * values[numbers]
            for scale, values in zip(self._scales, self._values, strict=True)
        ]
        return np.concatenate(rows, axis=1, dtype=np.float32)


def _caption_hashes(captions: tf.Tensor) -> tf.Tensor:
    """Returns an int64 hash of each caption."""
    return tf.strings.to_hash_bucket_fast(captions, 2**63 - 1)
