"""Prints by how much training steps on replicas differ from those on one device.

`python updates_script.py COUNT` prints a line of JSON. Logical devices must be made
before TensorFlow is used, and a process holds one MirroredStrategy; so test_updates.py
runs one process a count.
"""

import json
import sys

import keras
import numpy as np

from align_keras.losses import ContrastiveLoss
from align_keras.losses.cross_replica import reduce_over_replicas
from align_keras.models import ALIGN, ImageEncoder, TextEncoder
from align_keras.optimizers import SGD, AdamW, Lamb, Muon, apply_if
from align_keras.optimizers.replica_gradients import take_summed_gradients
from align_keras.training.strategies import make_strategy, split_cpu, strategy_scope

ROWS, LENGTH = 16, 6
# At 32 pixels the last blocks have one pixel, and normalizing two rows of it by
# themselves magnifies rounding without bound; the one comparison of `few` has eight.
SIZE = 32 if "few" in sys.argv else 64


def batch(seed=0):
    random = np.random.default_rng(seed)
    token_ids = random.integers(5, 30, (ROWS, LENGTH)).astype("int32")
    token_ids[12] = token_ids[1]  # equal captions on different replicas
    return {
        "images": random.integers(0, 256, (ROWS, SIZE, SIZE, 3)).astype("uint8"),
        "token_ids": token_ids,
        "padding_mask": np.ones((ROWS, LENGTH), "int32"),
    }


def make_model(dropout=0.0, initial_temperature=1.0, **image_arguments):
    keras.utils.set_random_seed(0)
    image_encoder = ImageEncoder(
        width_coefficient=0.25,
        depth_coefficient=0.3,
        num_stages=3,
        image_size=SIZE,
        projection_dim=16,
        drop_connect_rate=dropout,
        **image_arguments,
    )
    text_encoder = TextEncoder(
        vocabulary_size=30,
        num_layers=1,
        hidden_dim=16,
        num_heads=2,
        intermediate_dim=32,
        projection_dim=16,
        dropout=dropout,
        sequence_length=LENGTH,
    )
    return ALIGN(image_encoder, text_encoder, initial_temperature=initial_temperature)


def optimizer(name, **arguments):
    """The optimizer of that name.

    Some gradients are zero but for rounding, such as those of a bias before a
    normalization; Adam's and LAMB's epsilon lies above that, else the sign of the
    rounding would decide on a whole step.
    """
    if name == "sgd":
        return SGD(0.05, **arguments)
    kinds = {"lamb": Lamb, "adamw": AdamW, "muon": Muon}
    return kinds[name](1e-3, epsilon=1e-2, **arguments)


def compile_with(model, optimizer, **options):
    """Compiles with options of the loss and of `compile`."""
    names = [name for name in ContrastiveLoss.options() if name in options]
    loss = ContrastiveLoss(**{name: options.pop(name) for name in names})
    model.compile(optimizer, loss, **options)


def trained(strategy, steps=1, model=None, optimizer_name="sgd", clip=None, **compiled):
    """Returns {path: values} of all weights after some steps of `fit`."""
    import tensorflow as tf

    with strategy_scope(strategy):
        built = make_model(**(model or {}))
        compile_with(built, optimizer(optimizer_name, global_clipnorm=clip), **compiled)
    batches = [batch(seed) for seed in range(steps)]
    data = {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}
    dataset = tf.data.Dataset.from_tensor_slices(data).batch(ROWS, drop_remainder=True)
    built.fit(dataset, epochs=1, verbose=0)
    variables = built.image_encoder.variables + built.text_encoder.variables
    variables.append(built.temperature_layer.log_temperature)
    return {variable.path: variable.numpy() for variable in variables}


def difference(ours, theirs):
    """The largest difference of any weight, moving statistics included."""
    return float(
        max(
            np.abs(ours[path].astype("float64") - theirs[path]).max()
            for path in ours
            if "seed_generator" not in path
        )
    )


def compare(strategy, single, several, steps=3, **both):
    """Trains on one device as `single` says and on replicas as `several` says."""
    expected = trained(None, steps, **both, **single)
    actual = trained(strategy, steps, **both, **several)
    return difference(actual, expected)


