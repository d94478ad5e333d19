"""Sigmoid loss of SigLIP."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from align_keras.losses.cross_replica import gather_replicas
from align_keras.losses.loss_bounds import chance_sigmoid_loss, lowest_sigmoid_loss
from align_keras.losses.pair_loss import RowLoss
from align_keras.utils.arguments import refuse_unknown


@keras.saving.register_keras_serializable(package="align_keras")
class SigmoidLoss(RowLoss):
    """Binary cross-entropy of all combinations of an image and a caption.

    The loss classifies whether a caption belongs to an image, for all images and
    captions of all replicas. It is summed over the captions and averaged over the
    images. A replica computes the logits of its images only, and stores them several
    times. The call arguments are those of `ContrastiveLoss`. In the paper, the initial
    temperature is 0.1.

    Args:
        bias: float that is added to the logits. None uses -log(n) for n captions, which
            is about the logit of a random guess. In the paper, the bias is learned,
            with an initial value of -10.
        share_equal_captions: bool, treat all pairs of a batch whose captions have equal
            token ids as positives of each other.

    Returns:
        Scalar float tensor, differentiable in the embeddings and the temperature.

    Raises:
        InputError: if an argument is unknown or `token_ids` are missing.

    References:
        Zhai et al. 2023, "Sigmoid Loss for Language Image Pre-Training", section 3.2.

    Example:

    >>> loss = SigmoidLoss(bias=0.0)(tf.eye(2), tf.eye(2), 1.0)
    >>> round(float(loss), 4)  # log(1 + 1/e) + log(2)
    1.0064
    """

    def __init__(
        self,
        bias: float | None = None,
        share_equal_captions: bool = False,
        **kwargs: Any,
    ) -> None:
        refuse_unknown("SigmoidLoss", kwargs, self.options())
        self.bias = bias
        self.share_equal_captions = share_equal_captions

    def chance_loss(self, pairs: int) -> float | None:
        return chance_sigmoid_loss(pairs)

    def lowest_loss(self, groups: np.ndarray) -> float | None:
        return 0.0 if self.share_equal_captions else lowest_sigmoid_loss(groups)

    def row_losses(
        self,
        images: tf.Tensor,
        texts: tf.Tensor,
        temperature: tf.Tensor | float,
        pair_groups: tf.Tensor | None,
    ) -> tuple[tf.Tensor, ...]:
        texts, offset = gather_replicas(texts)
        scaled = images / tf.cast(temperature, images.dtype)
        logits = tf.matmul(scaled, texts, transpose_b=True)
        rows, columns = tf.unstack(tf.shape(logits))
        guess = -tf.math.log(tf.cast(columns, logits.dtype))
        logits += guess if self.bias is None else self.bias
        pairs = tf.range(rows) + offset
        captions = tf.range(columns)
        if pair_groups is not None:
            pairs = pair_groups
            captions, _ = gather_replicas(pair_groups)
        # softplus(-logit) is the loss of a matching pair, softplus(logit) that of a
        # pair that doesn't match.
        signed = tf.where(pairs[:, None] == captions, -logits, logits)
        return (tf.reduce_mean(tf.reduce_sum(tf.nn.softplus(signed), axis=1)),)
