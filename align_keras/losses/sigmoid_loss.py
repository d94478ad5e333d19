"""Sigmoid loss of SigLIP."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from align_keras.losses.cross_replica import gather_replicas
from align_keras.losses.loss_bounds import (
    chance_sigmoid_loss,
    lowest_sigmoid_loss,
    lowest_sigmoid_loss_at,
)
from align_keras.losses.pair_groups import matching_pairs
from align_keras.losses.pair_loss import RowLoss
from align_keras.losses.tiled_sigmoid_loss import signed_logits, tiled_sigmoid_loss
from align_keras.losses.tiles import check_tile_size
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
        share_equal_captions: bool, treat all pairs of a batch whose captions have equal
            token ids as positives of each other.
        share_equal_images: bool, treat all pairs of a batch with equal `image_ids` as
            positives of each other.
        tile_size: None, `"auto"` or int ≥ 1, number of rows and columns of a tile. None
            computes all logits at once and stores them several times. With tiles, only
            one tile is in memory, and each tile is computed once. `"auto"` uses tiles
            of 2048.

    Returns:
        Scalar float tensor, differentiable in the embeddings and the temperature.

    Raises:
        InputError: if an argument is out of range or unknown, or `token_ids` or
            `image_ids` are missing.

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

    def chance_loss(self, pairs: int, groups: np.ndarray | None = None) -> float | None:
        if groups is not None:
            groups = self.shared_groups(groups)
        return chance_sigmoid_loss(pairs, groups, self.share_equal_captions)

    def lowest_loss(self, groups: np.ndarray) -> float | None:
        return lowest_sigmoid_loss(
            self.shared_groups(groups), self.share_equal_captions
        )

    def lowest_loss_at(self, temperature: float, pairs: int) -> float | None:
        bias = float(self._bias(tf.constant(pairs), tf.float32))
        return lowest_sigmoid_loss_at(pairs, temperature, bias)

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
        if self.tile_size is not None:
            total = tiled_sigmoid_loss(
                images, texts, scale, bias, image_groups, text_groups, self.tile_size
            )
            return (total,)
        logits = tf.matmul(images * scale, texts, transpose_b=True) + bias
        signed = signed_logits(logits, matching_pairs(image_groups, text_groups))
        return (tf.reduce_mean(tf.reduce_sum(tf.nn.softplus(signed), axis=1)),)

    def _bias(self, num_texts: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
        """Returns the bias, or its default for this number of captions."""
        if self.bias is None:
            return -tf.math.log(tf.cast(num_texts, dtype))
        if tf.is_tensor(self.bias):
            return tf.cast(self.bias, dtype)
        return tf.constant(self.bias, dtype)
