"""Tests of summed gradients, clipping and conditional updates."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from align_keras.optimizers import SGD, apply_if
from align_keras.optimizers.replica_gradients import (
    check_clipping,
    inner_optimizer,
    take_summed_gradients,
)
from align_keras.utils.errors import InputError


def test_a_skipped_update_changes_neither_weights_nor_optimizer():
    variable = keras.Variable([1.0, 2.0])
    optimizer = SGD(0.1)
    optimizer.build([variable])

    @tf.function
    def step(finite):
        apply_if(finite, optimizer, [tf.constant([np.nan, 1.0])], [variable])

    step(tf.constant(False))
    np.testing.assert_array_equal(variable.numpy(), [1.0, 2.0])
    assert optimizer.iterations.numpy() == 0
    step(tf.constant(True))
    assert np.isnan(variable.numpy()[0])
    assert optimizer.iterations.numpy() == 1


@pytest.mark.parametrize("is_scaled", [False, True])
def test_gradients_can_be_accumulated(is_scaled):
    variable = keras.Variable([1.0])
    optimizer = SGD(0.5, momentum=0.0, gradient_accumulation_steps=2)
    if is_scaled:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=1.0)
    optimizer.build([variable])
    values = []
    for gradient in (1.0, 3.0, 4.0):
        apply_if(tf.constant(True), optimizer, [tf.constant([gradient])], [variable])
        values.append(float(variable.numpy()[0]))
    assert values == [1.0, 0.0, 0.0]
    # An update of accumulated gradients is one iteration.
    assert int(inner_optimizer(optimizer).iterations) == 1


def test_only_optimizers_of_the_package_get_summed_gradients():
    gradients = [tf.constant([4.0])]
    (mean,) = take_summed_gradients(keras.optimizers.SGD(), gradients, 2)
    assert float(mean[0]) == 2.0
    optimizer = keras.optimizers.LossScaleOptimizer(SGD())
    assert take_summed_gradients(optimizer, gradients, 2) is gradients
    assert inner_optimizer(optimizer).gradients_are_summed


def test_an_optimizer_that_clips_before_the_sum_is_refused():
    clipping = keras.optimizers.Adam(global_clipnorm=1.0)
    check_clipping(clipping, 1)
    with pytest.raises(InputError, match="2 replicas"):
        check_clipping(clipping, 2)
    check_clipping(SGD(global_clipnorm=1.0), 2)
