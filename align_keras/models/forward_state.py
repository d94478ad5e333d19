"""What a forward pass in training changes: batch statistics and dropout's seeds."""

import tensorflow as tf

from align_keras.layers import FusedBatchNormalization
from align_keras.losses.cross_replica import mean_over_replicas, replica_count

# Far apart, so that no two replicas draw the same masks within a run.
_SEED_STRIDE = 1_000_003


class ForwardState:
    """The moving statistics and the seeds of a model.

    Args:
        model: `ALIGN` or `ImageClassifier`.
    """

    def __init__(self, model):
        layers = [
            layer
            for layer in model._flatten_layers()
            if isinstance(layer, FusedBatchNormalization)
            and layer.trainable
            and not layer.freeze_statistics
        ]
        self.statistics = [
            variable.value
            for layer in layers
            for variable in (layer.moving_mean, layer.moving_variance)
        ]
        self.synchronized = any(layer.synchronized for layer in layers)
        self.seeds = [
            variable.value
            for variable in model.non_trainable_variables
            if variable.path.endswith("seed_generator_state")
        ]

    def read(self):
        """Returns the present values of the statistics and of the seeds."""
        return read(self.statistics), read(self.seeds)

    def part_replicas(self):
        """Gives each replica seeds of its own; `settle` joins them again."""
        if replica_count() == 1:
            return
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        for seed in self.seeds:
            shift = tf.cast(replica * _SEED_STRIDE, seed.dtype)
            seed.assign(seed + tf.stack([shift, tf.zeros_like(shift)]))

    def settle(self, before, sound):
        """Ends a step: one state for all replicas, or the state before the step.

        Args:
            before: what `read` gave before the step.
            sound: scalar bool tensor, the same on each replica; if false, nothing
                of the step remains.
        """
        statistics, seeds = before
        after = read(self.statistics)
        if not self.synchronized and after:
            after = mean_over_replicas(after)
        write(self.statistics, after, statistics, sound)
        # Only the counter has moved for good; the first number names the replica.
        moved = [
            tf.stack([old[0], new[1]])
            for old, new in zip(seeds, read(self.seeds), strict=True)
        ]
        write(self.seeds, moved, seeds, sound)


def read(variables):
    """Returns the values of the variables, as they are now."""
    return [tf.identity(variable) for variable in variables]


def write(variables, values, otherwise=None, condition=True):
    """Assigns `values`, or `otherwise` where the condition is false."""
    otherwise = values if otherwise is None else otherwise
    for variable, value, other in zip(variables, values, otherwise, strict=True):
        variable.assign(
            value if condition is True else tf.where(condition, value, other)
        )
