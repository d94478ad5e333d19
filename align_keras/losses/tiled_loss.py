"""Contrastive loss computed in tiles, without the complete logits matrix."""

import math
from collections.abc import Callable

import tensorflow as tf

from align_keras.config.loss_config import AUTO_TILE_SIZE
from align_keras.losses.cross_replica import gather_replicas, replica_count
from align_keras.losses.pair_groups import matching_means
from align_keras.losses.tiles import (
    LogitTiles,
    has_few_logits,
    reduce_tiles,
    tile_gradients,
)
from align_keras.utils.compiled import compiled

# Fraction of the logarithm of the largest value of a dtype. If |logit| is smaller,
# exponentials, their sums and the inverses of the sums can't overflow.
_BOUND_SHARE = 0.8


def tiled_directional_losses(
    image_embeddings: tf.Tensor,
    text_embeddings: tf.Tensor,
    scale: tf.Tensor,
    *,
    label_smoothing: float,
    pair_groups: tf.Tensor | None,
    tile_size: int | str,
    matmul_dtype: str | None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Computes the same losses as `plain_directional_losses`, tile by tile.

    A tile has at most `tile_size` rows and columns. Each replica computes its rows of
    the logits. The normalizers (log-sum-exp) of the columns are combined over replicas.
    """
    images = image_embeddings
    texts = text_embeddings
    is_auto = tile_size == "auto"
    all_texts, offset = gather_replicas(texts)
    rows, columns, positive, mean_image, mean_text = _pair_sums(
        images,
        all_texts,
        scale,
        offset,
        tile_size=AUTO_TILE_SIZE if is_auto else int(tile_size),
        save_tiles=is_auto and has_few_logits(images, all_texts),
        matmul_dtype=matmul_dtype or images.dtype,
    )
    if replica_count() > 1:
        columns = tf.reduce_logsumexp(gather_replicas(columns[None])[0], axis=0)
        columns = columns[offset : offset + tf.shape(texts)[0]]
    positives = [positive, positive]
    if pair_groups is not None:
        all_groups, _ = gather_replicas(pair_groups)
        all_images, _ = gather_replicas(images)
        count = tf.shape(images)[0]
        text_means = matching_means(all_texts, all_groups, offset, count)
        image_means = matching_means(all_images, all_groups, offset, count)
        positives = [_mean_dot(images, text_means), _mean_dot(texts, image_means)]
    # The mean cosine of a row is its dot product with the mean column, so no matrix of
    # targets is needed.
    smooth = [
        tf.reduce_sum(mean_image * _over_replicas(mean_text)),
        tf.reduce_sum(mean_text * _over_replicas(mean_image)),
    ]
    expected_i2t, expected_t2i = (
        (1.0 - label_smoothing) * positive + label_smoothing * mean
        for positive, mean in zip(positives, smooth, strict=True)
    )
    return (
        tf.reduce_mean(rows) - scale * expected_i2t,
        tf.reduce_mean(columns) - scale * expected_t2i,
    )


def _pair_sums(
    images: tf.Tensor,
    all_texts: tf.Tensor,
    scale: tf.Tensor,
    offset: tf.Tensor,
    tile_size: int,
    save_tiles: bool,
    matmul_dtype: str | tf.DType,
) -> tuple[tf.Tensor, ...]:
    """Returns sums over the pairs of this replica, with a custom gradient."""
    # The custom gradient needs one array for the images and one for the texts.
    # Automatic differentiation would need six.

    @tf.custom_gradient
    def sums(
        images: tf.Tensor, all_texts: tf.Tensor, scale: tf.Tensor
    ) -> tuple[tuple[tf.Tensor, ...], Callable]:
        tiles = _NormalizerTiles(images, all_texts, scale, tile_size, matmul_dtype)
        # The gradient computes the products again unless they are saved.
        rows, columns, saved_products = reduce_tiles(tiles, save_tiles)
        count = tf.shape(images)[0]
        is_single = replica_count() == 1
        texts = all_texts if is_single else all_texts[offset : offset + count]

        def gradient(
            d_rows: tf.Tensor,
            d_columns: tf.Tensor,
            d_positive: tf.Tensor,
            d_mean_image: tf.Tensor,
            d_mean_text: tf.Tensor,
        ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            n = tf.cast(count, images.dtype)
            d_images = (d_positive / n) * texts + d_mean_image / n
            d_texts = (d_positive / n) * images + d_mean_text / n
            if not is_single:
                rows_after = tf.shape(all_texts)[0] - offset - count
                d_texts = tf.pad(d_texts, [[offset, rows_after], [0, 0]])
            return tile_gradients(
                tiles,
                (rows, d_rows),
                (columns, d_columns),
                saved_products,
                d_images,
                d_texts,
            )

        outputs = (
            rows,
            columns,
            _mean_dot(images, texts),
            tf.reduce_mean(images, axis=0),
            tf.reduce_mean(texts, axis=0),
        )
        return outputs, gradient

    return sums(images, all_texts, scale)


def _mean_dot(first_rows: tf.Tensor, second_rows: tf.Tensor) -> tf.Tensor:
    """Returns the mean of the dot products of rows with the same index."""
    return tf.reduce_mean(row_dots(first_rows, second_rows))


def _over_replicas(row: tf.Tensor) -> tf.Tensor:
    """Returns the mean of a row over all replicas."""
    return tf.reduce_mean(gather_replicas(row[None])[0], axis=0)


# === Normalizers of the logits, tile by tile ===


class _NormalizerTiles(LogitTiles):
    """Logits of tiles. The values of rows and columns are their log-sum-exp."""

    def __init__(
        self,
        images: tf.Tensor,
        texts: tf.Tensor,
        scale: tf.Tensor,
        tile_size: int,
        matmul_dtype: str | tf.DType,
    ) -> None:
        super().__init__(images, texts, scale, tile_size, matmul_dtype)
        bound = tf.abs(scale) * _longest(images) * _longest(texts)
        # The comparison is False for NaN. The computation for large logits, which is
        # then used, propagates NaN to the loss.
        self.bounded = bound < _BOUND_SHARE * math.log(images.dtype.max)

    def reduce(
        self, product: tf.Tensor, row: tf.Tensor, column: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        logits = self.logits(product, row, column)

        def direct() -> tuple[tf.Tensor, tf.Tensor]:
            exponentials = tf.exp(logits)
            rows = tf.reduce_sum(exponentials, axis=1)
            # On CPUs this is three times as fast as reduce_sum(…, axis=0).
            ones = tf.ones_like(rows)
            columns = tf.linalg.matvec(exponentials, ones, transpose_a=True)
            return tf.math.log(rows), tf.math.log(columns)

        def shifted() -> tuple[tf.Tensor, tf.Tensor]:
            return (
                tf.reduce_logsumexp(logits, axis=1),
                tf.reduce_logsumexp(logits, axis=0),
            )

        return tf.cond(self.bounded, direct, shifted)

    def combine(self, values: tf.Tensor, axis: int) -> tf.Tensor:
        return tf.reduce_logsumexp(values, axis=axis)

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
        logits = self.logits(product, row, column)

        def direct() -> tf.Tensor:
            by_row = (d_rows * tf.exp(-rows))[:, None]
            return _fused(logits, by_row, d_columns * tf.exp(-columns))

        def shifted() -> tf.Tensor:
            by_row = d_rows[:, None] * tf.exp(logits - rows[:, None])
            return by_row + d_columns * tf.exp(logits - columns)

        return tf.cond(self.bounded, direct, shifted)


# XLA compiles this function to one pass over memory instead of three.
@compiled
def _fused(logits: tf.Tensor, by_row: tf.Tensor, by_column: tf.Tensor) -> tf.Tensor:
    return tf.exp(logits) * (by_row + by_column)


def row_dots(first_rows: tf.Tensor, second_rows: tf.Tensor) -> tf.Tensor:
    """Returns the dot products of rows with the same index, (n,)."""
    return tf.einsum("nd,nd->n", first_rows, second_rows)


def _longest(rows: tf.Tensor) -> tf.Tensor:
    """Returns the Euclidean length of the longest row."""
    return tf.sqrt(tf.reduce_max(row_dots(rows, rows)))
