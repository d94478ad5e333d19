"""The running means that training reports, in one variable."""

import keras
from keras import ops

LOSSES = ("loss", "loss_i2t", "loss_t2i", "temperature")
GRADIENT_NORMS = ("gradient_norm", "image_gradient_norm", "text_gradient_norm")


class LossMetrics(keras.metrics.Metric):
    """Means of the losses, the temperature and the gradients' norms.

    Every replica is given the same values, so nothing is summed over replicas.
    """

    def __init__(self, name="loss"):
        super().__init__(name=name)
        self.names = (*LOSSES, *GRADIENT_NORMS)
        # Steps, and those among them that had finite norms, come first.
        self.sums = self.add_variable(
            (len(self.names) + 2,),
            "zeros",
            aggregation="only_first_replica",
            name="sums",
        )

    def update_state(self, values, sound=True):
        """Adds one step's values, a list in the order of `names`, if it is sound.

        A step whose scaled gradient overflowed is sound, but has no norms to add.
        """
        values = ops.stack([ops.cast(value, self.sums.dtype) for value in values])
        losses, norms = ops.split(values, [len(LOSSES)])
        finite = ops.all(ops.isfinite(norms))
        norms = ops.where(finite, norms, ops.zeros_like(norms))
        counts = ops.stack([ops.ones_like(losses[0]), ops.cast(finite, losses.dtype)])
        step = ops.concatenate([counts, losses, norms])
        self.sums.assign_add(ops.where(sound, step, ops.zeros_like(step)))

    def result(self):
        steps, with_norms, *sums = ops.unstack(self.sums, len(self.names) + 2)
        counts = [steps] * len(LOSSES) + [with_norms] * len(GRADIENT_NORMS)
        return {
            name: own / ops.maximum(count, 1)
            for name, own, count in zip(self.names, sums, counts, strict=True)
        }
