"""Logits of two sets of embeddings, tile by tile, with their gradients."""

import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from align_keras.config.loss_config import AUTO_SAVED_LOGITS
from align_keras.utils.arguments import check_number


def check_tile_size(tile_size: int | str | None) -> None:
    """Raises InputError unless the value is None, `"auto"` or an int ≥ 1."""
    if tile_size not in (None, "auto"):
        remedy = 'Leave tile_size out, or use "auto" for large batches.'
        check_number("tile_size", tile_size, 1, math.inf, True, remedy)


def has_few_logits(images: tf.Tensor, all_texts: tf.Tensor) -> bool:
    """Returns True if there are few enough logits to save all tiles."""
    rows = images.shape[0]
    columns = all_texts.shape[0]
    return None not in (rows, columns) and rows * columns <= AUTO_SAVED_LOGITS


class LogitTiles:
    """Logits of all images and texts in tiles, which a loss reduces.

    A subclass reduces a tile to one value for each row and each column (`reduce`),
    combines the values of the tiles of a row or a column (`combine`), and has the
    gradient of these values (`gradient`).
    """

    def __init__(
        self,
        images: tf.Tensor,
        texts: tf.Tensor,
        scale: tf.Tensor,
        tile_size: int,
        matmul_dtype: str | tf.DType,
    ) -> None:
        self.num_rows = length_of(images)
        self.num_columns = length_of(texts)
        self.row_tiles = -(-self.num_rows // tile_size)
        self.column_tiles = -(-self.num_columns // tile_size)
        self.images = in_tiles(images, self.row_tiles)
        self.texts = in_tiles(texts, self.column_tiles)
        self.row_mask = padding_mask(self.num_rows, self.images)
        self.column_mask = padding_mask(self.num_columns, self.texts)
        self.scale = scale
        self.matmul_dtype = matmul_dtype

    def images_of(self, row: tf.Tensor) -> tf.Tensor:
        """Returns the images of a row of tiles, (tile, d) in `matmul_dtype`."""
        return tf.cast(self.images[row], self.matmul_dtype)

    def scaled_texts_of(self, column: tf.Tensor) -> tf.Tensor:
        """Returns the texts of a column of tiles, scaled and transposed: (d, tile)."""
        # Transposing here is 10% faster than `matmul` with `transpose_b`.
        texts = self.texts[column] * self.scale
        return tf.cast(tf.transpose(texts), self.matmul_dtype)

    def logits(
        self, product: tf.Tensor, row: tf.Tensor, column: tf.Tensor
    ) -> tf.Tensor:
        """Returns the logits of a tile in full precision, -inf for padding."""
        logits = tf.cast(product, self.images.dtype)
        if self.row_mask is None and self.column_mask is None:
            return logits
        valid = tf.ones_like(logits, tf.bool)
        if self.row_mask is not None:
            valid &= self.row_mask[row][:, None]
        if self.column_mask is not None:
            valid &= self.column_mask[column]
        return tf.where(valid, logits, tf.constant(-math.inf, logits.dtype))

    def reduce(
        self, product: tf.Tensor, row: tf.Tensor, column: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the values of the rows and of the columns of a tile.

        Args:
            product: scaled dot products of the embeddings, (rows, columns).
            row: index of the row of tiles.
            column: index of the column of tiles.
        """
        raise NotImplementedError

    def combine(self, values: tf.Tensor, axis: int) -> tf.Tensor:
        """Returns the values of whole rows or columns from those of their tiles."""
        raise NotImplementedError

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
        """Returns the gradient with respect to the scaled products of a tile.

        Args:
            product: as in `reduce`.
            row: as in `reduce`.
            column: as in `reduce`.
            rows: (rows,), values of the whole rows.
            d_rows: (rows,), gradients with respect to `rows`.
            columns: (columns,), values of the whole columns.
            d_columns: (columns,), gradients with respect to `columns`.
        """
        raise NotImplementedError


def reduce_tiles(
    tiles: LogitTiles, save_tiles: bool
) -> tuple[tf.Tensor, tf.Tensor, tuple[tf.TensorArray, ...]]:
    """Returns the values of all rows and columns, and the saved products.

    The saved products are a tuple of one array, or an empty tuple if `save_tiles` is
    False.
    """
    row_size = tiles.images.shape[1]
    column_size = tiles.texts.shape[1]
    num_tiles = tiles.row_tiles * tiles.column_tiles
    dtype = tiles.images.dtype

    def array(dtype: str | tf.DType, *shape: int) -> tf.TensorArray:
        return tf.TensorArray(
            dtype, num_tiles, element_shape=shape, clear_after_read=False
        )

    def column_step(column: tf.Tensor, *arrays: Any) -> tuple:
        texts = tiles.scaled_texts_of(column)

        def row_step(
            row: tf.Tensor,
            rows: tf.TensorArray,
            columns: tf.TensorArray,
            saved_products: tuple[tf.TensorArray, ...],
        ) -> tuple:
            number = row * tiles.column_tiles + column
            product = tf.matmul(tiles.images_of(row), texts)
            tile_rows, tile_columns = tiles.reduce(product, row, column)
            return (
                row + 1,
                rows.write(number, tile_rows),
                columns.write(number, tile_columns),
                tuple(array.write(number, product) for array in saved_products),
            )

        _, *new_arrays = run_loop(tiles.row_tiles, row_step, arrays)
        return column + 1, *new_arrays

    saved_products: tuple[tf.TensorArray, ...] = ()
    if save_tiles:
        saved_products = (array(tiles.matmul_dtype, row_size, column_size),)
    start = (array(dtype, row_size), array(dtype, column_size), saved_products)
    _, rows, columns, saved_products = run_loop(tiles.column_tiles, column_step, start)
    grid = [tiles.row_tiles, tiles.column_tiles, -1]
    rows = tiles.combine(tf.reshape(rows.stack(), grid), axis=1)
    columns = tiles.combine(tf.reshape(columns.stack(), grid), axis=0)
    return (
        from_tiles(rows, tiles.num_rows),
        from_tiles(columns, tiles.num_columns),
        saved_products,
    )


def tile_gradients(
    tiles: LogitTiles,
    rows: tuple[tf.Tensor, tf.Tensor],
    columns: tuple[tf.Tensor, tf.Tensor],
    saved_products: tuple[tf.TensorArray, ...],
    d_images: tf.Tensor,
    d_texts: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns the gradients of the embeddings and the scale.

    The gradients of the values are added to `d_images` and `d_texts`.

    Args:
        tiles: `LogitTiles`.
        rows: values of the rows, and the upstream gradients.
        columns: values of the columns, and the upstream gradients.
        saved_products: tuple of an array of products, or an empty tuple.
        d_images: gradients of the images from the other outputs.
        d_texts: gradients of the texts from the other outputs.

    Returns:
        Gradients with respect to the images, the texts and the scale.
    """
    dtype = tiles.images.dtype
    # Upstream gradients are about 1 / n, and would underflow when they are divided by a
    # large sum of exponentials. They are therefore multiplied by n first.
    count = tf.cast(tiles.num_rows, dtype)
    row_values = in_tiles(rows[0], tiles.row_tiles)
    row_gradients = in_tiles(rows[1] * count, tiles.row_tiles)
    column_values = in_tiles(columns[0], tiles.column_tiles)
    column_gradients = in_tiles(columns[1] * count, tiles.column_tiles)
    step_scale = tiles.scale / count

    def column_step(
        column: tf.Tensor,
        d_images: tf.TensorArray,
        d_texts: tf.TensorArray,
        d_scale: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.TensorArray, tf.TensorArray, tf.Tensor]:
        texts = tiles.texts[column]
        scaled_texts = tiles.scaled_texts_of(column)
        factor = tf.cast(texts * step_scale, tiles.matmul_dtype)

        def row_step(
            row: tf.Tensor, d_images: tf.TensorArray, d_text: tf.Tensor
        ) -> tuple[tf.Tensor, tf.TensorArray, tf.Tensor]:
            images = tiles.images_of(row)
            number = row * tiles.column_tiles + column
            if saved_products:
                product = saved_products[0].read(number)
            else:
                product = tf.matmul(images, scaled_texts)
            d_logits = tiles.gradient(
                product,
                row,
                column,
                row_values[row],
                row_gradients[row],
                column_values[column],
                column_gradients[column],
            )
            d_logits = tf.cast(d_logits, tiles.matmul_dtype)
            d_image = tf.cast(tf.matmul(d_logits, factor), dtype)
            # imagesᵀ · d_logits is 25% faster than d_logitsᵀ · images.
            d_text += tf.cast(tf.matmul(images, d_logits, transpose_a=True), dtype)
            return row + 1, add_tile(d_images, row, d_image), d_text

        start = d_images, tf.zeros_like(tf.transpose(texts))
        _, d_images, d_text = run_loop(tiles.row_tiles, row_step, start)
        d_text = tf.transpose(d_text)
        d_scale += tf.reduce_sum(d_text * texts) / count
        d_texts = add_tile(d_texts, column, d_text * step_scale)
        return column + 1, d_images, d_texts, d_scale

    start = (
        array_of_tiles(in_tiles(d_images, tiles.row_tiles)),
        array_of_tiles(in_tiles(d_texts, tiles.column_tiles)),
        tf.zeros([], dtype),
    )
    _, d_images, d_texts, d_scale = run_loop(tiles.column_tiles, column_step, start)
    d_images = d_images.stack()
    # Stacking an array frees its tiles, so the second array is stacked after the first.
    with tf.control_dependencies([d_images]):
        d_texts = d_texts.stack()
    return (
        from_tiles(d_images, tiles.num_rows),
        from_tiles(d_texts, tiles.num_columns),
        d_scale,
    )


def array_of_tiles(tiles: tf.Tensor) -> tf.TensorArray:
    """Returns the tiles of a tensor (tiles, …) as an array that `add_tile` changes."""
    return tf.TensorArray(
        tiles.dtype,
        tf.shape(tiles)[0],
        element_shape=tiles.shape[1:],
        clear_after_read=False,
    ).unstack(tiles)


def add_tile(
    tiles: tf.TensorArray, number: tf.Tensor, tile: tf.Tensor
) -> tf.TensorArray:
    """Adds a tensor to the tile with this number."""
    return tiles.write(number, tiles.read(number) + tile)


def run_loop(count: int | tf.Tensor, body: Callable, start: tuple) -> tuple:
    """Runs `body(number, *values)` `count` times, without parallel iterations."""
    return tf.while_loop(
        lambda number, *_: number < count, body, (0, *start), parallel_iterations=1
    )


def length_of(tensor: tf.Tensor) -> int | tf.Tensor:
    """Returns the number of rows, as an int if it is static."""
    return tf.shape(tensor)[0] if tensor.shape[0] is None else tensor.shape[0]


def in_tiles(tensor: tf.Tensor, tiles: int | tf.Tensor) -> tf.Tensor:
    """Pads the rows with zeros and reshapes them to (tiles, rows of a tile, …)."""
    length = length_of(tensor)
    size = -(-length // tiles)
    static = isinstance(length, int) and isinstance(tiles, int)
    if not static or tiles * size != length:
        no_padding = [[0, 0]] * (len(tensor.shape) - 1)
        tensor = tf.pad(tensor, [[0, tiles * size - length], *no_padding])
    return tf.reshape(tensor, [tiles, size, *tensor.shape[1:]])


def from_tiles(tensor: tf.Tensor, length: int | tf.Tensor) -> tf.Tensor:
    """Reverses `in_tiles`."""
    rows = tf.reshape(tensor, [-1, *tensor.shape[2:]])
    return rows if rows.shape[0] == length else rows[:length]


def padding_mask(length: int | tf.Tensor, tensor: tf.Tensor) -> tf.Tensor | None:
    """Returns a bool tensor (tiles, rows of a tile), False for padding, or None."""
    tiles, size = tensor.shape[:2]
    if tiles is not None and size is not None and tiles * size == length:
        return None
    return in_tiles(tf.ones([length], tf.bool), tf.shape(tensor)[0])
