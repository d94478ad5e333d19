"""Links between the variables of a model and the tensors of a file."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import keras
import numpy as np

from align_keras.utils.errors import InputError


class Layout(NamedTuple):
    """Pair of functions that convert an array to and from the layout of Keras."""

    to_keras: Callable
    from_keras: Callable


def _transposed(*order: int) -> Layout:
    """Returns the layout of arrays that `np.transpose(array, order)` converts."""
    inverse = tuple(np.argsort(order))
    return Layout(
        lambda array: np.transpose(array, order),
        lambda array: np.transpose(array, inverse),
    )


SAME = Layout(np.asarray, np.asarray)
# PyTorch stores kernels as (out, in, height, width) and (out, in).
TORCH_CONV = _transposed(2, 3, 1, 0)
TORCH_DEPTHWISE = _transposed(2, 3, 0, 1)
TORCH_DENSE = _transposed(1, 0)
# The library has a 1×1 convolution on one pixel, and this package has a dense layer.
TORCH_POINTWISE = Layout(np.transpose, lambda array: array.T[:, :, None, None])
KERAS_POINTWISE = Layout(np.asarray, lambda array: array[None, None])
# The attention of KerasHub stores kernels as (in, heads, size) and (heads, size, out).
TORCH_TO_HEADS = Layout(np.transpose, lambda array: array.reshape(len(array), -1).T)
TORCH_FROM_HEADS = Layout(
    np.transpose, lambda array: array.reshape(-1, array.shape[-1]).T
)
HEADS_BIAS = Layout(np.asarray, np.ravel)
# The file contains the temperature, and the variable is its logarithm.
LOGARITHM = Layout(np.log, np.exp)
# Maximum number of tensors of each kind in an error message.
_MAX_NAMES = 8


@dataclasses.dataclass(frozen=True)
class Link:
    """Keras variable, and the name and layout of its tensor in a file."""

    variable: keras.Variable
    name: str
    layout: Layout = SAME

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape that the tensor must have in the file."""
        # A broadcast scalar has the shape of the variable, but needs no memory.
        like_variable = np.broadcast_to(np.float32(0), self.variable.shape)
        return self.layout.from_keras(like_variable).shape


def load_links(
    links: Sequence[Link], tensors: Mapping, source: str, ignored: Sequence[str] = ()
) -> None:
    """Loads all variables from the tensors of a file.

    If an error is raised, no variable has changed.

    Args:
        links: sequence of `Link`.
        tensors: mapping from name to tensor.
        source: the file or folder, for messages.
        ignored: names of tensors without a variable.

    Raises:
        InputError: if a tensor is missing, isn't finite or has a wrong shape, or if a
            tensor that isn't ignored has no link.
    """
    missing = [link.name for link in links if link.name not in tensors]
    linked_names = {link.name for link in links}
    extra = sorted(set(tensors) - linked_names - set(ignored))
    misshapen = [
        f"{link.name} {tuple(tensors[link.name].shape)} where the model has "
        f"{link.shape}"
        for link in links
        if link.name in tensors and tuple(tensors[link.name].shape) != link.shape
    ]
    faults = [
        f"{len(names)} {fault}: {', '.join(names[:_MAX_NAMES])}"
        + (f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else "")
        for fault, names in (
            ("missing", missing),
            ("not of this model", extra),
            ("of another shape", misshapen),
        )
        if names
    ]
    if faults:
        raise InputError(
            f"{source} doesn't fit the model. Differences of the tensors: "
            f"{', and '.join(faults)}. No weights were loaded. Check that the sizes of "
            "the model and the file agree."
        )
    values = [_value(link, tensors, source) for link in links]
    for link, value in zip(links, values, strict=True):
        link.variable.assign(value)


def export_links(links: Sequence[Link]) -> dict[str, np.ndarray]:
    """Returns the tensors to write to a file, a dict from name to float32 array."""
    return {
        link.name: np.ascontiguousarray(
            link.layout.from_keras(link.variable.numpy()), dtype="float32"
        ).reshape(link.shape)
        for link in links
    }


def _value(link: Link, tensors: Mapping, source: str) -> np.ndarray:
    """Returns the value of a variable in the layout of Keras."""
    value = np.asarray(tensors[link.name], dtype="float32")
    with np.errstate(divide="ignore", invalid="ignore"):
        value = link.layout.to_keras(value).reshape(link.variable.shape)
    if not np.isfinite(value).all():
        raise InputError(
            f"{source}: {link.name} must have finite values in the range of its "
            "variable. Received: NaN, infinity or a value out of this range. No "
            "weights were loaded. Download the file again."
        )
    return value
