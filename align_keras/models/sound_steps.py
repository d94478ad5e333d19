"""Stops `fit` at the first step whose update can't be made."""

import math

import keras

from align_keras.utils.errors import InputError


class UnsoundStepError(InputError):
    """A loss or a gradient isn't finite, or a loss is above its bound.

    Attributes:
        step: int, the update that wasn't made; the first is 1.
        values: dict, the metrics of that step; `loss` is NaN.
    """

    def __init__(self, step, values, rule):
        self.step = step
        self.values = values
        super().__init__(
            f"step {step}: {rule}; its update wasn't made. Lower the learning rate, "
            "lengthen the warm-up, clip the gradients (global_clipnorm), or look for "
            "broken pairs in that batch."
        )


class SoundSteps(keras.callbacks.Callback):
    """Looks at each step's metrics. `ContrastiveModel.fit` adds it by itself."""

    def on_train_batch_end(self, batch, logs=None):
        if math.isfinite(logs["loss"]):
            return
        values = {name: float(value) for name, value in logs.items()}
        step = int(self.model.optimizer.iterations.numpy()) + 1
        raise UnsoundStepError(step, values, self._broken_rule(values))

    def _broken_rule(self, values):
        if not math.isfinite(values["loss_i2t"] + values["loss_t2i"]):
            return "the loss isn't finite"
        if not math.isfinite(values["gradient_norm"]):
            return "a gradient isn't finite"
        return f"the loss is above loss_upper_bound ({self.model.loss_upper_bound})"
