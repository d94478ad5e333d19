"""Division of rows into tiles, and loops over tiles."""

import math
from collections.abc import Callable

import tensorflow as tf

from align_keras.utils.arguments import check_number


def check_tile_size(tile_size: int | str | None) -> None:
    """Raises InputError unless the value is None, `"auto"` or an int ≥ 1."""
    if tile_size not in (None, "auto"):
        remedy = 'Leave tile_size out, or use "auto" for large batches.'
        check_number("tile_size", tile_size, 1, math.inf, True, remedy)


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
