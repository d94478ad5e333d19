"""Both directions' losses, exact, without the logits matrix: tile by tile."""

import math

import tensorflow as tf

from align_keras.losses.cross_replica import gather_replicas, replica_count
from align_keras.utils.compiled import compiled

AUTO_TILE_SIZE = 2048
# "auto" keeps the tiles for the gradient up to here: 1 GiB of float32. It saves
# the fourth matrix product, without which the plain form would be faster.
_AUTO_KEPT_LOGITS = 2**28
# As a share of the logarithm of a dtype's largest value: while |logit| stays
# below it, exponentials, their sums and the inverses of these can't overflow.
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
    """Computes `plain_directional_losses` from tiles of at most `tile_size`².

    Each replica has its rows of the logits, and the replicas' normalizers of the
    columns are put together.
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
        positives = [
            _mean_dot(these, _group_means(others, all_groups, pair_groups, offset))
            for these, others in ((images, all_texts), (texts, all_images))
        ]
    # The mean of a row's cosines is its dot product with the mean column: no target
    # matrix is built.
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


def _pair_sums(images, all_texts, scale, offset, tile_size, keep_tiles, matmul_dtype):
    """This replica's normalizers, mean cosine of the pairs, mean image, mean text."""
    # One function, so that the gradients are added up in one array for the images and
    # one for the texts: left to themselves, six would lie side by side.

    @tf.custom_gradient
    def sums(images, all_texts, scale):
        tiles = _LogitTiles(images, all_texts, scale, tile_size, matmul_dtype)
        # Both of a tile, which the gradient computes once more unless it was kept.
        rows, columns, kept = _forward(tiles, keep_tiles)
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
            of_rows, of_columns = (rows, d_rows), (columns, d_columns)
            return _backward(tiles, of_rows, of_columns, kept, d_images, d_texts)

        values = rows, columns, _mean_dot(images, texts)
        means = tf.reduce_mean(images, axis=0), tf.reduce_mean(texts, axis=0)
        return (*values, *means), gradient

    return sums(images, all_texts, scale)


def _worth_keeping(images, all_texts):
    rows, columns = images.shape[0], all_texts.shape[0]
    return None not in (rows, columns) and rows * columns <= _AUTO_KEPT_LOGITS


def _mean_dot(rows, others):
    """Averages over the rows their dot products."""
    return tf.reduce_mean(row_dots(rows, others))


def _over_replicas(row):
    """Returns the mean of a row over all replicas."""
    return tf.reduce_mean(gather_replicas(row[None])[0], axis=0)


def _group_means(all_rows, all_groups, pair_groups, offset):
    """Returns, for each local pair, the mean of all rows of its group."""
    numbers = _group_numbers(all_groups)
    # As many segments as rows keeps the shape static; the empty ones aren't read.
    means = tf.math.unsorted_segment_mean(all_rows, numbers, tf.shape(all_rows)[0])
    return tf.gather(means, numbers[offset : offset + tf.shape(pair_groups)[0]])


def _group_numbers(groups):
    """Numbers the groups from 0, by sorting: TPUs can't know tf.unique's length."""
    order = tf.argsort(groups)
    ordered = tf.gather(groups, order)
    begins = tf.cast(ordered[1:] != ordered[:-1], tf.int32)
    numbers = tf.pad(tf.cumsum(begins), [[1, 0]])
    return tf.scatter_nd(order[:, None], numbers, tf.shape(order))


# === Normalizers of the logits, tile by tile ===


