"""Tests of AdamW in comparison with Keras, and of learning-rate multipliers."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from align_keras.optimizers import AdamW, Lamb, Muon, paper_schedule
from align_keras.utils.errors import InputError


def train(optimizer, names=("kernel", "bias"), steps=20):
    random = np.random.default_rng(0)
    variables = [
        keras.Variable(random.normal(size=(4, 3)), dtype="float32", name=name)
        for name in names
    ]
    for _ in range(steps):
        gradients = [
            keras.ops.convert_to_tensor(random.normal(size=(4, 3)), "float32")
            for _ in names
        ]
        optimizer.apply(gradients, variables)
    return [variable.numpy() for variable in variables]


def test_updates_equal_those_of_keras():
    schedule = keras.optimizers.schedules.CosineDecay(0.05, 20)
    reference = keras.optimizers.AdamW(schedule, weight_decay=0.3, epsilon=1e-6)
    reference.exclude_from_weight_decay(var_names=["bias"])
    optimizer = AdamW(schedule, weight_decay=0.3, epsilon=1e-6)
    for actual, expected in zip(train(optimizer), train(reference), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("optimizer", [AdamW, Lamb, Muon])
def test_the_first_matching_multiplier_scales_the_learning_rate(optimizer):
    multipliers = {"learning_rate_multipliers": {"kern": 0.1, "kernel": 7.0}}
    kernel, bias = train(optimizer(0.05, weight_decay=0.3, **multipliers))
    full_rate = train(optimizer(0.05, weight_decay=0.3))
    tenth_rate = train(optimizer(0.005, weight_decay=0.3))
    np.testing.assert_allclose(kernel, tenth_rate[0], rtol=1e-5)
    np.testing.assert_allclose(bias, full_rate[1], rtol=1e-5)
    assert np.abs(tenth_rate[0] - full_rate[0]).max() > 0.1


@pytest.mark.parametrize("optimizer_class", [AdamW, Lamb, Muon])
def test_a_copy_from_the_config_has_the_same_config(optimizer_class):
    optimizer = optimizer_class(
        paper_schedule(1e-2, 5, 20),
        weight_decay=0.3,
        exclusions=["x"],
        learning_rate_multipliers={"y": 0.5},
    )
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert copy.get_config() == optimizer.get_config()
    assert copy.learning_rate_multipliers == {"y": 0.5}


@pytest.mark.parametrize(
    "arguments",
    [
        {"clipnorm": 0.5},
        pytest.param({"global_clipnorm": 0.5}, marks=pytest.mark.release),
        {"use_ema": True, "ema_momentum": 0.5, "ema_overwrite_frequency": 3},
        {"gradient_accumulation_steps": 2},
        pytest.param({"amsgrad": True}, marks=pytest.mark.release),
        pytest.param(
            {"beta_1": 0.5, "beta_2": 0.9, "epsilon": 1e-3}, marks=pytest.mark.release
        ),
    ],
)
def test_updates_with_other_arguments_equal_those_of_keras(arguments):
    reference = keras.optimizers.AdamW(0.05, weight_decay=0.3, **arguments)
    reference.exclude_from_weight_decay(var_names=["bias"])
    optimizer = AdamW(0.05, weight_decay=0.3, **arguments)
    for actual, expected in zip(train(optimizer), train(reference), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-6)


def train_embedding(make_optimizer, strategy=None, dense=False):
    """Returns an embedding table after 20 steps in a graph.

    A step uses one row twice, two rows once, and leaves the other rows out.
    """
    strategy = strategy or tf.distribute.get_strategy()
    random = np.random.default_rng(0)
    with strategy.scope():
        layer = keras.layers.Embedding(7, 3)
        layer.build()
        layer.embeddings.assign(random.normal(size=(7, 3)))
        optimizer = make_optimizer()
        optimizer.build(layer.trainable_variables)

    def step(rows, target):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum((layer(rows) - target) ** 2)
        gradient = tape.gradient(loss, layer.embeddings.value)
        assert isinstance(gradient, tf.IndexedSlices)
        if dense:
            gradient = tf.convert_to_tensor(gradient)
        optimizer.apply([gradient], layer.trainable_variables)

    run = tf.function(lambda *inputs: strategy.run(step, inputs))
    for _ in range(20):
        rows = tf.constant([0, 2, 2, 5], "int32")
        run(rows, tf.constant(random.normal(size=(4, 3)), "float32"))
    return layer.embeddings.numpy()


def test_updates_by_slices_equal_those_of_keras_by_a_dense_gradient():
    # Keras squares each slice of a repeated row instead of their sum, so the reference
    # uses a dense gradient.
    arguments = {
        "learning_rate": keras.optimizers.schedules.CosineDecay(0.05, 20),
        "weight_decay": 0.3,
    }
    expected = train_embedding(lambda: keras.optimizers.AdamW(**arguments), dense=True)
    for strategy in (None, tf.distribute.MirroredStrategy(["CPU:0"])):
        actual = train_embedding(lambda: AdamW(**arguments), strategy)
        np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-6)


def test_updates_of_lamb_by_slices_equal_those_by_a_dense_gradient():
    expected = train_embedding(lambda: Lamb(0.05), dense=True)
    actual = train_embedding(lambda: Lamb(0.05))
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_a_single_pattern_is_refused():
    with pytest.raises(InputError, match="exclusions"):
        AdamW(exclusions="bias|gamma")
    with pytest.raises(InputError, match="by_adam"):
        Muon(by_adam="embedding")
