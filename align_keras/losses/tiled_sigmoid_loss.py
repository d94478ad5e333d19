"""Sigmoid loss computed in tiles, without the complete logits matrix."""

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from align_keras.config.loss_tiles import AUTO_TILE_SIZE
from align_keras.losses.pair_groups import matching_pairs
from align_keras.losses.tiles import (
    add_tile,
    array_of_tiles,
    from_tiles,
    in_tiles,
    length_of,
    padding_mask,
    run_loop,
)


def signed_logits(logits: tf.Tensor, matches: tf.Tensor) -> tf.Tensor:
    """Returns -logit for matching pairs, and logit for the other pairs.

    The softplus of a signed logit is the binary cross-entropy of the pair.
    """
    return tf.where(matches, -logits, logits)


def tiled_sigmoid_loss(
    images: tf.Tensor,
    all_texts: tf.Tensor,
    scale: tf.Tensor,
    bias: tf.Tensor,
    image_groups: tf.Tensor,
    text_groups: tf.Tensor,
    tile_size: int | str,
) -> tf.Tensor:
    """Returns the sigmoid loss of the images of this replica, tile by tile.

    A tile has at most `tile_size` rows and columns. The gradient of a tile does not
    depend on other tiles, so the forward pass computes it from the logits in memory.

    Args:
        images: float tensor (n, d), images of this replica.
        all_texts: float tensor (m, d), captions of all replicas.
        scale: scalar float tensor, 1 / temperature.
        bias: scalar float tensor that is added to the logits.
        image_groups: int tensor (n,) or (n, 2). An image and a caption match if they
            are equal in one of the columns.
        text_groups: int tensor (m,) or (m, 2).
        tile_size: int ≥ 1, or `"auto"`.

    Returns:
        Scalar float tensor, differentiable in the four float tensors.
    """
    size = AUTO_TILE_SIZE if tile_size == "auto" else int(tile_size)

    @tf.custom_gradient
    def loss(
        images: tf.Tensor, texts: tf.Tensor, scale: tf.Tensor, bias: tf.Tensor
    ) -> tuple[tf.Tensor, Callable]:
        tiles = _SignedLogitTiles.of(
            images, texts, scale, bias, image_groups, text_groups, size
        )
        total, gradients = _loss_and_gradients(tiles)

        def gradient(upstream: tf.Tensor) -> list[tf.Tensor]:
            return [upstream * value for value in gradients]

        return total, gradient

    return loss(images, all_texts, scale, bias)


