"""Prints by how much groups of replicas differ from ghost batches on one device.

`python groups_script.py COUNT` prints a line of JSON, a number for each size of the
group. Logical devices must be made before TensorFlow is used, and a process holds one
MirroredStrategy; so test_batch_normalization.py runs one process a count.
"""

import json
import sys

import numpy as np
import tensorflow as tf

from align_keras.layers import FusedBatchNormalization
from align_keras.training.strategies import make_strategy, split_cpu, strategy_scope

ROWS = 3  # On each replica.


def built(strategy=None, **arguments):
    with strategy_scope(strategy):
        layer = FusedBatchNormalization(momentum=0.9, **arguments)
        layer.build((None, 5, 4, 3))
    random = np.random.default_rng(1)
    layer.set_weights([random.uniform(0.5, 2.0, size=3) for _ in range(4)])
    return layer


def outputs_and_gradients(layer, inputs, weights):
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = layer(inputs, training=True)
        loss = tf.reduce_sum(outputs * weights)
    variables = [variable.value for variable in layer.trainable_variables]
    return outputs, *tape.gradient(loss, [inputs, *variables])


def of_replicas(strategy, layer, inputs, weights):
    """The same of all replicas' rows: gradients and moving statistics by all."""

    def shares(values):
        parts = iter(np.split(values, strategy.num_replicas_in_sync))
        return strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(next(parts))
        )

    @tf.function
    def run(inputs, weights):
        def each(inputs, weights):
            values = outputs_and_gradients(layer, inputs, weights)
            return *values, layer.moving_mean.value + 0, layer.moving_variance.value + 0

        return strategy.run(each, (inputs, weights))

    outputs, at_inputs, *others = [
        [part.numpy() for part in strategy.experimental_local_results(own)]
        for own in run(shares(inputs), shares(weights))
    ]
    gamma, beta = (np.sum(own, axis=0) for own in others[:2])
    statistics = [np.mean(own, axis=0) for own in others[2:]]
    return np.concatenate(outputs), np.concatenate(at_inputs), gamma, beta, *statistics


def difference(strategy, count, group, together, dtype="float32"):
    """The largest difference from ghost batches of `together` replicas' rows."""
    random = np.random.default_rng(0)
    shape = (count * ROWS, 5, 4, 3)
    inputs = (3 * random.normal(size=shape) + 1).astype(dtype)
    weights = random.normal(size=shape).astype(dtype)
    grouped = built(strategy, replicas_per_group=group, dtype=dtype)
    ours = of_replicas(strategy, grouped, inputs, weights)
    ghosts = built(virtual_batch_size=together * ROWS, dtype=dtype)
    theirs = outputs_and_gradients(ghosts, tf.constant(inputs), tf.constant(weights))
    theirs += ghosts.moving_mean.value, ghosts.moving_variance.value
    return max(
        float(np.abs(one - np.asarray(other)).max() / np.abs(other).max())
        for one, other in zip(ours, theirs, strict=True)
    )


def main():
    count = int(sys.argv[1])
    split_cpu(count)
    strategy = make_strategy("mirrored", count)
    cases = {"auto": 8 if count > 8 else 1}
    if count <= 8:
        cases |= {size: size for size in (1, 2, 4) if size <= count}
    print(
        json.dumps(
            {
                str(group): difference(strategy, count, group, together)
                for group, together in cases.items()
            }
        )
    )


if __name__ == "__main__":
    main()
