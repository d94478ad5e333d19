"""Loss of a student that learns from the embeddings of a teacher."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from align_keras.losses.contrastive_loss import ContrastiveLoss
from align_keras.losses.cross_replica import gather_replicas
from align_keras.losses.pair_loss import PairLoss, as_pair_loss, check_rows
from align_keras.utils.arguments import check_number
from align_keras.utils.errors import InputError

# Entries of a batch with the embeddings of the teacher, float (n, d).
TEACHER_INPUTS = ("teacher_image_embeddings", "teacher_text_embeddings")


@keras.saving.register_keras_serializable(package="align_keras")
class DistillationLoss(PairLoss):
    """Weighted sum of a contrastive loss and two losses of distillation.

    The embedding loss is the squared distance of each embedding to that of the teacher,
    2 - 2 · cosine, averaged over the images and over the captions and summed over both.
    It needs embeddings of the teacher's width.

    The similarity loss compares the cosines of all images and captions of the batch
    with those of the teacher. Both are divided by `temperature` and converted to
    probabilities of the captions for each image, and of the images for each caption.
    The loss is the Kullback-Leibler divergence from the teacher's probabilities,
    averaged over the rows and summed over both directions. The teacher may have
    embeddings of another width. The loss computes all logits at once.

    A part with a weight of 0 is not computed. Training reports the parts of `loss`,
    `loss_embedding` and `loss_similarity`, each without its weight.

    Args:
        loss: `PairLoss`, or a function of `(image_embeddings, text_embeddings,
            temperature)`. None uses `ContrastiveLoss`.
        embedding_weight: ≥ 0, weight of the embedding loss.
        similarity_weight: ≥ 0, weight of the similarity loss.
        contrastive_weight: ≥ 0, weight of `loss`.
        temperature: > 0, divisor of the cosines in the similarity loss. It is
            fixed and independent of the learned temperature.

    Call arguments:
        image_embeddings: float tensor (n, d), rows of unit length.
        text_embeddings: float tensor (n, d), rows of unit length. Row i is the caption
            of image i.
        temperature: as in `loss`.
        token_ids: as in `loss`.
        teacher_image_embeddings: float tensor (n, t), rows of unit length.
        teacher_text_embeddings: float tensor (n, t), rows of unit length.

    Returns:
        Scalar float tensor, differentiable in the embeddings and the temperature. The
        embeddings of the teacher are constants.

    Raises:
        InputError: if a weight or the temperature is out of range, or the widths of the
            embeddings differ with an `embedding_weight` above 0.

    References:
        Hinton et al. 2015, "Distilling the Knowledge in a Neural Network". Wu et al.
        2023, "TinyCLIP", section 3.1 (similarities of images and texts).

    Example:

    >>> loss = DistillationLoss(contrastive_weight=0.0)
    >>> loss.parts
    ('loss_embedding', 'loss_similarity')
    >>> student, teacher = tf.eye(4), tf.eye(4)
    >>> options = dict.fromkeys(TEACHER_INPUTS, teacher)
    >>> float(loss(student, student, 1.0, **options))
    0.0
    """

    def __init__(
        self,
        loss: PairLoss | Callable | None = None,
        embedding_weight: float = 1.0,
        similarity_weight: float = 1.0,
        contrastive_weight: float = 1.0,
        temperature: float = 0.05,
    ) -> None:
        for name, weight in (
            ("embedding_weight", embedding_weight),
            ("similarity_weight", similarity_weight),
            ("contrastive_weight", contrastive_weight),
        ):
            check_number(name, weight, 0, 1e6, remedy="Pass a weight such as 1.0.")
        check_number(
            "temperature", temperature, 1e-4, 1e4, remedy="Pass for example 0.05."
        )
        self.loss = ContrastiveLoss() if loss is None else as_pair_loss(loss)
        self.embedding_weight = embedding_weight
        self.similarity_weight = similarity_weight
        self.contrastive_weight = contrastive_weight
        self.temperature = temperature
        parts: list[str] = []
        if contrastive_weight:
            parts.extend(self.loss.parts)
        if embedding_weight:
            parts.append("loss_embedding")
        if similarity_weight:
            parts.append("loss_similarity")
        self.parts = tuple(parts)

    @property
    def required_inputs(self) -> tuple[str, ...]:
        if not self.contrastive_weight:
            return TEACHER_INPUTS
        return (*self.loss.required_inputs, *TEACHER_INPUTS)

    def total(self, *losses: tf.Tensor) -> tf.Tensor:
        """Returns the weighted sum of all parts."""
        by_part = dict(zip(self.parts, losses, strict=True))
        terms = []
        if self.similarity_weight:
            terms.append(self.similarity_weight * by_part.pop("loss_similarity"))
        if self.embedding_weight:
            terms.append(self.embedding_weight * by_part.pop("loss_embedding"))
        if self.contrastive_weight:
            terms.append(self.contrastive_weight * self.loss.total(*by_part.values()))
        return tf.add_n(terms)

    def replica_losses(
        self,
        image_embeddings: tf.Tensor,
        text_embeddings: tf.Tensor,
        temperature: tf.Tensor,
        token_ids: tf.Tensor | None = None,
        **inputs: Any,
    ) -> tuple[tf.Tensor, ...]:
        """Computes the parts of the loss of this replica.

        The `inputs` are the embeddings of the teacher and those that `loss` requires.
        """
        teacher_rows = [inputs.pop(name) for name in TEACHER_INPUTS]
        images = tf.convert_to_tensor(image_embeddings)
        texts = tf.convert_to_tensor(text_embeddings)
        check_rows("text_embeddings", images, texts)
        for name, rows in zip(TEACHER_INPUTS, teacher_rows, strict=True):
            check_rows(name, images, tf.convert_to_tensor(rows))
        losses: list[tf.Tensor] = []
        if self.contrastive_weight:
            losses.extend(
                self.loss.replica_losses(
                    images, texts, temperature, token_ids, **inputs
                )
            )
        dtype = tf.float32 if images.dtype.size < 4 else images.dtype
        images, texts = tf.cast(images, dtype), tf.cast(texts, dtype)
        teacher_images, teacher_texts = (tf.cast(rows, dtype) for rows in teacher_rows)
        if self.embedding_weight:
            losses.append(
                _embedding_loss(images, teacher_images)
                + _embedding_loss(texts, teacher_texts)
            )
        if self.similarity_weight:
            losses.append(
                self._similarity_loss(images, texts, teacher_images, teacher_texts)
                + self._similarity_loss(texts, images, teacher_texts, teacher_images)
            )
        return tuple(losses)

    def _similarity_loss(
        self,
        rows: tf.Tensor,
        columns: tf.Tensor,
        teacher_rows: tf.Tensor,
        teacher_columns: tf.Tensor,
    ) -> tf.Tensor:
        """Returns the mean divergence of this replica's rows over all columns."""
        log_student = self._log_probabilities(rows, columns)
        log_teacher = self._log_probabilities(teacher_rows, teacher_columns)
        terms = tf.exp(log_teacher) * (log_teacher - log_student)
        return tf.reduce_mean(tf.reduce_sum(terms, axis=1))

    def _log_probabilities(self, rows: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
        """Returns the logarithms of the probabilities of all columns for each row."""
        all_columns, _ = gather_replicas(columns)
        cosines = tf.matmul(rows, all_columns, transpose_b=True)
        return tf.nn.log_softmax(cosines / self.temperature, axis=1)

    def get_config(self) -> dict:
        return {
            "loss": keras.saving.serialize_keras_object(self.loss),
            "embedding_weight": self.embedding_weight,
            "similarity_weight": self.similarity_weight,
            "contrastive_weight": self.contrastive_weight,
            "temperature": self.temperature,
        }

    @classmethod
    def from_config(cls, config: dict) -> "DistillationLoss":
        loss = keras.saving.deserialize_keras_object(config["loss"])
        return cls(**{**config, "loss": loss})


def _embedding_loss(rows: tf.Tensor, teacher_rows: tf.Tensor) -> tf.Tensor:
    """Returns the mean squared distance of the rows to those of the teacher."""
    if rows.shape[-1] != teacher_rows.shape[-1]:
        raise InputError(
            "The embeddings must have the teacher's width if embedding_weight is above "
            f"0. Received: width {rows.shape[-1]}, and {teacher_rows.shape[-1]} for "
            "the teacher. Build the model with this projection_dim, or set "
            "embedding_weight to 0."
        )
    return tf.reduce_mean(tf.reduce_sum((rows - teacher_rows) ** 2, axis=1))