class _LogitTiles:
    """The arithmetic of one tile: logits, their normalizers, their gradient."""

    def __init__(self, images, texts, scale, tile_size, matmul_dtype):
        self.num_rows, self.num_columns = _length(images), _length(texts)
        self.row_tiles = -(-self.num_rows // tile_size)
        self.column_tiles = -(-self.num_columns // tile_size)
        self.images = _in_tiles(images, self.row_tiles)
        self.texts = _in_tiles(texts, self.column_tiles)
        self.row_mask = _padding_mask(self.num_rows, self.images)
        self.column_mask = _padding_mask(self.num_columns, self.texts)
        self.scale, self.matmul_dtype = scale, matmul_dtype
        bound = tf.abs(scale) * _longest(images) * _longest(texts)
        # False for NaN, which the other branch hands on.
        self.bounded = bound < _BOUND_SHARE * math.log(images.dtype.max)

    def images_of(self, row):
        """Returns the images of a row of tiles, (tile, d) in `matmul_dtype`."""
        return tf.cast(self.images[row], self.matmul_dtype)

    def scaled_texts_of(self, column):
        """Returns the texts of a column of tiles, scaled and transposed: (d, tile)."""
        # A product with it as it lies is a tenth faster than one that transposes.
        texts = self.texts[column] * self.scale
        return tf.cast(tf.transpose(texts), self.matmul_dtype)

    def logits(self, product, row, column):
        """Logits in full precision, -inf where there is only padding."""
        logits = tf.cast(product, self.images.dtype)
        if self.row_mask is None and self.column_mask is None:
            return logits
        valid = tf.ones_like(logits, tf.bool)
        if self.row_mask is not None:
            valid &= self.row_mask[row][:, None]
        if self.column_mask is not None:
            valid &= self.column_mask[column]
        return tf.where(valid, logits, tf.constant(-math.inf, logits.dtype))

    def normalizers(self, logits):
        """Computes the log-sum-exp of the tile's rows and of its columns."""

        def direct():
            exponentials = tf.exp(logits)
            rows = tf.reduce_sum(exponentials, axis=1)
            # On CPUs three times as fast as reduce_sum(…, axis=0).
            ones = tf.ones_like(rows)
            columns = tf.linalg.matvec(exponentials, ones, transpose_a=True)
            return tf.math.log(rows), tf.math.log(columns)

        def shifted():
            return (
                tf.reduce_logsumexp(logits, axis=1),
                tf.reduce_logsumexp(logits, axis=0),
            )

        return tf.cond(self.bounded, direct, shifted)

    def gradient(self, logits, rows, d_rows, columns, d_columns):
        """Computes the gradient at the tile's logits, from those at all normalizers."""

        def direct():
            by_row = (d_rows * tf.exp(-rows))[:, None]
            return _fused(logits, by_row, d_columns * tf.exp(-columns))

        def shifted():
            by_row = d_rows[:, None] * tf.exp(logits - rows[:, None])
            return by_row + d_columns * tf.exp(logits - columns)

        return tf.cond(self.bounded, direct, shifted)


# One pass over memory in place of three.
@compiled
def _fused(logits, by_row, by_column):
    return tf.exp(logits) * (by_row + by_column)


def _forward(tiles, keep_tiles):
    """Normalizers of all rows and columns, and the kept products (or `()`)."""
    row_size, column_size = tiles.images.shape[1], tiles.texts.shape[1]
    num_tiles = tiles.row_tiles * tiles.column_tiles
    dtype = tiles.images.dtype

    def array(dtype, *shape):
        return tf.TensorArray(
            dtype, num_tiles, element_shape=shape, clear_after_read=False
        )

    def column_step(column, *arrays):
        texts = tiles.scaled_texts_of(column)

        def row_step(row, rows, columns, kept):
            number = row * tiles.column_tiles + column
            product = tf.matmul(tiles.images_of(row), texts)
            of_rows, of_columns = tiles.normalizers(tiles.logits(product, row, column))
            return (
                row + 1,
                rows.write(number, of_rows),
                columns.write(number, of_columns),
                tuple(array.write(number, product) for array in kept),
            )

        _, *arrays = _loop(tiles.row_tiles, row_step, arrays)
        return column + 1, *arrays

    kept = (array(tiles.matmul_dtype, row_size, column_size),) if keep_tiles else ()
    arrays = array(dtype, row_size), array(dtype, column_size), kept
    _, rows, columns, kept = _loop(tiles.column_tiles, column_step, arrays)
    grid = [tiles.row_tiles, tiles.column_tiles, -1]
    rows = tf.reduce_logsumexp(tf.reshape(rows.stack(), grid), axis=1)
    columns = tf.reduce_logsumexp(tf.reshape(columns.stack(), grid), axis=0)
    return (
        _from_tiles(rows, tiles.num_rows),
        _from_tiles(columns, tiles.num_columns),
        kept,
    )


def _backward(tiles, rows, columns, kept, d_images, d_texts):
    """Adds to the gradients; rows and columns are (normalizers, upstream)."""
    dtype = tiles.images.dtype
    # Upstream gradients are about 1 / n, and would underflow where they are
    # divided by a large sum of exponentials.
    count = tf.cast(tiles.num_rows, dtype)
    rows = [_in_tiles(x, tiles.row_tiles) for x in (rows[0], rows[1] * count)]
    columns = [
        _in_tiles(x, tiles.column_tiles) for x in (columns[0], columns[1] * count)
    ]
    step_scale = tiles.scale / count

    def column_step(column, d_images, d_texts, d_scale):
        texts = tiles.texts[column]
        scaled_texts = tiles.scaled_texts_of(column)
        factor = tf.cast(texts * step_scale, tiles.matmul_dtype)

        def row_step(row, d_images, d_text):
            images = tiles.images_of(row)
            number = row * tiles.column_tiles + column
            product = kept[0].read(number) if kept else tf.matmul(images, scaled_texts)
            d_logits = tiles.gradient(
                tiles.logits(product, row, column),
                *(x[row] for x in rows),
                *(x[column] for x in columns),
            )
            d_logits = tf.cast(d_logits, tiles.matmul_dtype)
            d_image = tf.cast(tf.matmul(d_logits, factor), dtype)
            # Transposed: a quarter faster than d_logitsᵀ · images.
            d_text += tf.cast(tf.matmul(images, d_logits, transpose_a=True), dtype)
            return row + 1, _add_tile(d_images, row, d_image), d_text

        start = d_images, tf.zeros_like(tf.transpose(texts))
        _, d_images, d_text = _loop(tiles.row_tiles, row_step, start)
        d_text = tf.transpose(d_text)
        d_scale += tf.reduce_sum(d_text * texts) / count
        d_texts = _add_tile(d_texts, column, d_text * step_scale)
        return column + 1, d_images, d_texts, d_scale

    start = (
        _array_of_tiles(_in_tiles(d_images, tiles.row_tiles)),
        _array_of_tiles(_in_tiles(d_texts, tiles.column_tiles)),
        tf.zeros([], dtype),
    )
    _, d_images, d_texts, d_scale = _loop(tiles.column_tiles, column_step, start)
    d_images = d_images.stack()
    # One after the other: the arrays' tiles are freed as they are stacked.
    with tf.control_dependencies([d_images]):
        d_texts = d_texts.stack()
    return (
        _from_tiles(d_images, tiles.num_rows),
        _from_tiles(d_texts, tiles.num_columns),
        d_scale,
    )


def _array_of_tiles(tiles):
    return tf.TensorArray(
        tiles.dtype,
        tf.shape(tiles)[0],
        element_shape=tiles.shape[1:],
        clear_after_read=False,
    ).unstack(tiles)


def _add_tile(tiles, number, tile):
    return tiles.write(number, tiles.read(number) + tile)


def _loop(count, body, start):
    """Runs `body(number, *values)` so many times, one at a time."""
    return tf.while_loop(
        lambda number, *_: number < count, body, (0, *start), parallel_iterations=1
    )


def _length(tensor):
    """Rows of a tensor; an int where it is known, so that shapes stay static."""
    return tf.shape(tensor)[0] if tensor.shape[0] is None else tensor.shape[0]


def _in_tiles(tensor, tiles):
    """Pads the rows with zeros and cuts them: (tiles, rows of a tile, …)."""
    length = _length(tensor)
    size = -(-length // tiles)
    static = isinstance(length, int) and isinstance(tiles, int)
    if not static or tiles * size != length:
        others = [[0, 0]] * (len(tensor.shape) - 1)
        tensor = tf.pad(tensor, [[0, tiles * size - length], *others])
    return tf.reshape(tensor, [tiles, size, *tensor.shape[1:]])


def _from_tiles(tensor, length):
    """Undoes `_in_tiles`."""
    rows = tf.reshape(tensor, [-1, *tensor.shape[2:]])
    return rows if rows.shape[0] == length else rows[:length]


def _padding_mask(length, tensor):
    """Returns bool (tiles, rows of a tile), False for padding; None without any."""
    tiles, size = tensor.shape[:2]
    if tiles is not None and size is not None and tiles * size == length:
        return None
    return _in_tiles(tf.ones([length], tf.bool), tf.shape(tensor)[0])


def row_dots(rows: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
    """Returns each row's dot product with its like, (n,), without their products."""
    return tf.einsum("nd,nd->n", rows, others)


def _longest(rows):
    """Returns the largest length of a row."""
    return tf.sqrt(tf.reduce_max(row_dots(rows, rows)))