@dataclasses.dataclass(frozen=True)
class _SignedLogitTiles:
    """Embeddings and groups, divided into tiles.

    Attributes:
        num_rows: number of images, an int or a tensor.
        num_columns: number of captions, an int or a tensor.
        images: float tensor (row tiles, rows of a tile, d).
        texts: float tensor (column tiles, columns of a tile, d).
        scale: scalar float tensor.
        bias: scalar float tensor.
        image_groups: int tensor (row tiles, rows of a tile) or (…, 2).
        text_groups: int tensor (column tiles, columns of a tile) or (…, 2).
        row_mask: bool tensor (row tiles, rows of a tile), False for padding, or None.
        column_mask: bool tensor (column tiles, columns of a tile), or None.
    """

    num_rows: int | tf.Tensor
    num_columns: int | tf.Tensor
    images: tf.Tensor
    texts: tf.Tensor
    scale: tf.Tensor
    bias: tf.Tensor
    image_groups: tf.Tensor
    text_groups: tf.Tensor
    row_mask: tf.Tensor | None
    column_mask: tf.Tensor | None

    @classmethod
    def of(
        cls,
        images: tf.Tensor,
        texts: tf.Tensor,
        scale: tf.Tensor,
        bias: tf.Tensor,
        image_groups: tf.Tensor,
        text_groups: tf.Tensor,
        tile_size: int,
    ) -> "_SignedLogitTiles":
        """Divides the rows into tiles of at most `tile_size` rows."""
        num_rows = length_of(images)
        num_columns = length_of(texts)
        row_tiles = -(-num_rows // tile_size)
        column_tiles = -(-num_columns // tile_size)
        images = in_tiles(images, row_tiles)
        texts = in_tiles(texts, column_tiles)
        return cls(
            num_rows,
            num_columns,
            images,
            texts,
            scale,
            bias,
            in_tiles(image_groups, row_tiles),
            in_tiles(text_groups, column_tiles),
            padding_mask(num_rows, images),
            padding_mask(num_columns, texts),
        )

    def loss_and_gradient(
        self, products: tf.Tensor, row: tf.Tensor, column: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the sum of the losses of a tile, and the gradient of its logits.

        `products` are the dot products of the embeddings, (rows, columns).
        """
        logits = products * self.scale + self.bias
        matches = matching_pairs(self.image_groups[row], self.text_groups[column])
        signed = signed_logits(logits, matches)
        losses = self._without_padding(tf.nn.softplus(signed), row, column)
        total = tf.reduce_sum(losses)
        # Without an order, TensorFlow may compute the gradient at the same time as the
        # losses. The arrays of both would then be in memory.
        with tf.control_dependencies([total]):
            d_logits = signed_logits(tf.nn.sigmoid(signed), matches)
        return total, self._without_padding(d_logits, row, column)

    def _without_padding(
        self, values: tf.Tensor, row: tf.Tensor, column: tf.Tensor
    ) -> tf.Tensor:
        """Returns the values of a tile (rows, columns) with zeros for padding."""
        if self.row_mask is not None:
            values *= tf.cast(self.row_mask[row], values.dtype)[:, None]
        if self.column_mask is not None:
            values *= tf.cast(self.column_mask[column], values.dtype)
        return values


def _loss_and_gradients(
    tiles: _SignedLogitTiles,
) -> tuple[tf.Tensor, tuple[tf.Tensor, ...]]:
    """Returns the mean loss of the images, and its gradients.

    The gradients are those of the images, the captions, the scale and the bias.
    """
    dtype = tiles.images.dtype
    row_tiles = tf.shape(tiles.images)[0]
    column_tiles = tf.shape(tiles.texts)[0]
    zero = tf.zeros([], dtype)

    def column_step(
        column: tf.Tensor,
        d_images: tf.TensorArray,
        d_texts: tf.TensorArray,
        sums: tuple[tf.Tensor, tf.Tensor, tf.Tensor],
    ) -> tuple:
        texts = tiles.texts[column]

        def row_step(
            row: tf.Tensor,
            d_images: tf.TensorArray,
            d_tile: tf.Tensor,
            sums: tuple[tf.Tensor, tf.Tensor, tf.Tensor],
        ) -> tuple:
            images = tiles.images[row]
            products = tf.matmul(images, texts, transpose_b=True)
            loss, d_logits = tiles.loss_and_gradient(products, row, column)
            total, d_scale, d_bias = sums
            sums = (
                total + loss,
                d_scale + tf.reduce_sum(d_logits * products),
                d_bias + tf.reduce_sum(d_logits),
            )
            d_tile += tf.matmul(d_logits, images, transpose_a=True)
            d_image = tf.matmul(d_logits, texts)
            return row + 1, add_tile(d_images, row, d_image), d_tile, sums

        start = (d_images, tf.zeros_like(texts), sums)
        _, d_images, d_tile, sums = run_loop(row_tiles, row_step, start)
        return column + 1, d_images, d_texts.write(column, d_tile), sums

    start = (
        array_of_tiles(tf.zeros_like(tiles.images)),
        array_of_tiles(tf.zeros_like(tiles.texts)),
        (zero, zero, zero),
    )
    _, d_images, d_texts, sums = run_loop(column_tiles, column_step, start)
    count = tf.cast(tiles.num_rows, dtype)
    total, d_scale, d_bias = (value / count for value in sums)
    step = tiles.scale / count
    return total, (
        from_tiles(d_images.stack(), tiles.num_rows) * step,
        from_tiles(d_texts.stack(), tiles.num_columns) * step,
        d_scale,
        d_bias,
    )
