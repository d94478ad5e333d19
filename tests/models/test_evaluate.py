"""Losses of `ALIGN.evaluate`."""

import numpy as np
import pytest
import tensorflow as tf

from align_keras.losses import ContrastiveLoss
from tests.helpers.small import small_align, small_batch


@pytest.fixture(scope="module")
def replicated(two_replicas):
    with two_replicas.scope():
        return small_align()


def expected_loss(model, batch):
    """Returns the loss of a batch on one device."""
    # An image encoder in a strategy can be called outside of it.
    outputs = model(batch, training=False)
    return float(
        ContrastiveLoss()(
            outputs["image_embedding"], outputs["text_embedding"], model.temperature
        )
    )


@pytest.mark.ci
def test_evaluate_averages_over_replicas(replicated):
    batch = small_batch(8)
    dataset = tf.data.Dataset.from_tensor_slices(batch).batch(8, drop_remainder=True)
    result = replicated.evaluate(dataset, verbose=0, return_dict=True)
    expected = expected_loss(replicated, batch)
    np.testing.assert_allclose(result["loss"], expected, rtol=1e-4)


@pytest.mark.ci
def test_replicas_with_unequal_rows_are_refused(replicated):
    dataset = tf.data.Dataset.from_tensor_slices(small_batch(3)).batch(3)
    words = "same number of rows"
    with pytest.raises(tf.errors.InvalidArgumentError, match=words):
        replicated.evaluate(dataset, verbose=0)


@pytest.mark.ci
def test_a_remainder_counts_as_its_rows():
    model = small_align()
    batches = [small_batch(6, seed=1), small_batch(2, seed=2)]
    losses = [expected_loss(model, batch) for batch in batches]
    whole = {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}
    result = model.evaluate(
        tf.data.Dataset.from_tensor_slices(whole).batch(6), verbose=0, return_dict=True
    )
    expected = (6 * losses[0] + 2 * losses[1]) / 8
    np.testing.assert_allclose(result["loss"], expected, rtol=1e-4)
    np.testing.assert_allclose(result["temperature"], 1.0)
