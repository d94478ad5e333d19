"""How other libraries lay out the tensors that Keras keeps in its own order.

A layout is a pair of functions: `to_keras(array, shape)` gives the array in
Keras's order and shape, `from_keras(array)` undoes it.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Layout(NamedTuple):
    """A way back and forth between Keras's order and another library's."""

    to_keras: Callable
    from_keras: Callable


def _transposed(*order):
    back = tuple(np.argsort(order))
    return Layout(
        lambda array, shape: np.transpose(array, order),
        lambda array: np.transpose(array, back),
    )


SAME = Layout(lambda array, shape: array, lambda array: array)
# PyTorch keeps (out, in, height, width) and (out, in).
TORCH_CONV = _transposed(2, 3, 1, 0)
TORCH_DEPTHWISE = _transposed(2, 3, 0, 1)
TORCH_DENSE = _transposed(1, 0)
# A 1×1 convolution on one pixel is a dense layer.
TORCH_POINTWISE = Layout(
    lambda array, shape: np.transpose(array[:, :, 0, 0]),
    lambda array: np.transpose(array)[:, :, None, None],
)
KERAS_POINTWISE = Layout(
    lambda array, shape: array[0, 0], lambda array: array[None, None]
)
# KerasHub's attention keeps (in, heads, size) and (heads, size, out).
TORCH_TO_HEADS = Layout(
    lambda array, shape: np.transpose(array).reshape(shape),
    lambda array: np.transpose(array.reshape(array.shape[0], -1)),
)
TORCH_FROM_HEADS = Layout(
    lambda array, shape: np.transpose(array).reshape(shape),
    lambda array: np.transpose(array.reshape(-1, array.shape[-1])),
)
HEADS_BIAS = Layout(
    lambda array, shape: array.reshape(shape), lambda array: array.reshape(-1)
)
# The temperature itself, where ours is kept as its logarithm.
LOGARITHM = Layout(lambda array, shape: np.log(array), np.exp)
