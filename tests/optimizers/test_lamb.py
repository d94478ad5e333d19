"""Tests of LAMB in comparison with NumPy and TF Model Garden, and of the warm-up."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from align_keras.optimizers import Lamb, LinearWarmup, paper_schedule
from align_keras.utils.errors import InputError
from tests.helpers.oracle_process import needs


def numpy_lamb(weights, gradients, rate, decay, excluded):
    first, second = np.zeros_like(weights), np.zeros_like(weights)
    for step, gradient in enumerate(gradients, start=1):
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        update = first / (1 - 0.9**step)
        update = update / (np.sqrt(second / (1 - 0.999**step)) + 1e-6)
        if not excluded:
            update = update + decay * weights
            update *= np.linalg.norm(weights) / np.linalg.norm(update)
        weights = weights - rate * update
    return weights


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["kernel", "bias", "log_temperature"])
def test_20_steps_equal_those_of_numpy(name, dtype):
    random = np.random.default_rng(0)
    start = random.normal(size=(4, 3))
    gradients = random.normal(size=(20, 4, 3))
    variable = keras.Variable(start, dtype=dtype, name=name)
    optimizer = Lamb(0.01, weight_decay=0.1)
    optimizer.build([variable])

    @tf.function
    def step(gradient):
        optimizer.apply([gradient], [variable])

    for gradient in gradients:
        step(tf.constant(gradient, dtype))
    expected = numpy_lamb(start, gradients, 0.01, 0.1, excluded=name != "kernel")
    # float32 is compared with float64, over 20 steps of size 0.01. Keras computes the
    # learning rate in float32.
    np.testing.assert_allclose(variable.numpy(), expected, atol=2e-6)


def test_the_trust_ratio_of_zero_weights_is_1():
    variable = keras.Variable(np.zeros(3), dtype="float32", name="kernel")
    Lamb(0.1, weight_decay=0.0).apply([keras.ops.ones(3)], [variable])
    np.testing.assert_allclose(variable.numpy(), -0.1 * np.ones(3), atol=1e-5)


def test_a_copy_from_the_config_has_the_same_config():
    optimizer = Lamb(paper_schedule(1e-2, 5, 20), weight_decay=0.3, exclusions=["x"])
    config = optimizer.get_config()
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert copy.get_config() == config
    assert float(copy._learning_rate(5)) == pytest.approx(1e-2)


def test_the_warmup_ends_at_the_first_rate_of_the_schedule():
    cosine = keras.optimizers.schedules.CosineDecay(1e-2, 100)
    schedule = LinearWarmup(cosine, 10, 1e-3)
    assert float(schedule(0)) == pytest.approx(1e-3)
    assert float(schedule(10)) == pytest.approx(1e-2)
    assert float(schedule(60)) == pytest.approx(float(cosine(50)))
    assert float(LinearWarmup(0.5, 0)(3)) == 0.5


@pytest.mark.ci
@needs("official")
def test_20_steps_equal_those_of_model_garden():
    """LAMB of TF Model Garden is an optimizer of Keras 2."""
    import tensorflow as tf
    from official.modeling.optimization import lamb

    random = np.random.default_rng(1)
    starts = {"kernel": random.normal(size=(6, 4)), "bias": random.normal(size=4)}
    variables = [
        keras.Variable(start, dtype="float32", name=name)
        for name, start in starts.items()
    ]
    reference_variables = [
        tf.Variable(start.astype("float32"), name=name)
        for name, start in starts.items()
    ]
    optimizer = Lamb(0.01, weight_decay=0.1)
    reference = lamb.LAMB(
        0.01, weight_decay_rate=0.1, exclude_from_weight_decay=["bias"]
    )
    for _ in range(20):
        gradients = [
            tf.constant(random.normal(size=start.shape).astype("float32"))
            for start in starts.values()
        ]
        optimizer.apply(gradients, variables)
        reference.apply_gradients(zip(gradients, reference_variables, strict=True))
    for actual, expected in zip(variables, reference_variables, strict=True):
        # The operations have another order, so float32 is rounded differently.
        np.testing.assert_allclose(actual.numpy(), expected.numpy(), atol=1e-6)


def test_16_bit_weights_are_refused():
    variable = keras.Variable(np.ones(3), dtype="bfloat16", name="kernel")
    with pytest.raises(InputError, match="kernel"):
        Lamb(0.1).apply([keras.ops.ones(3)], [variable])
