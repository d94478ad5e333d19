"""Compares the tiled losses on several replicas with that of one device.

`python tiled_replicas_script.py REPLICAS` prints the largest difference of the
gradients in each case, and the MiB that a tiled loss needs in addition to its
embeddings. test_tiled_loss.py runs the script in a process for each number of replicas.
Logical devices must be created before TensorFlow is used, and a second strategy would
reuse the collective numbers of the first one.
"""

import resource
import sys

import numpy as np
import tensorflow as tf

from align_keras.losses import ContrastiveLoss, SigmoidLoss
from align_keras.training.strategies import make_strategy, split_cpu

ROWS, WIDTH, TEMPERATURE = 24, 6, 0.05
CASES = {
    "plain": {},
    "tiled": {"tile_size": 5},
    "saved": {"tile_size": "auto"},
    "groups": {"tile_size": 5},
    "half": {"tile_size": 5, "negatives_fraction": 0.5},
    "sigmoid": {"tile_size": 5},
    "sigmoid groups": {"tile_size": 5},
    "two groups": {"tile_size": 5},
}


def loss_and_gradients(images, texts, groups, replicas, loss_type, **options):
    temperature = tf.constant(TEMPERATURE, images.dtype)
    arguments = (images, texts, temperature)
    with tf.GradientTape() as tape:
        tape.watch(arguments)
        loss = loss_type(**options)(*arguments, pair_groups=groups) / replicas
    return loss, *tape.gradient(loss, arguments)


def on_replicas(strategy, images, texts, groups, loss_type, options):
    """Returns the total loss and the gradients of all rows and the temperature."""
    count = strategy.num_replicas_in_sync

    def distribute(values):
        parts = np.split(values, count)
        return strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(parts[context.replica_id_in_sync_group])
        )

    @tf.function
    def step(*rows):
        def replica(images, texts, groups=None):
            return loss_and_gradients(
                images, texts, groups, count, loss_type, **options
            )

        return strategy.run(replica, rows)

    inputs = [images, texts] if groups is None else [images, texts, groups]
    results = [
        [value.numpy() for value in strategy.experimental_local_results(result)]
        for result in step(*map(distribute, inputs))
    ]
    loss, d_images, d_texts, d_temperature = results
    return (
        sum(loss),
        np.concatenate(d_images),
        np.concatenate(d_texts),
        sum(d_temperature),
    )


def compute_expected(count, images, texts, groups, parts, loss_type):
    """Returns the results of the plain form on one device, computed part by part."""
    rows = np.arange(ROWS).reshape(count, parts, -1).swapaxes(0, 1).reshape(parts, -1)
    totals = [0.0, np.zeros_like(images), np.zeros_like(texts), 0.0]
    for part in rows:
        loss, d_images, d_texts, d_temperature = loss_and_gradients(
            tf.constant(images[part]),
            tf.constant(texts[part]),
            None if groups is None else tf.constant(groups[part]),
            parts,
            loss_type,
        )
        totals[0] += loss.numpy()
        totals[1][part], totals[2][part] = d_images, d_texts
        totals[3] += d_temperature.numpy()
    return totals


def print_replicas(count):
    random = np.random.default_rng(0)
    images = random.normal(size=(ROWS, WIDTH))
    texts = random.normal(size=(ROWS, WIDTH))
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    shared = random.integers(0, 8, (ROWS, 2))
    strategy = make_strategy("mirrored", count)
    for name, options in CASES.items():
        groups = None
        if name.endswith("groups"):
            groups = shared if name.startswith("two") else shared[:, 0]
        loss_type = SigmoidLoss if name.startswith("sigmoid") else ContrastiveLoss
        actual = on_replicas(strategy, images, texts, groups, loss_type, options)
        parts = 2 if name == "half" else 1
        expected = compute_expected(count, images, texts, groups, parts, loss_type)
        difference = max(
            np.abs(values - expected_values).max() / np.abs(expected_values).max()
            for values, expected_values in zip(actual, expected, strict=True)
        )
        print("replicas", name, difference)


def print_memory():
    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    rows = tf.math.l2_normalize(tf.random.normal((8192, 16)), axis=1)
    for loss_type in (SigmoidLoss, ContrastiveLoss):
        step = tf.function(loss_and_gradients)
        graph = step.get_concrete_function(
            rows, rows, None, 1, loss_type, tile_size=512
        )
        start = peak()
        graph(rows, rows)
        print("memory", peak() - start)


if __name__ == "__main__":
    replicas = int(sys.argv[1])
    split_cpu(replicas)
    print_memory()
    print_replicas(replicas)
