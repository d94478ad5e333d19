"""Use of the moving average of the weights, if the optimizer maintains one."""

import contextlib
from collections.abc import Iterator

import keras

from align_keras.models import ALIGN
from align_keras.optimizers.replica_gradients import inner_optimizer


@contextlib.contextmanager
def averaged_weights(model: ALIGN) -> Iterator[None]:
    """Context manager that replaces the weights by their moving average.

    The weights are restored at the end. Without a moving average (`use_ema` of the
    optimizer is False), the weights don't change.
    """
    if not inner_optimizer(model.optimizer).use_ema:
        yield
        return
    weights = [variable.numpy() for variable in model.trainable_variables]
    use_averaged_weights(model)
    try:
        yield
    finally:
        for variable, value in zip(model.trainable_variables, weights, strict=True):
            variable.assign(value)


def use_averaged_weights(model: keras.Model) -> None:
    """Replaces the weights by their moving average, as Keras at the end of `fit`."""
    model.optimizer.finalize_variable_values(model.trainable_variables)