def comparisons(strategy, count):
    """Yields (name, largest difference of any weight), after three steps mostly."""
    synchronized = {"model": {"synchronized": True}}
    # Four replicas take minutes to trace: the rest is the same on two.
    few = count < 4
    for name in ("sgd", "lamb", "adamw", "muon") if few else ("sgd", "lamb"):
        arguments = {**synchronized, "optimizer_name": name}
        yield f"one {name}", compare(strategy, {}, {}, steps=1, **arguments)
        if few:
            yield name, compare(strategy, {}, {}, **arguments)
    # Each replica's own statistics are ghost batches of the whole batch.
    ghosts = {"model": {"virtual_batch_size": ROWS // count}}
    yield "local", compare(strategy, ghosts, {})
    # Groups of two replicas are ghost batches of theirs; one is by itself.
    pairs = {"model": {"virtual_batch_size": ROWS * min(2, count) // count}}
    yield "grouped", compare(strategy, pairs, {"model": {"replicas_per_group": 2}})
    ghosts = {"model": {"virtual_batch_size": 2}}
    yield "ghost", compare(strategy, ghosts, ghosts)
    if few:
        arguments = {**synchronized, "clip": 0.1}
        yield "clipped", compare(strategy, {}, {}, **arguments)
        shared = {"share_equal_captions": True}
        yield "shared captions", compare(strategy, shared, shared, **synchronized)
        yield "tiled", compare(strategy, {}, {"tile_size": 3}, **synchronized)
        yield "micro", compare(strategy, ghosts, {"micro_batch_size": 2})
    if count == 2:  # Where is of no account: once is enough.
        yield "micro_on_one", compare(None, ghosts, {"micro_batch_size": 2})


def masks(strategy):
    """Equal rows on all replicas: embeddings differ by dropout's masks alone."""
    import tensorflow as tf

    with strategy.scope():
        model = make_model(dropout=0.5)
        model.compile(SGD(0.0))
    rows = {name: np.repeat(v[:1], ROWS, 0) for name, v in batch().items()}

    @tf.function
    def embeddings():
        def each():
            before = model.forward_state.read()
            model.forward_state.part_replicas()
            outputs = model(rows, training=True)
            model.forward_state.settle(before, tf.constant(True))
            return outputs["text_embedding"]

        return strategy.run(each)

    first, second = strategy.experimental_local_results(embeddings())[:2]
    seeds = [seed.numpy().tolist() for seed in model.forward_state.seeds]
    again = strategy.experimental_local_results(embeddings())[0]
    return {
        "between_replicas": float(np.abs(first - second).max()),
        "between_steps": float(np.abs(first - again).max()),
        "seeds": seeds,
    }


def overflow(strategy):
    """An infinite gradient on one replica alone, under loss scaling."""
    import tensorflow as tf

    with strategy.scope():
        variable = keras.Variable([1.0])
        optimizer = keras.optimizers.LossScaleOptimizer(SGD(0.1), initial_scale=8.0)
        optimizer.build([variable])

    @tf.function
    def step(bad):
        def each():
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            gradient = tf.where((replica == 1) & bad, float("inf"), 4.0)
            (gradient,) = reduce_over_replicas("SUM", [gradient[None]])
            gradients = take_summed_gradients(optimizer, [gradient], 2)
            apply_if(tf.constant(True), optimizer, gradients, [variable])

        strategy.run(each)

    values = []
    for bad in (True, False):
        step(tf.constant(bad))
        values += [float(v.numpy()[0]) for v in variable.value.values]
    return {"values": values, "scale": float(optimizer.dynamic_scale.numpy())}


def main():
    count = int(sys.argv[1])
    split_cpu(count)
    strategy = make_strategy("mirrored", count)
    start = trained(None, steps=1, model={"synchronized": True})
    moved = difference(trained(None, steps=3, model={"synchronized": True}), start)
    differences = dict(comparisons(strategy, count))
    others = {}
    if count > 1:
        others = {"masks": masks(strategy), "overflow": overflow(strategy)}
    print(json.dumps({"moved": moved, **differences, **others}))


if __name__ == "__main__":
    main()
