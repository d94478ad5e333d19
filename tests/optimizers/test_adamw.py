"""AdamW against Keras's own, and learning-rate multipliers."""

import keras
import numpy as np
import pytest

from align_keras.optimizers import AdamW, Lamb, paper_schedule
from align_keras.utils.errors import InputError


def trained(optimizer, names=("kernel", "bias"), steps=20):
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


def test_equals_keras():
    schedule = keras.optimizers.schedules.CosineDecay(0.05, 20)
    reference = keras.optimizers.AdamW(schedule, weight_decay=0.3, epsilon=1e-6)
    reference.exclude_from_weight_decay(var_names=["bias"])
    ours = AdamW(schedule, weight_decay=0.3, epsilon=1e-6)
    for actual, expected in zip(trained(ours), trained(reference), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("optimizer", [AdamW, Lamb])
def test_multiplier_equals_a_smaller_rate(optimizer):
    slow = {"learning_rate_multipliers": {"kern": 0.1, "kernel": 7.0}}
    both = trained(optimizer(0.05, weight_decay=0.3, **slow))
    full = trained(optimizer(0.05, weight_decay=0.3))
    tenth = trained(optimizer(0.005, weight_decay=0.3))
    np.testing.assert_allclose(both[0], tenth[0], rtol=1e-5)
    np.testing.assert_allclose(both[1], full[1], rtol=1e-5)
    assert np.abs(tenth[0] - full[0]).max() > 0.1


@pytest.mark.parametrize("optimizer", [AdamW, Lamb])
def test_config_round_trip(optimizer):
    ours = optimizer(
        paper_schedule(1e-2, 5, 20),
        weight_decay=0.3,
        exclusions=["x"],
        learning_rate_multipliers={"y": 0.5},
    )
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(ours))
    assert copy.get_config() == ours.get_config()
    assert copy.learning_rate_multipliers == {"y": 0.5}


def test_multipliers_must_be_positive():
    with pytest.raises(InputError, match="must be positive, received 0"):
        AdamW(learning_rate_multipliers={"image": 0})
