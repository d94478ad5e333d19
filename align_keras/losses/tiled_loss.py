"""Both directions' losses, exact, without the logits matrix."""

import tensorflow as tf

from align_keras.losses.cross_replica import gather_replicas, replica_count
from align_keras.losses.logit_tiles import normalisers, row_dots

AUTO_TILE_SIZE = 2048
# "auto" keeps the tiles for the gradient up to here: 1 GiB of float32. It saves
# the fourth matrix product, without which the plain form would be faster.
_AUTO_KEPT_LOGITS = 2**28


def tiled_directional_losses(
    image_embeddings,
    text_embeddings,
    scale,
    *,
    label_smoothing,
    pair_groups,
    tile_size,
    matmul_dtype,
):
    """As `plain_directional_losses`, from tiles of at most `tile_size`².

    Only the texts are gathered: each replica has its own rows of the logits,
    and the replicas' normalisers of the columns are put together. With
    `pair_groups` the images are gathered too.
    """
    images, texts = image_embeddings, text_embeddings
    all_texts, offset = gather_replicas(texts)
    rows, columns, positive, mean_image, mean_text = _pair_sums(
        images,
        all_texts,
        scale,
        offset,
        tile_size=AUTO_TILE_SIZE if tile_size == "auto" else tile_size,
        keep_tiles=tile_size == "auto" and _worth_keeping(images, all_texts),
        matmul_dtype=matmul_dtype or images.dtype,
    )
    if replica_count() > 1:
        columns = tf.reduce_logsumexp(gather_replicas(columns[None])[0], axis=0)
        columns = columns[offset : offset + tf.shape(texts)[0]]
    positives = [positive, positive]
    if pair_groups is not None:
        all_groups, _ = gather_replicas(pair_groups)
        all_images, _ = gather_replicas(images)
        image_positives = _group_means(all_texts, all_groups, pair_groups, offset)
        text_positives = _group_means(all_images, all_groups, pair_groups, offset)
        positives = [
            _mean_dot(images, image_positives),
            _mean_dot(texts, text_positives),
        ]
    # The mean of a row's cosines is its dot product with the mean column: no target
    # matrix is built.
    smooth = [
        tf.reduce_sum(mean_image * _over_replicas(mean_text)),
        tf.reduce_sum(mean_text * _over_replicas(mean_image)),
    ]
    expected_i2t, expected_t2i = (
        (1.0 - label_smoothing) * own + label_smoothing * every
        for own, every in zip(positives, smooth, strict=True)
    )
    return (
        tf.reduce_mean(rows) - scale * expected_i2t,
        tf.reduce_mean(columns) - scale * expected_t2i,
    )


def _pair_sums(images, all_texts, scale, offset, **tiling):
    """Normalisers, mean cosine of the own pairs, mean image and mean own text.

    One function, so that the gradients are added up in one array for the images and
    one for the texts: left to themselves, six would lie side by side.
    """

    @tf.custom_gradient
    def sums(images, all_texts, scale):
        rows, columns, through_normalisers = normalisers(
            images, all_texts, scale, **tiling
        )
        count = tf.shape(images)[0]
        alone = replica_count() == 1
        texts = all_texts if alone else all_texts[offset : offset + count]

        def gradient(d_rows, d_columns, d_positive, d_mean_image, d_mean_text):
            n = tf.cast(count, images.dtype)
            d_images = (d_positive / n) * texts + d_mean_image / n
            d_texts = (d_positive / n) * images + d_mean_text / n
            if not alone:
                behind = tf.shape(all_texts)[0] - offset - count
                d_texts = tf.pad(d_texts, [[offset, behind], [0, 0]])
            return through_normalisers(d_rows, d_columns, d_images, d_texts)

        values = rows, columns, _mean_dot(images, texts)
        means = tf.reduce_mean(images, axis=0), tf.reduce_mean(texts, axis=0)
        return (*values, *means), gradient

    return sums(images, all_texts, scale)


def _worth_keeping(images, all_texts):
    rows, columns = images.shape[0], all_texts.shape[0]
    return None not in (rows, columns) and rows * columns <= _AUTO_KEPT_LOGITS


def _mean_dot(rows, others):
    """Mean over the rows of their dot products."""
    return tf.reduce_mean(row_dots(rows, others))


def _over_replicas(row):
    """The mean of a row over all replicas."""
    return tf.reduce_mean(gather_replicas(row[None])[0], axis=0)


def _group_means(all_rows, all_groups, pair_groups, offset):
    """For each local pair, the mean of all rows of its group."""
    numbers = _group_numbers(all_groups)
    # As many segments as rows keeps the shape static; the empty ones aren't read.
    means = tf.math.unsorted_segment_mean(all_rows, numbers, tf.shape(all_rows)[0])
    return tf.gather(means, numbers[offset : offset + tf.shape(pair_groups)[0]])


def _group_numbers(groups):
    """Numbers the groups from 0: (n,) → int32 (n,).

    By sorting, since tf.unique's second output has a length that TPUs can't know.
    """
    order = tf.argsort(groups)
    ordered = tf.gather(groups, order)
    begins = tf.cast(ordered[1:] != ordered[:-1], tf.int32)
    numbers = tf.pad(tf.cumsum(begins), [[1, 0]])
    return tf.scatter_nd(order[:, None], numbers, tf.shape(order))
