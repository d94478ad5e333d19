"""SigLIP's loss: each pair of an image and a caption is judged by itself."""

import keras
import tensorflow as tf

from align_keras.losses.cross_replica import gather_replicas
from align_keras.losses.pair_loss import RowLoss
from align_keras.utils.arguments import refuse_unknown


@keras.saving.register_keras_serializable(package="align_keras")
class SigmoidLoss(RowLoss):
    """Cross-entropy of "is this its caption?" over all pairs of all replicas.

    The sum over a row's n captions, averaged over the n rows. A replica has its rows
    of the logits only, and holds them several times over.

    Args:
        bias: float that is added to the logits, or None for -log(n) of the n captions
            of all replicas, about the logit of a guess. The paper learns it, from -10.
        share_equal_captions: bool; images of a batch whose captions are equal, by their
            token ids, match each other's too.

    Call arguments are `ContrastiveLoss`'s; the paper's temperature starts at 0.1.

    Returns:
        Scalar float tensor, differentiable in the embeddings and the temperature.

    Raises:
        InputError: if there is no such argument, or `token_ids` are missing.

    References:
        Zhai et al. 2023, "Sigmoid Loss for Language Image Pre-Training", section 3.2.

    Example:

    >>> loss = SigmoidLoss(bias=0.0)(tf.eye(2), tf.eye(2), 1.0)
    >>> round(float(loss), 4)  # log(1 + 1/e) + log(2)
    1.0064
    """

    def __init__(
        self, bias: float | None = None, share_equal_captions: bool = False, **kwargs
    ):
        refuse_unknown("SigmoidLoss", kwargs, self.options())
        self.bias = bias
        self.share_equal_captions = share_equal_captions

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
        pairs, captions = tf.range(rows) + offset, tf.range(columns)
        if pair_groups is not None:
            pairs, (captions, _) = pair_groups, gather_replicas(pair_groups)
        # The logarithm of the probability of being wrong; of a match, of no match.
        wrong = tf.where(pairs[:, None] == captions, -logits, logits)
        return (tf.reduce_mean(tf.reduce_sum(tf.nn.softplus(wrong), axis=1)),)
