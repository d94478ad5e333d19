"""Groups of pairs that are positives of each other."""

import functools
import operator

import tensorflow as tf

from align_keras.utils.errors import InputError


def row_hashes(rows: tf.Tensor) -> tf.Tensor:
    """Returns an int64 hash of the integers of each row, (n,)."""
    length = tf.shape(rows)[1]
    multipliers = tf.random.stateless_uniform(
        [length], [length, 64], None, None, tf.int64
    )
    return tf.reduce_sum(tf.cast(rows, tf.int64) * multipliers, axis=1)


def group_columns(pair_groups: tf.Tensor) -> list[tf.Tensor]:
    """Returns the one or two columns of the groups, (n,) each.

    Raises:
        InputError: if the groups have another number of columns.
    """
    if pair_groups.shape.rank == 1:
        return [pair_groups]
    if pair_groups.shape.rank != 2 or pair_groups.shape[1] not in (1, 2):
        raise InputError(
            "pair_groups must have the shape (n,), (n, 1) or (n, 2). Received: shape "
            f"{pair_groups.shape}. Pass one or two numbers for each pair."
        )
    return tf.unstack(pair_groups, axis=1)


def matching_pairs(row_groups: tf.Tensor, column_groups: tf.Tensor) -> tf.Tensor:
    """Returns True for each row and column with a group in common.

    Args:
        row_groups: int tensor (n,) or (n, 2).
        column_groups: int tensor (m,) or (m, 2).

    Returns:
        Bool tensor (n, m). Two pairs match if they are equal in one of the columns.
    """
    matches = [
        tf.equal(rows[:, None], columns)
        for rows, columns in zip(
            group_columns(row_groups), group_columns(column_groups), strict=True
        )
    ]
    return functools.reduce(operator.or_, matches)


def matching_means(
    all_rows: tf.Tensor, all_groups: tf.Tensor, offset: tf.Tensor, count: tf.Tensor
) -> tf.Tensor:
    """Returns the mean of the rows that match each pair of this replica.

    The memory is linear in the number of rows.

    Args:
        all_rows: float tensor (m, d), rows of all replicas.
        all_groups: int tensor (m,) or (m, 2), groups of all replicas.
        offset: index of the first pair of this replica.
        count: number of pairs of this replica.

    Returns:
        Float tensor (count, d).
    """
    # The last column counts the rows.
    rows = tf.concat([all_rows, tf.ones_like(all_rows[:, :1])], axis=1)
    columns = group_columns(all_groups)
    sums = tf.add_n([_group_sums(rows, column, offset, count) for column in columns])
    if len(columns) == 2:
        # Rows that are equal in both columns were added twice.
        sums -= _group_sums(rows, row_hashes(all_groups), offset, count)
    return sums[:, :-1] / sums[:, -1:]


def _group_sums(
    rows: tf.Tensor, groups: tf.Tensor, offset: tf.Tensor, count: tf.Tensor
) -> tf.Tensor:
    """Returns the sum of the rows in the group of each pair of this replica."""
    numbers = _group_numbers(groups)
    # The number of segments is the number of rows, so that the shape is static. Empty
    # segments aren't read.
    sums = tf.math.unsorted_segment_sum(rows, numbers, tf.shape(rows)[0])
    return tf.gather(sums, numbers[offset : offset + count])


def _group_numbers(groups: tf.Tensor) -> tf.Tensor:
    """Returns the number of each row's group, counted from 0."""
    # `tf.unique` has a result of unknown length, which TPUs don't support.
    order = tf.argsort(groups)
    ordered = tf.gather(groups, order)
    begins = tf.cast(ordered[1:] != ordered[:-1], tf.int32)
    numbers = tf.pad(tf.cumsum(begins), [[1, 0]])
    return tf.scatter_nd(order[:, None], numbers, tf.shape(order))
