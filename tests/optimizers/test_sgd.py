"""Tests that compare SGD with momentum with that of PyTorch."""

import keras
import numpy as np
import pytest

from align_keras.optimizers import SGD
from tests.helpers.recorded_oracles import recorded


@pytest.mark.parametrize("number", [0, 1], ids=["plain", "nesterov"])
def test_20_steps_equal_those_of_pytorch(number):
    """Compares with recorded results (see `tests.helpers.recorded_oracles`)."""
    inputs, results = recorded("sgd")[number]
    assert inputs["nesterov"] == bool(number)
    kernel, bias = (
        keras.Variable(inputs["start"], name=name) for name in ("kernel", "bias")
    )
    optimizer = SGD(
        float(inputs["rate"]),
        momentum=float(inputs["momentum"]),
        nesterov=bool(number),
        weight_decay=float(inputs["weight_decays"][0]),
    )
    for gradient in inputs["gradients"]:
        optimizer.apply([keras.ops.convert_to_tensor(gradient)] * 2, [kernel, bias])
    # The operations have another order, so float32 is rounded differently.
    np.testing.assert_allclose([kernel, bias], results["answer"], atol=1e-6)
    # Only the kernel has weight decay.
    assert np.abs(kernel - bias).max() > 1e-3


def test_a_copy_from_the_config_has_the_same_config():
    optimizer = SGD(0.1, weight_decay=0.3, exclusions=["x"], global_clipnorm=1.0)
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert copy.get_config() == optimizer.get_config()
