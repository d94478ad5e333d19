"""The normalised-softmax contrastive loss of ALIGN."""

import tensorflow as tf

from align_keras.losses.cross_replica import gather_replicas
from align_keras.utils.errors import InputError


def _direction_loss(logits, targets, label_smoothing):
    """Mean cross-entropy of each row against its smoothed targets.

    With s the smoothing and n the columns, the target is (1 - s) · targets +
    s / n; the second term is s times the mean logit, so no smoothed matrix is
    ever built.
    """
    log_normaliser = tf.reduce_logsumexp(logits, axis=1)
    positive = tf.reduce_sum(logits * targets, axis=1)
    smooth = tf.reduce_mean(logits, axis=1)
    expected = (1.0 - label_smoothing) * positive + label_smoothing * smooth
    return tf.reduce_mean(log_normaliser - expected)


def _targets(row_groups, column_groups, rows, columns, offset, dtype):
    """Rows of probabilities: one-hot, or shared by the pairs of one group."""
    if row_groups is None:
        return tf.one_hot(tf.range(rows) + offset, columns, dtype=dtype)
    same = tf.cast(tf.equal(row_groups[:, None], column_groups[None, :]), dtype)
    return same / tf.reduce_sum(same, axis=1, keepdims=True)


def directional_losses(
    image_embeddings,
    text_embeddings,
    temperature,
    *,
    label_smoothing=0.1,
    pair_groups=None,
):
    """Returns the image→text and the text→image loss of this replica's rows.

    Args:
        image_embeddings: float tensor (n, d), unit length; this replica's.
        text_embeddings: float tensor (n, d), unit length, row by row the pair
            of `image_embeddings`.
        temperature: scalar float tensor > 0.
        label_smoothing: float in [0, 1].
        pair_groups: optional integer tensor (n,). Pairs of the same group,
            such as those with equal captions, are each other's positives.

    Returns:
        Two scalars, `loss_i2t` and `loss_t2i`: means over this replica's rows,
        against the columns of all replicas.
    """
    rows = tf.shape(image_embeddings)[0]
    all_images, offset = gather_replicas(image_embeddings)
    all_texts, _ = gather_replicas(text_embeddings)
    all_groups = None if pair_groups is None else gather_replicas(pair_groups)[0]
    columns = tf.shape(all_images)[0]
    targets = _targets(
        pair_groups, all_groups, rows, columns, offset, image_embeddings.dtype
    )
    if not tf.is_tensor(temperature):  # tf.cast would round a float to float32
        temperature = tf.constant(temperature, image_embeddings.dtype)
    scale = 1.0 / tf.cast(temperature, image_embeddings.dtype)
    logits_i2t = tf.matmul(image_embeddings, all_texts, transpose_b=True) * scale
    logits_t2i = tf.matmul(text_embeddings, all_images, transpose_b=True) * scale
    return (
        _direction_loss(logits_i2t, targets, label_smoothing),
        _direction_loss(logits_t2i, targets, label_smoothing),
    )


def check_loss_arguments(label_smoothing, reduction):
    """Raises `InputError` unless both arguments are in range."""
    if reduction not in ("sum", "mean"):
        raise InputError(
            f'reduction must be "sum" or "mean", received {reduction!r}; '
            'the paper sums both directions ("sum").'
        )
    if not 0.0 <= label_smoothing <= 1.0:
        raise InputError(
            f"label_smoothing must lie in [0, 1], received {label_smoothing}; "
            "the paper uses 0.1."
        )


def reduce_directions(loss_i2t, loss_t2i, reduction):
    """Returns the sum of both directions, or their mean."""
    total = loss_i2t + loss_t2i
    return total if reduction == "sum" else total / 2.0


def contrastive_loss(
    image_embeddings,
    text_embeddings,
    temperature,
    *,
    label_smoothing=0.1,
    reduction="sum",
    pair_groups=None,
):
    """Contrastive loss of paired embeddings over the batch of all replicas.

    Under a `tf.distribute` strategy each replica passes its own rows; the
    negatives are the rows of all replicas, and gradients flow through the
    gather. The value is the mean over this replica's rows: divide it by the
    number of replicas before the gradients are summed.

    Args:
        image_embeddings: float tensor (n, d), unit length.
        text_embeddings: float tensor (n, d), unit length, row by row the pair
            of `image_embeddings`.
        temperature: scalar float tensor > 0 that the cosines are divided by.
        label_smoothing: float in [0, 1], the share of each target that is
            spread over all columns.
        reduction: `"sum"` (the paper) or `"mean"` (Hugging Face's port) of the
            image→text and the text→image loss.
        pair_groups: optional integer tensor (n,); pairs of the same group are
            each other's positives.

    Returns:
        Scalar float tensor, differentiable in the first three arguments.

    Raises:
        InputError: if `reduction` or `label_smoothing` isn't as above.

    References:
        Jia et al. 2021, section 4.2 (the sum of equations 1 and 2) and 5.1
        (label smoothing 0.1).

    Example:

    >>> embeddings = tf.math.l2_normalize(tf.eye(4), axis=1)
    >>> loss = contrastive_loss(embeddings, embeddings, 1.0, label_smoothing=0.0)
    >>> round(float(loss), 4)  # 2 · (log(e + 3) - 1)
    1.4873
    """
    check_loss_arguments(label_smoothing, reduction)
    loss_i2t, loss_t2i = directional_losses(
        image_embeddings,
        text_embeddings,
        temperature,
        label_smoothing=label_smoothing,
        pair_groups=pair_groups,
    )
    return reduce_directions(loss_i2t, loss_t2i, reduction)
