"""The exponential moving average of the weights in the weights' place."""

import contextlib

from align_keras.optimizers.replica_gradients import inner_optimizer


@contextlib.contextmanager
def averaged_weights(model):
    """Puts the average into the model within the block; nothing without one.

    Args:
        model: compiled `ALIGN`, whose optimizer may have `use_ema`.
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


def use_averaged_weights(model):
    """Puts the average into the model for good, as Keras does at the end of `fit`."""
    model.optimizer.finalize_variable_values(model.trainable_variables)
