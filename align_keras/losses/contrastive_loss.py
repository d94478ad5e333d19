"""Normalized-softmax contrastive loss of ALIGN."""

import math
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from align_keras.losses.cross_replica import gather_replicas, replica_count
from align_keras.losses.pair_loss import RowLoss
from align_keras.losses.tiled_loss import tiled_directional_losses
from align_keras.utils.arguments import check_choice, check_number, refuse_unknown
from align_keras.utils.errors import InputError


@keras.saving.register_keras_serializable(package="align_keras")
class ContrastiveLoss(RowLoss):
    """Contrastive loss of paired embeddings over the batch of all replicas.

    Under a `tf.distribute` strategy each replica passes its rows. The negatives are the
    rows of all replicas, and gradients flow through the gather. The value is the mean
    over this replica's rows. Divide it by the number of replicas before gradients are
    summed.

    Args:
        label_smoothing: float in [0, 1], the share of each target that is
            spread over all columns.
        reduction: `"sum"` (the paper) or `"mean"` (Hugging Face's port) of the
            image→text and the text→image loss.
        share_equal_captions: bool, treat pairs of a batch whose captions have equal
            token ids as each other's positives.
        negatives_fraction: float 1/k in (0, 1] with an integer k that divides n. The
            rows are divided into k equal parts, and a pair has only the negatives of
            its part. The paper doesn't state which 50% or 25% it uses.
        tile_size: None, `"auto"` or int ≥ 1. None is the plain form, which keeps the
            logits of all pairs several times. An int is the number of rows and columns
            of a tile. The tiled form keeps one tile, and computes the tiles again for
            the gradient. `"auto"` has tiles of 2048, and keeps all tiles up to 2²⁸
            logits a replica (a batch of 16,384 on one device, 1 GiB in float32), which
            is faster.
        matmul_dtype: None or `"bfloat16"`, dtype of the matrix products of the tiled
            form. At temperature 1/60 it changed the gradients of random embeddings by
            3% to 4% of their norm (batches of 8,192 and 4,096, width 640).

    Call arguments:
        image_embeddings: float tensor (n, d), unit length.
        text_embeddings: float tensor (n, d). Row i is the pair of image i.
        temperature: scalar float tensor > 0, divisor of the cosines.
        token_ids: int tensor (n, length) of the captions, or None.
        pair_groups: int tensor (n,) or None. Pairs of the same group are each other's
            positives, regardless of their captions.

    Returns:
        Scalar float tensor, differentiable in the embeddings and the temperature.

    Raises:
        InputError: if an argument is out of range or unknown.

    References:
        Jia et al. 2021, section 4.1 (the sum of equations 1 and 2), 5 (label
        smoothing 0.1) and table 8 (fraction of in-batch negatives).

    Example:

    >>> embeddings = tf.eye(4)
    >>> loss = ContrastiveLoss(label_smoothing=0.0)(embeddings, embeddings, 1.0)
    >>> round(float(loss), 4)  # 2 · (log(e + 3) - 1)
    1.4873
    """

    parts = ("loss_i2t", "loss_t2i")

    def __init__(
        self,
        label_smoothing: float = 0.1,
        reduction: str = "sum",
        share_equal_captions: bool = False,
        negatives_fraction: float = 1.0,
        tile_size: int | str | None = None,
        matmul_dtype: str | None = None,
        **kwargs: Any,
    ) -> None:
        refuse_unknown("ContrastiveLoss", kwargs, self.options())
        check_choice("reduction", reduction, ("sum", "mean"))
        check_number("label_smoothing", label_smoothing, 0, 1)
        if tile_size not in (None, "auto"):
            remedy = 'leave it out, or use "auto" for large batches'
            check_number("tile_size", tile_size, 1, math.inf, True, remedy)
        parts = 1.0 / negatives_fraction if 0.0 < negatives_fraction <= 1.0 else 0.5
        if abs(parts - round(parts)) > 1e-6:
            raise InputError(
                "negatives_fraction must be 1 divided by a whole number, received "
                f"{negatives_fraction}; use 1.0, 0.5 or 0.25, as the paper."
            )
        if matmul_dtype not in (None, "bfloat16" if tile_size else None):
            raise InputError(
                'matmul_dtype must be None, or "bfloat16" of the tiled form, received '
                f"{matmul_dtype!r} with tile_size {tile_size!r}; set tile_size to "
                '"auto", or leave it out.'
            )
        self.label_smoothing = label_smoothing
        self.reduction = reduction
        self.share_equal_captions = share_equal_captions
        self.negatives_fraction = negatives_fraction
        self.tile_size = tile_size
        self.matmul_dtype = matmul_dtype

    def total(self, loss_i2t: tf.Tensor, loss_t2i: tf.Tensor) -> tf.Tensor:
        """Returns the sum or the mean of both directions, by `reduction`."""
        total = loss_i2t + loss_t2i
        return total if self.reduction == "sum" else total / 2.0

    def row_losses(
        self,
        images: tf.Tensor,
        texts: tf.Tensor,
        temperature: tf.Tensor | float,
        pair_groups: tf.Tensor | None,
    ) -> tuple[tf.Tensor, ...]:
        if self.tile_size is not None and images.dtype.size < 4:
            images, texts = tf.cast(images, tf.float32), tf.cast(texts, tf.float32)
        # tf.cast would round a float to float32.
        if not tf.is_tensor(temperature):
            temperature = tf.constant(temperature, images.dtype)
        form: Callable = plain_directional_losses
        options: dict[str, Any] = {"label_smoothing": self.label_smoothing}
        if self.tile_size is not None:
            form = tiled_directional_losses
            options |= {"tile_size": self.tile_size, "matmul_dtype": self.matmul_dtype}
        scale = 1.0 / tf.cast(temperature, images.dtype)
        losses = [
            form(*rows, scale, pair_groups=groups, **options)
            for *rows, groups in self._parts_of_batch(images, texts, pair_groups)
        ]
        return tuple(
            tf.add_n(direction) / len(losses) for direction in zip(*losses, strict=True)
        )

    def _parts_of_batch(
        self, images: tf.Tensor, texts: tf.Tensor, pair_groups: tf.Tensor | None
    ) -> list[tuple[tf.Tensor, tf.Tensor, tf.Tensor | None]]:
        """Divides the rows into parts that have only their own negatives."""
        count = round(1.0 / self.negatives_fraction)
        if count == 1:
            return [(images, texts, pair_groups)]
        if images.shape[0] is not None and images.shape[0] % count:
            raise InputError(
                f"negatives_fraction must cut a replica's {images.shape[0]} rows into "
                f"equal parts, received {self.negatives_fraction}, which makes "
                f"{count}; change the batch size to a multiple of {count}."
            )

        def cut(tensor: tf.Tensor) -> list[tf.Tensor]:
            return tf.unstack(tf.reshape(tensor, [count, -1, *tensor.shape[1:]]), count)

        groups = [None] * count if pair_groups is None else cut(pair_groups)
        return list(zip(cut(images), cut(texts), groups, strict=True))


