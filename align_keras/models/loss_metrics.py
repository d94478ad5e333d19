"""Running means of the losses of `fit` and `evaluate`."""

import keras
import tensorflow as tf
from keras import ops

GRADIENT_NORMS = ("gradient_norm", "image_gradient_norm", "text_gradient_norm")


class LossMetrics(keras.metrics.Metric):
    """Means of losses, temperature and norms of gradients, in one variable."""

    def __init__(self, parts: tuple[str, ...]) -> None:
        super().__init__(name="loss")
        self.parts = parts
        self.names = ("loss", *parts, "temperature", *GRADIENT_NORMS)
        # The first two entries are the number of steps and the number of steps with
        # finite gradient norms. Each step of `evaluate` counts as its number of rows.
        self.sums = self.add_variable(
            (len(self.names) + 2,),
            "zeros",
            # All replicas add the same values.
            aggregation="only_first_replica",
            name="sums",
        )

    def count(self) -> int:
        """Returns the number of steps of `fit`, or of rows of `evaluate`."""
        return int(self.sums.numpy()[0])

    def has_finite_loss(self) -> tf.Tensor:
        """Returns True unless the loss of a step of this epoch was NaN or infinite."""
        return ops.isfinite(self.sums[2])

    def update_state(
        self,
        values: list,
        finite: tf.Tensor | bool = True,
        weight: tf.Tensor | int = 1,
    ) -> None:
        """Adds the values of a step if `finite` is True.

        Args:
            values: list of scalars in the order of `names`.
            finite: True if the losses and the gradients of the step are finite.
            weight: ≥ 1, weight of the step in the means.
        """
        values = ops.stack([ops.cast(value, self.sums.dtype) for value in values])
        losses, norms = ops.split(values, [len(self.names) - len(GRADIENT_NORMS)])
        # A step counts even if its scaled gradient overflowed, but its gradient norms
        # are left out of the means. A step without a loss keeps them for the error.
        has_norms = ops.all(ops.isfinite(norms)) | ~ops.isfinite(losses[0])
        norms = ops.where(has_norms, norms, ops.zeros_like(norms))
        counts = [ops.ones_like(losses[0]), ops.cast(has_norms, losses.dtype)]
        step = ops.concatenate([ops.stack(counts), losses, norms])
        step *= ops.cast(weight, step.dtype)
        self.sums.assign_add(ops.where(finite, step, ops.zeros_like(step)))

    def result(self) -> dict:
        steps, with_norms, *sums = ops.unstack(self.sums, len(self.names) + 2)
        return {
            name: total
            / ops.maximum(with_norms if name in GRADIENT_NORMS else steps, 1)
            for name, total in zip(self.names, sums, strict=True)
        }
