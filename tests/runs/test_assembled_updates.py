"""Tests of the weight decay of configured optimizers, with known updates."""

import keras
import numpy as np
import pytest

from align_keras.config import load_config
from align_keras.runs.model_from_config import build_optimizer

OPTIMIZER = "trainer.optimizer_config"
RATE, DECAY = 0.1, 0.5
# Factor of a decayed weight after a step with a zero gradient. The trust ratio of LAMB,
# 1 / decay, cancels the decay (You et al. 2020, algorithm 2).
DECOUPLED = 1 - RATE * DECAY
DECAYED = {"adamw": DECOUPLED, "muon": DECOUPLED, "sgd": DECOUPLED, "lamb": 1 - RATE}
NAMES = ("kernel", "bias", "gamma", "beta", "log_temperature")


def factors_of_a_zero_gradient(kind, override=""):
    """Returns the factor of each named weight after one step with a zero gradient."""
    rate = f"{OPTIMIZER}.learning_rate"
    overrides = [
        f"{OPTIMIZER}.optimizer.type={kind}",
        f"{OPTIMIZER}.optimizer.{kind}.weight_decay={DECAY}",
        f"{rate}.type=constant,{rate}.constant.learning_rate={RATE}",
        f"{OPTIMIZER}.warmup.type=null",
    ]
    overrides += [override] if override else []
    trainer = load_config(params_override=overrides).trainer
    optimizer = build_optimizer(trainer.optimizer_config, 100)
    weights = [keras.Variable([3.0, -4.0], name=name) for name in NAMES]
    optimizer.apply([keras.ops.zeros(2) for _ in weights], weights)
    return {
        name: weight.numpy() / [3.0, -4.0]
        for name, weight in zip(NAMES, weights, strict=True)
    }


@pytest.mark.parametrize("kind", DECAYED)
def test_vectors_and_the_temperature_are_not_decayed(kind):
    factors = factors_of_a_zero_gradient(kind)
    np.testing.assert_allclose(factors.pop("kernel"), DECAYED[kind], rtol=1e-6)
    for name, factor in factors.items():
        np.testing.assert_array_equal(factor, 1.0, err_msg=name)


@pytest.mark.parametrize("kind", DECAYED)
def test_only_the_configured_exclusions_are_not_decayed(kind):
    excluded = f"{OPTIMIZER}.optimizer.{kind}.exclude_from_weight_decay=[kernel]"
    factors = factors_of_a_zero_gradient(kind, excluded)
    np.testing.assert_array_equal(factors.pop("kernel"), 1.0)
    for name, factor in factors.items():
        np.testing.assert_allclose(factor, DECAYED[kind], rtol=1e-6, err_msg=name)
