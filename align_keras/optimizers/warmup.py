"""Linear warm-up for any learning-rate schedule."""

import keras
import tensorflow as tf
from keras import ops


@keras.saving.register_keras_serializable(package="align_keras")
class LinearWarmup(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up followed by another schedule.

    The second schedule starts with its step 0 when the warm-up ends, so the peak of the
    rate is exactly its initial learning rate.

    Args:
        after_warmup: `LearningRateSchedule` or float, the rate after the warm-up.
        warmup_steps: int ≥ 0.
        warmup_learning_rate: the rate at `first_step`.
        first_step: the step at which the warm-up starts. A negative number
            continues a schedule that started before step 0.

    References:
        Jia et al. 2021, section 5 (from 0 to 1e-3 in 10,000 steps, then linearly to 0).

    Example:

    >>> schedule = LinearWarmup(
    ...     keras.optimizers.schedules.PolynomialDecay(1e-3, 100, 0.0), 10)
    >>> [round(float(schedule(step)), 6) for step in (0, 5, 10, 60, 110)]
    [0.0, 0.0005, 0.001, 0.0005, 0.0]
    """

    def __init__(
        self,
        after_warmup: keras.optimizers.schedules.LearningRateSchedule | float,
        warmup_steps: int,
        warmup_learning_rate: float = 0.0,
        first_step: int = 0,
    ) -> None:
        super().__init__()
        self.after_warmup = after_warmup
        self.warmup_steps = warmup_steps
        self.warmup_learning_rate = warmup_learning_rate
        self.first_step = first_step

    def _after(self, step: tf.Tensor) -> tf.Tensor:
        if callable(self.after_warmup):
            return ops.cast(self.after_warmup(step), "float32")
        return ops.convert_to_tensor(self.after_warmup, "float32")

    def __call__(self, step: tf.Tensor | int) -> tf.Tensor:
        step = ops.maximum(ops.cast(step, "float32") - self.first_step, 0.0)
        if not self.warmup_steps:
            return self._after(step)
        fraction = ops.minimum(step / self.warmup_steps, 1.0)
        start = self.warmup_learning_rate
        rising = start + (self._after(ops.zeros_like(step)) - start) * fraction
        after = self._after(ops.maximum(step - self.warmup_steps, 0.0))
        return ops.where(step < self.warmup_steps, rising, after)

    def get_config(self) -> dict:
        after = self.after_warmup
        return {
            "after_warmup": keras.optimizers.schedules.serialize(after)
            if callable(after)
            else after,
            "warmup_steps": self.warmup_steps,
            "warmup_learning_rate": self.warmup_learning_rate,
            "first_step": self.first_step,
        }

    @classmethod
    def from_config(cls, config: dict) -> "LinearWarmup":
        after = config["after_warmup"]
        if isinstance(after, dict):
            after = keras.optimizers.schedules.deserialize(after)
        return cls(**{**config, "after_warmup": after})


def paper_schedule(
    learning_rate: float = 1e-3,
    warmup_steps: int = 10_000,
    train_steps: int = 1_200_000,
) -> LinearWarmup:
    """Returns the schedule of the paper, a linear warm-up and a linear decay to zero.

    References:
        Jia et al. 2021, section 5.

    Example:

    >>> round(float(paper_schedule()(10_000)), 6)
    0.001
    """
    decay = keras.optimizers.schedules.PolynomialDecay(
        learning_rate, train_steps - warmup_steps, end_learning_rate=0.0
    )
    return LinearWarmup(decay, warmup_steps)
