"""Communication between replicas."""

import tensorflow as tf


def gather_replicas(tensor: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the rows of all replicas, and the index of this replica's first row.

    The gradients of each row are summed over replicas.

    >>> rows, offset = gather_replicas(tf.ones((2, 3)))
    >>> rows.shape, int(offset)
    (TensorShape([2, 3]), 0)
    """
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return tensor, tf.constant(0)
    gathered = context.all_gather(tensor, axis=0)
    # `all_gather` loses the static shape, which loops over tiles need.
    rows = tensor.shape[0] and tensor.shape[0] * context.num_replicas_in_sync
    gathered.set_shape([rows, *tensor.shape[1:]])
    offset = context.replica_id_in_sync_group * tf.shape(tensor)[0]
    return gathered, tf.cast(offset, tf.int32)


def replica_count() -> int:
    """Returns the number of replicas in sync, or 1 outside of a strategy."""
    context = tf.distribute.get_replica_context()
    return 1 if context is None else context.num_replicas_in_sync


def reduce_over_replicas(operation: str, tensors: list[tf.Tensor]) -> list[tf.Tensor]:
    """Returns the "SUM" or "MEAN" of each tensor over all replicas."""
    if replica_count() == 1:
        return tensors
    return tf.distribute.get_replica_context().all_reduce(operation, tensors)
