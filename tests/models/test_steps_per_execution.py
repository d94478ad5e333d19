"""Training with several steps per execution of the training function."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from align_keras.losses import PairLoss
from align_keras.models.fit_callbacks import NonFiniteStepError
from align_keras.models.loss_metrics import LossMetrics
from align_keras.optimizers import SGD
from tests.helpers.small import small_align, small_batch


@keras.saving.register_keras_serializable(package="test_steps_per_execution")
class FirstTokenLoss(PairLoss):
    """Loss that is 100 for a first token of 1."""

    def call(self, image_embeddings, text_embeddings, temperature, token_ids):
        loss = tf.reduce_mean((image_embeddings - text_embeddings) ** 2)
        return tf.where(token_ids[0, 0] == 1, 100.0 + loss, loss)


def batches(first_tokens):
    """Returns a dataset with a batch for each first token."""
    batch = small_batch(2 * len(first_tokens))
    batch["token_ids"][::2, 0] = first_tokens
    return tf.data.Dataset.from_tensor_slices(batch).batch(2, drop_remainder=True)


@pytest.mark.ci
def test_a_bad_step_stops_the_training():
    model = small_align()
    model.image_encoder.set_training("frozen")
    model.compile(
        SGD(0.01), FirstTokenLoss(), steps_per_execution=4, loss_upper_bound=50.0
    )
    # The second of the four steps is bad, and the last is not.
    words = r"step 2: .*above loss_upper_bound \(50.0\)"
    with pytest.raises(NonFiniteStepError, match=words):
        model.fit(batches([9, 1, 9, 9]), verbose=0)
    assert int(model.optimizer.iterations) == 1


def test_a_bad_step_remains_in_the_means():
    metric = LossMetrics(("loss",))
    metric.update_state([1.0, 1.0, 1.0, 2.0, 2.0, 2.0])
    assert bool(metric.has_finite_loss())
    metric.update_state([np.nan, 1.0, 1.0, np.inf, 2.0, np.inf])
    assert not bool(metric.has_finite_loss())
    values = {name: float(value) for name, value in metric.result().items()}
    assert "gradient isn't finite" in str(NonFiniteStepError(2, values, None))
