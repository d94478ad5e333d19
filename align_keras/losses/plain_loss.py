"""Both directions' losses from whole logits matrices: the reference."""

import tensorflow as tf

from align_keras.losses.cross_replica import gather_replicas, replica_count


def plain_directional_losses(
    image_embeddings, text_embeddings, scale, *, label_smoothing, pair_groups
):
    """Returns `loss_i2t` and `loss_t2i`; `scale` is 1 / temperature."""
    rows = tf.shape(image_embeddings)[0]
    all_images, offset = gather_replicas(image_embeddings)
    all_texts, _ = gather_replicas(text_embeddings)
    all_groups = None if pair_groups is None else gather_replicas(pair_groups)[0]
    columns = tf.shape(all_images)[0]
    targets = _targets(
        pair_groups, all_groups, rows, columns, offset, image_embeddings.dtype
    )
    logits_i2t = tf.matmul(image_embeddings, all_texts, transpose_b=True) * scale
    if replica_count() == 1:
        logits_t2i = tf.transpose(logits_i2t)
    else:
        logits_t2i = tf.matmul(text_embeddings, all_images, transpose_b=True) * scale
    return (
        _direction_loss(logits_i2t, targets, label_smoothing),
        _direction_loss(logits_t2i, targets, label_smoothing),
    )


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
