"""SGD with momentum against PyTorch's."""

import keras
import numpy as np
import pytest

from align_keras.optimizers import SGD
from tests.helpers.recorded_oracles import recorded


@pytest.mark.parametrize("number", [0, 1], ids=["plain", "nesterov"])
def test_equals_torch_over_20_steps(number):
    """PyTorch's answers are recorded: `tests.helpers.recorded_oracles` says how."""
    question, answer = recorded("sgd")[number]
    assert question["nesterov"] == bool(number)
    kernel, bias = (
        keras.Variable(question["start"], name=name) for name in ("kernel", "bias")
    )
    optimizer = SGD(
        float(question["rate"]),
        momentum=float(question["momentum"]),
        nesterov=bool(number),
        weight_decay=float(question["weight_decays"][0]),
    )
    for gradient in question["gradients"]:
        optimizer.apply([keras.ops.convert_to_tensor(gradient)] * 2, [kernel, bias])
    # float32 rounding of two orders of the same operations. The bias has no decay.
    np.testing.assert_allclose([kernel, bias], answer["answer"], atol=1e-6)
    assert np.abs(kernel - bias).max() > 1e-3


def test_config_round_trip():
    optimizer = SGD(0.1, weight_decay=0.3, exclusions=["x"], global_clipnorm=1.0)
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert copy.get_config() == optimizer.get_config()
