"""Normalized-softmax contrastive loss of ALIGN."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from align_keras.losses.cross_replica import gather_replicas, replica_count
from align_keras.losses.pair_groups import matching_pairs
from align_keras.losses.pair_loss import RowLoss
from align_keras.losses.tiled_loss import tiled_directional_losses
from align_keras.losses.tiles import check_tile_size
from align_keras.utils.arguments import check_choice, check_number, refuse_unknown
from align_keras.utils.errors import InputError


@keras.saving.register_keras_serializable(package="align_keras")
class ContrastiveLoss(RowLoss):
    """Contrastive loss of paired embeddings over the batch of all replicas.

    Under a `tf.distribute` strategy, each replica passes its rows. The negatives are
    the rows of all replicas, and gradients flow to all replicas. The loss is the mean
    over the rows of this replica. Divide it by the number of replicas before gradients
    are summed over replicas.

    Args:
        label_smoothing: in [0, 1], fraction of each target that is distributed
            over all columns.
        reduction: `"sum"` (the paper) or `"mean"` (the port of Hugging Face) of the
            image-to-text and the text-to-image loss.
        share_equal_captions: treat all pairs of a batch whose captions have equal
            token ids as positives of each other.
        share_equal_images: treat all pairs of a batch with equal `image_ids` as
            positives of each other, so that the captions of an image aren't negatives.
        negatives_fraction: float 1/k in (0, 1] with an integer k that divides n. The
            rows are divided into k equal parts, and the negatives of a pair are the
            rows of its part. The paper doesn't describe how it selects 50% or 25% of
            the negatives.
        tile_size: `"auto"` or int ≥ 1, number of rows and columns of a tile. None
            computes all logits at once and stores them several times. With tiles, only
            one tile is in memory, and the tiles are computed again for the gradient.
            `"auto"` uses tiles of 2048. It stores all tiles, which is faster, if a
            replica has at most 2²⁸ logits (a batch of 16,384 on one device, 1 GiB in
            float32).
        matmul_dtype: None or `"bfloat16"`, dtype of the matrix products with tiles. At
            temperature 1/60, bfloat16 changed the gradients of random embeddings by 3%
            to 4% of their norm (batches of 8,192 and 4,096, width 640).

    Call arguments:
        image_embeddings: float tensor (n, d), rows of unit length.
        text_embeddings: float tensor (n, d), rows of unit length. Row i is the caption
            of image i.
        temperature: scalar float tensor > 0, divisor of the cosines.
        token_ids: int tensor (n, length) of the captions, or None.
        pair_groups: int tensor (n,) or (n, 2), or None. Pairs that are equal in one of
            the columns are positives of each other, regardless of their captions.
        image_ids: int tensor (n,) of the images, or None. It is required by
            `share_equal_images`.

    Returns:
        Scalar float tensor, differentiable in the embeddings and the temperature.

    Raises:
        InputError: if an argument is out of range or unknown.

    References:
        Jia et al. 2021, sections 4.1 (sum of equations 1 and 2) and 5 (label smoothing
        0.1), and table 8 (fraction of in-batch negatives).

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
        share_equal_images: bool = False,
        **kwargs: Any,
    ) -> None:
        refuse_unknown("ContrastiveLoss", kwargs, self.options())
        check_choice("reduction", reduction, ("sum", "mean"))
        check_number("label_smoothing", label_smoothing, 0, 1)
        check_tile_size(tile_size)
        parts = 1.0 / negatives_fraction if 0.0 < negatives_fraction <= 1.0 else 0.5
        if abs(parts - round(parts)) > 1e-6:
            raise InputError(
                "negatives_fraction must be 1 divided by a whole number. Received: "
                f"negatives_fraction={negatives_fraction}. Use 1.0, 0.5 or 0.25, as in "
                "the paper."
            )
        if matmul_dtype not in (None, "bfloat16" if tile_size else None):
            raise InputError(
                'matmul_dtype must be None, or "bfloat16" together with a tile_size. '
                f"Received: matmul_dtype={matmul_dtype!r} and "
                f'tile_size={tile_size!r}. Set tile_size to "auto", or leave '
                "matmul_dtype out."
            )
        self.label_smoothing = label_smoothing
        self.reduction = reduction
        self.share_equal_captions = share_equal_captions
        self.share_equal_images = share_equal_images
        self.negatives_fraction = negatives_fraction
        self.tile_size = tile_size
        self.matmul_dtype = matmul_dtype

    def total(self, loss_i2t: tf.Tensor, loss_t2i: tf.Tensor) -> tf.Tensor:
        """Returns the sum or the mean of both losses, depending on `reduction`."""
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
        # `tf.cast` would round a Python float to float32.
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
        self,
        images: tf.Tensor,
        texts: tf.Tensor,
        pair_groups: tf.Tensor | None,
    ) -> list[tuple[tf.Tensor, tf.Tensor, tf.Tensor | None]]:
        """Divides the rows into parts. The negatives of a pair are in its part."""
        count = round(1.0 / self.negatives_fraction)
        if count == 1:
            return [(images, texts, pair_groups)]
        if images.shape[0] is not None and images.shape[0] % count:
            raise InputError(
                f"negatives_fraction must divide the {images.shape[0]} rows of a "
                "replica into equal parts. Received: "
                f"negatives_fraction={self.negatives_fraction}, for {count} parts. "
                f"Change the batch size to a multiple of {count}."
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
    """Returns the `ContrastiveLoss` of embeddings, a scalar tensor.

    Args:
        image_embeddings: as in `ContrastiveLoss`.
        text_embeddings: as in `ContrastiveLoss`.
        temperature: as in `ContrastiveLoss`.
        pair_groups: as in `ContrastiveLoss`.
        **options: arguments of the constructor of `ContrastiveLoss`.

    Example:

    >>> loss = contrastive_loss(tf.eye(4), tf.eye(4), 1.0, label_smoothing=0.0)
    >>> round(float(loss), 4)  # 2 · (log(e + 3) - 1)
    1.4873
    """
    loss = ContrastiveLoss(**options)
    return loss(image_embeddings, text_embeddings, temperature, pair_groups=pair_groups)


# === Plain form with complete logits matrices, the reference for the tiled form ===


def plain_directional_losses(
    image_embeddings: tf.Tensor,
    text_embeddings: tf.Tensor,
    scale: tf.Tensor,
    *,
    label_smoothing: float,
    pair_groups: tf.Tensor | None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the image-to-text and the text-to-image loss of this replica's rows.

    `scale` is 1 / temperature.
    """
    all_images, offset = gather_replicas(image_embeddings)
    all_texts, _ = gather_replicas(text_embeddings)
    # The targets of a row are probabilities. They are one-hot, or equal for all pairs
    # that have a group in common with the row.
    if pair_groups is None:
        rows = tf.range(tf.shape(image_embeddings)[0]) + offset
        targets = tf.one_hot(rows, tf.shape(all_images)[0], dtype=all_images.dtype)
    else:
        matches = matching_pairs(pair_groups, gather_replicas(pair_groups)[0])
        matches = tf.cast(matches, all_images.dtype)
        targets = matches / tf.reduce_sum(matches, axis=1, keepdims=True)
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
    """Returns the mean cross-entropy of the rows with smoothed targets."""
    log_normalizer = tf.reduce_logsumexp(logits, axis=1)
    positive = tf.reduce_sum(logits * targets, axis=1)
    # The uniform part of the targets contributes the mean logit, so no matrix of
    # smoothed targets is needed.
    smooth = tf.reduce_mean(logits, axis=1)
    expected = (1.0 - label_smoothing) * positive + label_smoothing * smooth
    return tf.reduce_mean(log_normalizer - expected)
