"""Tests that compare the transformer computation with that of KerasHub."""

import importlib.metadata

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras_hub.models import BertBackbone

from align_keras.models import TextEncoder
from align_keras.models.transformer_computation import (
    TESTED,
    set_transformer_computation,
)
from align_keras.utils.errors import InputError

SIZES = {
    "vocabulary_size": 50,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 16,
    "intermediate_dim": 32,
    "dropout": 0.0,
}


def tokens():
    token_ids = np.random.default_rng(0).integers(1, 50, (3, 6)).astype("int32")
    padding_mask = np.ones((3, 6), "int32")
    padding_mask[1, 3:] = 0
    return {"token_ids": token_ids, "padding_mask": padding_mask}


def output_and_gradients(function, variables):
    with tf.GradientTape() as tape:
        outputs = function()
        loss = tf.reduce_sum(outputs**3)
    return [outputs, *tape.gradient(loss, [v.value for v in variables])]


@pytest.mark.parametrize(
    "pooling, training",
    [
        ("cls", False),
        ("mean", True),
        pytest.param("cls", True, marks=pytest.mark.release),
        pytest.param("mean", False, marks=pytest.mark.release),
    ],
)
def test_outputs_and_gradients_equal_those_of_keras_hub(pooling, training):
    encoder = TextEncoder(**SIZES, sequence_length=6, pooling=pooling)
    bert = BertBackbone(**SIZES, max_sequence_length=6, num_segments=2)
    seed = keras.random.SeedGenerator(0)
    # Random values make all layers different, and biases different from 0.
    for variable in encoder.backbone.variables:
        variable.assign(keras.random.normal(variable.shape, stddev=0.3, seed=seed))
    bert.set_weights(encoder.backbone.get_weights())
    inputs = tokens()

    def compute_reference():
        segments = {"segment_ids": np.zeros((3, 6), "int32")}
        outputs = bert({**inputs, **segments}, training=training)
        sequence = outputs["sequence_output"]
        if pooling == "cls":
            return sequence[:, 0]
        mask = tf.cast(inputs["padding_mask"], "float32")[..., None]
        return tf.reduce_sum(sequence * mask, 1) / tf.reduce_sum(mask, 1)

    def learned(bert):
        return [v for v in bert.trainable_variables if "pooled_dense" not in v.path]

    names = [v.path.split("/", 2)[-1] for v in learned(encoder.backbone)]
    expected = output_and_gradients(compute_reference, learned(bert))
    actual = output_and_gradients(
        lambda: encoder(inputs, training=training), learned(encoder.backbone)
    )
    for name, values, expected_values in zip(
        ["output", *names], actual, expected, strict=True
    ):
        values = tf.convert_to_tensor(values).numpy()
        expected_values = tf.convert_to_tensor(expected_values).numpy()
        # The float32 sums are computed in another order. The bias of a key doesn't
        # change the attention, so its gradient consists of rounding errors.
        scale = max(np.abs(expected_values).max(), 1e-2)
        np.testing.assert_allclose(
            values / scale, expected_values / scale, atol=2e-5, err_msg=name
        )


def test_the_last_layer_applies_dropout():
    encoder = TextEncoder(**{**SIZES, "num_layers": 1, "dropout": 0.5})
    first, second = (encoder(tokens(), training=True) for _ in range(2))
    assert np.abs(first - second).max() > 0
    np.testing.assert_array_equal(encoder(tokens()), encoder(tokens()))


def test_a_keras_hub_with_other_private_attributes_is_refused():
    bert = BertBackbone(**SIZES, max_sequence_length=6, num_segments=2)
    del bert.transformer_layers[1]._feedforward_intermediate_dense
    with pytest.raises(InputError, match="keras-hub.*pip install") as caught:
        set_transformer_computation(bert.transformer_layers, "gelu", False)
    assert "_feedforward_intermediate_dense. Received: keras" in str(caught.value)
    assert f"'keras-hub=={TESTED['keras-hub']}.*'" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.ci
def test_tested_versions_are_the_installed_ones():
    installed = {
        name: ".".join(importlib.metadata.version(name).split(".")[:2])
        for name in TESTED
    }
    assert installed == TESTED, (
        "Newer versions are installed. Run "
        "tests/models/test_transformer_computation.py. If it passes, update TESTED in "
        "align_keras/models/transformer_computation.py. Otherwise update the replaced "
        "computation in that module."
    )
