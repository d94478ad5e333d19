"""Tests of gradients with micro-batches and of dtypes in training."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from align_keras.models import ALIGN, ImageEncoder
from align_keras.models.gradients import (
    cached_loss_gradients,
    check_weight_dtypes,
    gradient_norms,
    read_values,
    scaled_loss,
    split_inputs,
    write_values,
)
from align_keras.optimizers import SGD, Lamb
from align_keras.utils.errors import InputError
from tests.helpers.small import small_align, small_batch


@pytest.mark.ci
def test_cached_gradients_replay_dropout_and_update_statistics_once():
    model = small_align(initial_temperature=0.5)
    model.compile(SGD(0.1), micro_batch_size=2)
    inputs = {name: tf.constant(value) for name, value in small_batch(12).items()}
    state = model.forward_state
    statistics, seeds = state.read()
    parts = split_inputs(inputs, 4)
    new_statistics = []
    with tf.GradientTape() as tape:
        outputs = []
        for number in range(3):
            part = {name: value[number] for name, value in parts.items()}
            outputs.append(model(part, training=True))
            new_statistics.append(read_values(state.statistics))
            write_values(state.statistics, statistics)
        embeddings = [
            tf.concat([output[f"{name}_embedding"] for output in outputs], axis=0)
            for name in ("image", "text")
        ]
        losses, loss = scaled_loss(model, *embeddings, inputs)
    variables = [variable.value for variable in model.trainable_variables]
    expected = tape.gradient(loss, variables)
    expected_seeds = read_values(state.seeds)
    write_values(state.seeds, seeds)
    cached = tf.function(cached_loss_gradients)(model, inputs, 4)
    # Kernels that are fused only in a graph differ by about 1e-5 in float32, after ten
    # batch normalizations over 4 rows.
    np.testing.assert_allclose(cached[0], losses, rtol=1e-4)
    for variable, gradient, expected_gradient in zip(
        model.trainable_variables, cached[1], expected, strict=True
    ):
        expected_gradient = tf.convert_to_tensor(expected_gradient)
        scale = np.abs(expected_gradient).max()
        np.testing.assert_allclose(
            gradient,
            expected_gradient,
            atol=2e-3 * scale + 1e-5,
            err_msg=variable.path,
        )
    for statistic, *updates in zip(state.statistics, *new_statistics, strict=True):
        np.testing.assert_allclose(
            statistic, np.mean(updates, axis=0), rtol=1e-4, atol=1e-5
        )
    for seed, expected_seed in zip(state.seeds, expected_seeds, strict=True):
        np.testing.assert_array_equal(seed, expected_seed)


def test_the_gradient_norms_of_encoders_with_other_names():
    image_encoder = ImageEncoder.from_variant("nano", 8, image_size=32, name="vision")
    text_encoder = small_align(projection_dim=8).text_encoder
    model = ALIGN.from_encoders(image_encoder, text_encoder)
    model.compile(SGD(0.1))
    gradients = [tf.zeros(variable.shape) for variable in model.trainable_variables]
    paths = [variable.path for variable in model.trainable_variables]
    first = next(n for n, path in enumerate(paths) if path.startswith("vision/"))
    gradients[first] += 3.0 / np.sqrt(np.prod(gradients[first].shape))
    gradients[paths.index("temperature/log_temperature")] += 4.0
    norms = gradient_norms(model, gradients)
    np.testing.assert_allclose(norms, [5.0, 3.0, 0.0], rtol=1e-5)


def test_unsuitable_micro_batch_sizes_are_refused():
    model = small_align()
    with pytest.raises(InputError, match="micro_batch_size"):
        model.compile(SGD(0.1), micro_batch_size=0)
    model.compile(SGD(0.1), micro_batch_size=4)
    batches = tf.data.Dataset.from_tensors(small_batch(6))
    words = "micro_batch_size=4 and 6 rows"
    with pytest.raises(InputError, match=words):
        model.fit(batches, verbose=0)
    synchronized = small_align(synchronized=True)
    with pytest.raises(InputError, match="normalized over replicas"):
        synchronized.compile(SGD(0.1), micro_batch_size=2)


def losses_of_steps(dtype, weights=None, **options):
    """Returns the losses of four steps, and the initial weights."""
    original_policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype)
    try:
        model = small_align(initial_temperature=0.5)
    finally:
        keras.config.set_dtype_policy(original_policy)
    if weights is not None:
        model.set_weights(weights)
    initial_weights = model.get_weights()
    # The dropout masks would differ, since the seed isn't one of the weights.
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
    model.compile(keras.optimizers.SGD(0.02), **options)
    batch = tf.data.Dataset.from_tensors(small_batch(16))
    losses = [model.fit(batch, verbose=0).history["loss"][0] for _ in range(4)]
    return losses, initial_weights


@pytest.mark.release
@pytest.mark.parametrize("micro_batch_size", [None, 8])
def test_losses_of_other_dtypes_equal_those_of_float32(micro_batch_size):
    expected, weights = losses_of_steps("float32", micro_batch_size=micro_batch_size)
    assert expected[-1] < expected[0] - 0.1
    # Embeddings are always float32, so float64 has 24 significant bits too.
    significant_bits = {"bfloat16": 8, "float16": 11, "float64": 24}
    for dtype, bits in significant_bits.items():
        losses, _ = losses_of_steps(dtype, weights, micro_batch_size=micro_batch_size)
        # Batch normalization of few rows increases rounding errors about tenfold.
        np.testing.assert_allclose(
            losses, expected, rtol=max(10 * 2.0**-bits, 1e-3), err_msg=dtype
        )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_16_bit_weights_are_refused_for_adaptive_optimizers(dtype):
    weight = keras.Variable([1.0], dtype=dtype)
    for optimizer in (Lamb(1e-3), keras.optimizers.Adam(1e-3)):
        with pytest.raises(InputError, match=f"{dtype} .*mixed"):
            check_weight_dtypes(optimizer, [weight])
        check_weight_dtypes(optimizer, [keras.Variable([1.0], dtype="float32")])
    check_weight_dtypes(SGD(1e-3), [weight])


ALL_AT_ONCE = {
    "share_equal_captions": True,
    "tile_size": 3,
    "negatives_fraction": 0.5,
    "micro_batch_size": 4,
}


@pytest.mark.parametrize(
    "options, tolerance",
    # Batch normalization of four rows increases rounding errors.
    [
        pytest.param({"tile_size": "auto"}, 1e-3, id="auto", marks=pytest.mark.release),
        pytest.param(ALL_AT_ONCE, 1e-2, id="all", marks=pytest.mark.release),
    ],
)
def test_a_step_compiled_by_xla_makes_the_same_update(options, tolerance):
    """Compares updates with and without XLA.

    XLA has restrictions of TPUs, such as static shapes and no strings on the device.
    The model has no dropout, since XLA draws other random numbers.
    """
    from tests.helpers.updates_script import ROWS, batch, compile_with, make_model

    updated_weights, losses = [], []
    for compiled in (False, True):
        model = make_model()
        before = model.get_weights()
        compile_with(model, SGD(0.01), jit_compile=compiled, **options)
        batches = tf.data.Dataset.from_tensor_slices(batch())
        batches = batches.batch(ROWS, drop_remainder=True)
        model.fit(batches.repeat(2), verbose=0)
        updated_weights.append(model.get_weights())
        losses.append(model.evaluate(batches, verbose=0))
    for start, plain, compiled in zip(before, *updated_weights, strict=True):
        # The tolerance is relative to the update of two steps, since XLA computes
        # float32 sums in another order.
        update = np.abs(compiled.astype("float64") - start).max()
        np.testing.assert_allclose(plain, compiled, atol=tolerance * update + 2e-6)
    np.testing.assert_allclose(*losses, rtol=1e-4)