def contrastive_loss(
    image_embeddings: tf.Tensor,
    text_embeddings: tf.Tensor,
    temperature: tf.Tensor | float,
    *,
    pair_groups: tf.Tensor | None = None,
    **options: Any,
) -> tf.Tensor:
    """Computes `ContrastiveLoss(**options)` of these arguments, a scalar.

    >>> loss = contrastive_loss(tf.eye(4), tf.eye(4), 1.0, label_smoothing=0.0)
    >>> round(float(loss), 4)  # 2 · (log(e + 3) - 1)
    1.4873
    """
    loss = ContrastiveLoss(**options)
    return loss(image_embeddings, text_embeddings, temperature, pair_groups=pair_groups)


# === Plain form, with complete logits matrices: the reference ===


def plain_directional_losses(
    image_embeddings: tf.Tensor,
    text_embeddings: tf.Tensor,
    scale: tf.Tensor,
    *,
    label_smoothing: float,
    pair_groups: tf.Tensor | None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns `loss_i2t` and `loss_t2i`. `scale` is 1 / temperature."""
    all_images, offset = gather_replicas(image_embeddings)
    all_texts, _ = gather_replicas(text_embeddings)
    # Each row has probabilities: one-hot, or equal shares of the pairs of a group.
    if pair_groups is None:
        rows = tf.range(tf.shape(image_embeddings)[0]) + offset
        targets = tf.one_hot(rows, tf.shape(all_images)[0], dtype=all_images.dtype)
    else:
        same = tf.equal(pair_groups[:, None], gather_replicas(pair_groups)[0])
        same = tf.cast(same, all_images.dtype)
        targets = same / tf.reduce_sum(same, axis=1, keepdims=True)
    logits_i2t = tf.matmul(image_embeddings, all_texts, transpose_b=True) * scale
    if replica_count() == 1:
        logits_t2i = tf.transpose(logits_i2t)
    else:
        logits_t2i = tf.matmul(text_embeddings, all_images, transpose_b=True) * scale
    return (
        _direction_loss(logits_i2t, targets, label_smoothing),
        _direction_loss(logits_t2i, targets, label_smoothing),
    )


def _direction_loss(
    logits: tf.Tensor, targets: tf.Tensor, label_smoothing: float
) -> tf.Tensor:
    """Returns the mean cross-entropy of the rows and their smoothed targets."""
    log_normalizer = tf.reduce_logsumexp(logits, axis=1)
    positive = tf.reduce_sum(logits * targets, axis=1)
    # The mean logit is the smoothed part, so that no smoothed matrix is needed.
    smooth = tf.reduce_mean(logits, axis=1)
    expected = (1.0 - label_smoothing) * positive + label_smoothing * smooth
    return tf.reduce_mean(log_normalizer - expected)
