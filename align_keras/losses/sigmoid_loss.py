"""Sigmoid loss of SigLIP."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from align_keras.config.loss_config import AUTO_TILE_SIZE
from align_keras.losses.cross_replica import gather_replicas
from align_keras.losses.pair_groups import matching_pairs
from align_keras.losses.pair_loss import RowLoss
from align_keras.losses.tiles import (
    LogitTiles,
    check_tile_size,
    has_few_logits,
    in_tiles,
    reduce_tiles,
    tile_gradients,
)
from align_keras.utils.arguments import refuse_unknown


@keras.saving.register_keras_serializable(package="align_keras")
class SigmoidLoss(RowLoss):
    """Binary cross-entropy of all combinations of an image and a caption.

    The loss classifies whether a caption belongs to an image, for all images and
    captions of all replicas. It is summed over the captions and averaged over the
    images. A replica computes the logits of its images only. The call arguments are
    those of `ContrastiveLoss`. In the paper, the initial temperature is 0.1.

    Args:
        bias: float that is added to the logits. None uses -log(n) for n captions, which
            is about the logit of a random guess. In the paper, the bias is learned,
            with an initial value of -10. A scalar tensor or variable is differentiated,
            but a loss with a tensor can't be saved.
        share_equal_captions: treat all pairs of a batch whose captions have equal
            token ids as positives of each other.
        share_equal_images: treat all pairs of a batch with equal `image_ids` as
            positives of each other.
        tile_size: `"auto"` or int ≥ 1, number of rows and columns of a tile. None
            computes all logits at once and stores them several times. Tiles are those
            of `ContrastiveLoss`.

    Returns:
        Scalar float tensor, differentiable in the embeddings and the temperature.

    Raises:
        InputError: if an argument is out of range or unknown.

    References:
        Zhai et al. 2023, "Sigmoid Loss for Language Image Pre-Training", section 3.2.

    Example:

    >>> loss = SigmoidLoss(bias=0.0)(tf.eye(2), tf.eye(2), 1.0)
    >>> round(float(loss), 4)  # log(1 + 1/e) + log(2)
    1.0064
    """

    def __init__(
        self,
        bias: float | tf.Tensor | None = None,
        share_equal_captions: bool = False,
        tile_size: int | str | None = None,
        share_equal_images: bool = False,
        **kwargs: Any,
    ) -> None:
        refuse_unknown("SigmoidLoss", kwargs, self.options())
        check_tile_size(tile_size)
        self.bias = bias
        self.share_equal_captions = share_equal_captions
        self.share_equal_images = share_equal_images
        self.tile_size = tile_size

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
        scale = 1.0 / tf.cast(temperature, images.dtype)
        texts, offset = gather_replicas(texts)
        bias = self._bias(tf.shape(texts)[0], images.dtype)
        if pair_groups is None:
            image_groups = tf.range(tf.shape(images)[0]) + offset
            text_groups = tf.range(tf.shape(texts)[0])
        else:
            image_groups = pair_groups
            text_groups, _ = gather_replicas(pair_groups)
        groups = (image_groups, text_groups)
        if self.tile_size is not None:
            return (_tiled_loss(images, texts, scale, bias, *groups, self.tile_size),)
        logits = tf.matmul(images * scale, texts, transpose_b=True) + bias
        signed = _signed_logits(logits, matching_pairs(*groups))
        return (tf.reduce_mean(tf.reduce_sum(tf.nn.softplus(signed), axis=1)),)

    def _bias(self, num_texts: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
        """Returns the bias, or its default for this number of captions."""
        if self.bias is None:
            return -tf.math.log(tf.cast(num_texts, dtype))
        if tf.is_tensor(self.bias):
            return tf.cast(self.bias, dtype)
        return tf.constant(self.bias, dtype)


def _signed_logits(logits: tf.Tensor, matches: tf.Tensor) -> tf.Tensor:
    """Returns logits whose softplus is the binary cross-entropy of their pairs."""
    return tf.where(matches, -logits, logits)


def _tiled_loss(
    images: tf.Tensor,
    all_texts: tf.Tensor,
    scale: tf.Tensor,
    bias: tf.Tensor,
    image_groups: tf.Tensor,
    text_groups: tf.Tensor,
    tile_size: int | str,
) -> tf.Tensor:
    """Returns the mean loss of the images of this replica, computed tile by tile."""
    is_auto = tile_size == "auto"

    @tf.custom_gradient
    def loss(
        images: tf.Tensor, all_texts: tf.Tensor, scale: tf.Tensor, bias: tf.Tensor
    ) -> tuple[tf.Tensor, Callable]:
        size = AUTO_TILE_SIZE if is_auto else int(tile_size)
        tiles = _CrossEntropyTiles(
            images, all_texts, scale, size, bias, image_groups, text_groups
        )
        save_tiles = is_auto and has_few_logits(images, all_texts)
        rows, columns, saved_products = reduce_tiles(tiles, save_tiles)

        def gradient(d_loss: tf.Tensor) -> tuple[tf.Tensor, ...]:
            # The gradient doesn't depend on the loss. Without an order, TensorFlow may
            # compute both at the same time, with the tiles of both in memory.
            with tf.control_dependencies([rows]):
                d_row = d_loss / tf.cast(tiles.num_rows, d_loss.dtype)
            d_embeddings_and_scale = tile_gradients(
                tiles,
                (rows, tf.ones_like(rows) * d_row),
                (columns, tf.zeros_like(columns)),
                saved_products,
                tf.zeros_like(images),
                tf.zeros_like(all_texts),
            )
            return *d_embeddings_and_scale, d_row * tf.reduce_sum(columns)

        return tf.reduce_mean(rows), gradient

    return loss(images, all_texts, scale, bias)


class _CrossEntropyTiles(LogitTiles):
    """Logits of tiles.

    The values of rows are the sums of their cross-entropies, and those of columns are
    the sums of the derivatives with respect to the logits, for the gradient of the
    bias.
    """

    def __init__(
        self,
        images: tf.Tensor,
        texts: tf.Tensor,
        scale: tf.Tensor,
        tile_size: int,
        bias: tf.Tensor,
        image_groups: tf.Tensor,
        text_groups: tf.Tensor,
    ) -> None:
        super().__init__(images, texts, scale, tile_size, images.dtype)
        self.bias = bias
        self.image_groups = in_tiles(image_groups, self.row_tiles)
        self.text_groups = in_tiles(text_groups, self.column_tiles)

    def reduce(
        self, product: tf.Tensor, row: tf.Tensor, column: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        signed, matches = self._signed(product, row, column)
        derivatives = _signed_logits(tf.nn.sigmoid(signed), matches)
        return (
            tf.reduce_sum(tf.nn.softplus(signed), axis=1),
            tf.reduce_sum(derivatives, axis=0),
        )

    def combine(self, values: tf.Tensor, axis: int) -> tf.Tensor:
        return tf.reduce_sum(values, axis=axis)

    def gradient(
        self,
        product: tf.Tensor,
        row: tf.Tensor,
        column: tf.Tensor,
        rows: tf.Tensor,
        d_rows: tf.Tensor,
        columns: tf.Tensor,
        d_columns: tf.Tensor,
    ) -> tf.Tensor:
        signed, matches = self._signed(product, row, column)
        return d_rows[:, None] * _signed_logits(tf.nn.sigmoid(signed), matches)

    def _signed(
        self, product: tf.Tensor, row: tf.Tensor, column: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the signed logits, -inf for padding, and the matches of a tile."""
        matches = matching_pairs(self.image_groups[row], self.text_groups[column])
        signed = _signed_logits(product + self.bias, matches)
        return self.logits(signed, row, column), matches
