"""SGD with momentum against Keras's and PyTorch's."""

import keras
import numpy as np
import pytest
import torch

from align_keras.optimizers import SGD


@pytest.mark.parametrize("nesterov", [False, True])
def test_equals_torch_over_20_steps(nesterov):
    random = np.random.default_rng(0)
    start = random.normal(size=(4, 3)).astype("float32")
    gradients = random.normal(size=(20, 4, 3)).astype("float32")
    variable = keras.Variable(start, name="kernel")
    excluded = keras.Variable(start, name="bias")
    ours = SGD(0.01, momentum=0.9, nesterov=nesterov, weight_decay=0.1)
    weights = [torch.nn.Parameter(torch.tensor(start)) for _ in range(2)]
    groups = [
        {"params": [weights[0]], "weight_decay": 0.1},
        {"params": [weights[1]], "weight_decay": 0.0},
    ]
    theirs = torch.optim.SGD(groups, lr=0.01, momentum=0.9, nesterov=nesterov)
    for gradient in gradients:
        ours.apply([keras.ops.convert_to_tensor(gradient)] * 2, [variable, excluded])
        for weight in weights:
            weight.grad = torch.tensor(gradient)
        theirs.step()
    # float32 rounding of two orders of the same operations.
    np.testing.assert_allclose(variable.numpy(), weights[0].detach(), atol=1e-6)
    np.testing.assert_allclose(excluded.numpy(), weights[1].detach(), atol=1e-6)


def test_config_round_trip():
    optimizer = SGD(0.1, weight_decay=0.3, exclusions=["x"], global_clipnorm=1.0)
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert copy.get_config() == optimizer.get_config()
