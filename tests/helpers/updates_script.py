"""Compares training steps on several replicas with the same steps on one device.

`python updates_script.py COUNT` trains on COUNT replicas and prints the differences as
a line of JSON. Logical devices must be created before TensorFlow is used, and a process
can have only one `MirroredStrategy`. So `test_updates.py` starts a process for each
number of replicas.
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
# Pixels. At 32 pixels the last blocks have a single pixel. The normalization of a ghost
# batch of two rows would then amplify rounding errors without limit.
SIZE = 64


def batch(seed=0):
    """Returns a batch of random images and captions."""
    random = np.random.default_rng(seed)
    token_ids = random.integers(5, 30, (ROWS, LENGTH)).astype("int32")
    # Two replicas have the same caption.
    token_ids[12] = token_ids[1]
    return {
        "images": random.integers(0, 256, (ROWS, SIZE, SIZE, 3)).astype("uint8"),
        "token_ids": token_ids,
        "padding_mask": np.ones((ROWS, LENGTH), "int32"),
    }


def make_model(
    dropout=0.0,
    initial_temperature=1.0,
    image_size=SIZE,
    sequence_length=LENGTH,
    **image_arguments,
):
    """Returns a small ALIGN with the same initial weights at each call."""
    keras.utils.set_random_seed(0)
    image_encoder = ImageEncoder(
        width_coefficient=0.25,
        depth_coefficient=0.3,
        num_stages=3,
        image_size=image_size,
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
        sequence_length=sequence_length,
    )
    return ALIGN.from_encoders(
        image_encoder, text_encoder, initial_temperature=initial_temperature
    )


def optimizer(name, **arguments):
    """Returns the optimizer with a name.

    Some gradients consist only of rounding errors, such as that of a bias before a
    normalization. The epsilon of Adam and LAMB is larger than these gradients.
    Otherwise the sign of a rounding error would decide the direction of a whole step.
    """
    if name == "sgd":
        return SGD(0.05, **arguments)
    kinds = {"lamb": Lamb, "adamw": AdamW, "muon": Muon}
    return kinds[name](1e-3, epsilon=1e-2, **arguments)


def compile_with(model, optimizer, **options):
    """Compiles the model with options of the loss and of `compile`."""
    names = [name for name in ContrastiveLoss.options() if name in options]
    loss = ContrastiveLoss(**{name: options.pop(name) for name in names})
    model.compile(optimizer, loss, **options)


def train_weights(
    strategy, steps=1, model=None, optimizer_name="sgd", clip=None, **compiled
):
    """Trains a new model for some steps. Returns a dict of variable path → values."""
    import tensorflow as tf

    with strategy_scope(strategy):
        align = make_model(**(model or {}))
        compile_with(align, optimizer(optimizer_name, global_clipnorm=clip), **compiled)
    batches = [batch(seed) for seed in range(steps)]
    data = {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}
    dataset = tf.data.Dataset.from_tensor_slices(data).batch(ROWS, drop_remainder=True)
    align.fit(dataset, epochs=1, verbose=0)
    variables = align.image_encoder.variables + align.text_encoder.variables
    variables.append(align.temperature_layer.log_temperature)
    return {variable.path: variable.numpy() for variable in variables}


def largest_difference(actual, expected):
    """Returns the largest difference of any weight or moving statistic."""
    return float(
        max(
            np.abs(actual[path].astype("float64") - expected[path]).max()
            for path in actual
            if "seed_generator" not in path
        )
    )


def compare(strategy, single_options, replica_options, steps=3, **common_options):
    """Trains on one device and on replicas. Returns the largest difference.

    Args:
        strategy: Strategy of the replicas.
        single_options: Options of `train_weights` on one device.
        replica_options: Options of `train_weights` on the replicas.
        steps: Number of steps.
        **common_options: Options of both.
    """
    expected = train_weights(None, steps, **common_options, **single_options)
    actual = train_weights(strategy, steps, **common_options, **replica_options)
    return largest_difference(actual, expected)


def compare_all(strategy, count):
    """Yields (name, largest difference of any weight), mostly after three steps."""
    synchronized = {"model": {"synchronized": True}}
    # Four replicas take minutes to trace, so most comparisons run on two.
    runs_all = count < 4
    for name in ("sgd", "lamb", "adamw", "muon") if runs_all else ("sgd", "lamb"):
        arguments = {**synchronized, "optimizer_name": name}
        yield f"one {name}", compare(strategy, {}, {}, steps=1, **arguments)
        if runs_all:
            yield name, compare(strategy, {}, {}, **arguments)
    # Statistics per replica equal those of ghost batches of a replica's size.
    ghosts = {"model": {"virtual_batch_size": ROWS // count}}
    yield "local", compare(strategy, ghosts, {})
    # Statistics per group of two replicas equal those of ghost batches of twice that
    # size. A single replica forms a group by itself.
    pairs = {"model": {"virtual_batch_size": ROWS * min(2, count) // count}}
    yield "grouped", compare(strategy, pairs, {"model": {"replicas_per_group": 2}})
    ghosts = {"model": {"virtual_batch_size": 2}}
    yield "ghost", compare(strategy, ghosts, ghosts)
    if runs_all:
        arguments = {**synchronized, "clip": 0.1}
        yield "clipped", compare(strategy, {}, {}, **arguments)
        shared = {"share_equal_captions": True}
        yield "shared captions", compare(strategy, shared, shared, **synchronized)
        yield "tiled", compare(strategy, {}, {"tile_size": 3}, **synchronized)
        yield "micro", compare(strategy, ghosts, {"micro_batch_size": 2})
    if count == 2:
        # This comparison does not use the replicas, so it runs for one count only.
        yield "micro_on_one", compare(None, ghosts, {"micro_batch_size": 2})


def compare_masks(strategy):
    """Compares dropout masks of replicas and of steps.

    All replicas get the same rows, so only the masks make the embeddings differ.

    Returns:
        Dict with the largest difference between replicas and between steps, and the
        seeds.
    """
    import tensorflow as tf

    with strategy.scope():
        model = make_model(dropout=0.5)
        model.compile(SGD(0.0))
    rows = {name: np.repeat(v[:1], ROWS, 0) for name, v in batch().items()}

    @tf.function
    def embeddings():
        def replica_step():
            before = model.forward_state.start_step()
            outputs = model(rows, training=True)
            model.forward_state.end_step(before, tf.constant(True))
            return outputs["text_embedding"]

        return strategy.run(replica_step)

    first, second = strategy.experimental_local_results(embeddings())[:2]
    seeds = [seed.numpy().tolist() for seed in model.forward_state.seeds]
    again = strategy.experimental_local_results(embeddings())[0]
    return {
        "between_replicas": float(np.abs(first - second).max()),
        "between_steps": float(np.abs(first - again).max()),
        "seeds": seeds,
    }


def apply_overflow(strategy):
    """Applies an infinite gradient of a single replica with loss scaling.

    Returns:
        Dict with the values of a variable after that step and a normal one, and the
        loss scale.
    """
    import tensorflow as tf

    with strategy.scope():
        variable = keras.Variable([1.0])
        optimizer = keras.optimizers.LossScaleOptimizer(SGD(0.1), initial_scale=8.0)
        optimizer.build([variable])

    @tf.function
    def step(is_infinite):
        def replica_step():
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            gradient = tf.where((replica == 1) & is_infinite, float("inf"), 4.0)
            (gradient,) = reduce_over_replicas("SUM", [gradient[None]])
            gradients = take_summed_gradients(optimizer, [gradient], 2)
            apply_if(tf.constant(True), optimizer, gradients, [variable])

        strategy.run(replica_step)

    values = []
    for is_infinite in (True, False):
        step(tf.constant(is_infinite))
        values += [float(v.numpy()[0]) for v in variable.value.values]
    return {"values": values, "scale": float(optimizer.dynamic_scale.numpy())}


def main():
    count = int(sys.argv[1])
    split_cpu(count)
    strategy = make_strategy("mirrored", count)
    start = train_weights(None, steps=1, model={"synchronized": True})
    moved = largest_difference(
        train_weights(None, steps=3, model={"synchronized": True}), start
    )
    differences = dict(compare_all(strategy, count))
    replica_results = {}
    if count > 1:
        replica_results = {
            "masks": compare_masks(strategy),
            "overflow": apply_overflow(strategy),
        }
    print(json.dumps({"moved": moved, **differences, **replica_results}))


if __name__ == "__main__":
    main()
