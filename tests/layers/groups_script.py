"""Compares normalization over groups of replicas with ghost batches on one device.

`python groups_script.py COUNT` prints a JSON object with the largest difference for
each group size. test_batch_normalization.py runs the script in a process for each
number of replicas, since logical devices must be created before TensorFlow is used, and
a process can have only one MirroredStrategy.
"""

import json
import sys

import numpy as np
import tensorflow as tf

from align_keras.layers import FusedBatchNormalization
from align_keras.training.strategies import make_strategy, split_cpu, strategy_scope

# Rows of a replica.
ROWS = 3


def build_layer(strategy=None, **arguments):
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


def replica_results(strategy, layer, inputs, weights):
    """Returns the outputs, gradients and moving statistics of all replicas."""

    def distribute(values):
        parts = iter(np.split(values, strategy.num_replicas_in_sync))
        return strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(next(parts))
        )

    @tf.function
    def run(inputs, weights):
        def replica_step(inputs, weights):
            values = outputs_and_gradients(layer, inputs, weights)
            return *values, layer.moving_mean.value + 0, layer.moving_variance.value + 0

        return strategy.run(replica_step, (inputs, weights))

    outputs, input_gradients, gamma_gradients, beta_gradients, *statistics = [
        [part.numpy() for part in strategy.experimental_local_results(result)]
        for result in run(distribute(inputs), distribute(weights))
    ]
    return (
        np.concatenate(outputs),
        np.concatenate(input_gradients),
        np.sum(gamma_gradients, axis=0),
        np.sum(beta_gradients, axis=0),
        *(np.mean(statistic, axis=0) for statistic in statistics),
    )


def difference(strategy, count, group, replicas_per_ghost, dtype="float32"):
    """Returns the largest relative difference from ghost batches on one device.

    Args:
        strategy: strategy of `count` replicas.
        count: int, number of replicas.
        group: int or "auto", `replicas_per_group`.
        replicas_per_ghost: int, number of replicas whose rows are a ghost batch.
        dtype: str, dtype of the layers.
    """
    random = np.random.default_rng(0)
    shape = (count * ROWS, 5, 4, 3)
    inputs = (3 * random.normal(size=shape) + 1).astype(dtype)
    weights = random.normal(size=shape).astype(dtype)
    grouped = build_layer(strategy, replicas_per_group=group, dtype=dtype)
    actual = replica_results(strategy, grouped, inputs, weights)
    ghosts = build_layer(virtual_batch_size=replicas_per_ghost * ROWS, dtype=dtype)
    expected = outputs_and_gradients(ghosts, tf.constant(inputs), tf.constant(weights))
    expected += ghosts.moving_mean.value, ghosts.moving_variance.value
    return max(
        float(np.abs(values - np.asarray(exact)).max() / np.abs(exact).max())
        for values, exact in zip(actual, expected, strict=True)
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
                str(group): difference(strategy, count, group, replicas_per_ghost)
                for group, replicas_per_ghost in cases.items()
            }
        )
    )


if __name__ == "__main__":
    main()
