"""Communication between replicas."""

import tensorflow as tf

UNEQUAL_ROWS = (
    "All replicas must have the same number of rows. Use a batch size that is a "
    "multiple of the number of replicas, and drop_remainder=True."
)


def gather_replicas(tensor: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the rows of all replicas, and the index of this replica's first row.

    The gradients of each row are summed over replicas. All replicas must have the same
    number of rows. Otherwise the step raises `tf.errors.InvalidArgumentError`.

    >>> rows, offset = gather_replicas(tf.ones((2, 3)))
    >>> rows.shape, int(offset)
    (TensorShape([2, 3]), 0)
    """
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return tensor, tf.constant(0)
    if tensor.shape[0] is None:
        tensor = _with_equal_rows(context, tensor)
    gathered = context.all_gather(tensor, axis=0)
    # `all_gather` loses the static shape, which loops over tiles need.
    rows = tensor.shape[0] and tensor.shape[0] * context.num_replicas_in_sync
    gathered.set_shape([rows, *tensor.shape[1:]])
    offset = context.replica_id_in_sync_group * tf.shape(tensor)[0]
    return gathered, tf.cast(offset, tf.int32)


def _with_equal_rows(
    context: tf.distribute.ReplicaContext, tensor: tf.Tensor
) -> tf.Tensor:
    """Returns a tensor, and checks that it has the same number of rows everywhere."""
    rows = tf.shape(tensor)[:1]
    check = tf.debugging.assert_equal(
        context.all_gather(rows, axis=0), rows, UNEQUAL_ROWS
    )
    with tf.control_dependencies([check]):
        return tf.identity(tensor)


def replica_count() -> int:
    """Returns the number of replicas in sync, or 1 outside of a strategy."""
    context = tf.distribute.get_replica_context()
    return 1 if context is None else context.num_replicas_in_sync


def reduce_over_replicas(operation: str, tensors: list[tf.Tensor]) -> list[tf.Tensor]:
    """Returns the "SUM" or "MEAN" of each tensor over all replicas."""
    if replica_count() == 1:
        return tensors
    return tf.distribute.get_replica_context().all_reduce(operation, tensors)
