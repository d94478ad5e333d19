"""Tests that saved models restore frozen layers and the state of the optimizer."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from align_keras.models import ALIGN, ImageEncoder
from align_keras.models.image_classifier import encoder_without_projection
from align_keras.optimizers import Lamb, LinearWarmup, Muon
from tests.helpers.small import small_align, small_batch


def freeze_blocks(model):
    for block in model.image_encoder.blocks:
        block.trainable = False


def freeze_one_kernel(model):
    model.image_encoder.blocks[1].depthwise.trainable = False
    model.text_encoder.backbone.token_embedding.trainable = False


def freeze_all(model):
    model.trainable = False


def freeze_all_but_one(model):
    model.image_encoder.trainable = False
    model.image_encoder.trainable = True
    model.image_encoder.blocks[0].trainable = False
    model.image_encoder.blocks[0].project.trainable = True
    model.temperature_layer.trainable = False


def unfreeze_a_layer_of_a_frozen_model(model):
    model.trainable = False
    model.image_encoder.get_layer("projection").trainable = True


CHANGES = [
    freeze_blocks,
    freeze_one_kernel,
    freeze_all,
    freeze_all_but_one,
    unfreeze_a_layer_of_a_frozen_model,
]


def flags(model):
    """Returns `trainable` of each layer with weights and of each variable."""
    layers = model._flatten_layers()
    weights = {weight.path: weight.trainable for weight in model.weights}
    named = [(layer.name, layer.trainable) for layer in layers if layer.weights]
    return named, weights, [weight.path for weight in model.trainable_weights]


@pytest.mark.parametrize("change", CHANGES)
def test_a_copy_from_the_config_has_the_same_frozen_layers(change):
    model = small_align()
    before = flags(model)
    change(model)
    assert flags(model) != before
    copy = ALIGN.from_config(json.loads(json.dumps(model.get_config())))
    assert flags(copy) == flags(model)
    # The copy must write the same flags again.
    assert flags(ALIGN.from_config(copy.get_config())) == flags(model)


@pytest.mark.parametrize("learn_temperature", [True, False])
def test_the_config_of_a_model_without_changes_has_no_flags(learn_temperature):
    model = small_align(learn_temperature=learn_temperature)
    config = model.get_config()
    assert "layer_trainable" not in json.dumps(config)
    assert flags(ALIGN.from_config(config)) == flags(model)


def test_a_locked_encoder_can_be_unlocked():
    encoder = ImageEncoder(
        width_coefficient=0.25, depth_coefficient=0.3, num_stages=2, locked=True
    )
    # Keras ignores True if the model is trainable already, so it is frozen first.
    encoder.trainable = False
    encoder.trainable = True
    copy = ImageEncoder.from_config(encoder.get_config())
    assert len(copy.trainable_weights) == len(encoder.trainable_weights) > 10
    trainable_copy = encoder_without_projection(encoder)
    assert all(layer.trainable for layer in trainable_copy.layers)


def test_frozen_layers_do_not_change_the_fingerprint():
    encoder = small_align().image_encoder
    before = encoder.fingerprint()
    encoder.blocks[0].trainable = False
    assert encoder.fingerprint() == before


@pytest.mark.ci
def test_presets_restore_frozen_layers_unless_arguments_replace_them(tmp_path):
    model = small_align()
    freeze_all_but_one(model)
    model.save_to_preset(tmp_path)
    assert flags(ALIGN.from_preset(tmp_path)) == flags(model)
    learned = ALIGN.from_preset(tmp_path, learn_temperature=True)
    assert learned.temperature_layer.trainable
    assert not learned.image_encoder.blocks[0].trainable
    replaced = ALIGN.from_preset(tmp_path, trainable=True)
    assert replaced.image_encoder.blocks[0].trainable
    locked = ALIGN.from_preset(tmp_path, locked=True)
    assert [layer.name for layer in locked.image_encoder.layers if layer.trainable] == [
        "projection"
    ]


OPTIMIZERS = {
    "AdamW": lambda: keras.optimizers.AdamW(1e-2, global_clipnorm=1.0),
    "SGD": lambda: keras.optimizers.SGD(
        keras.optimizers.schedules.CosineDecay(0.1, 20), momentum=0.9
    ),
    "Lamb": lambda: Lamb(
        keras.optimizers.schedules.CosineDecay(1e-2, 20), use_ema=True
    ),
    "Muon": lambda: Muon(LinearWarmup(1e-3, 4)),
}


@pytest.mark.parametrize(
    ("optimizer", "policy"),
    [
        pytest.param("AdamW", "float32", marks=pytest.mark.ci),
        pytest.param("SGD", "mixed_float16", marks=pytest.mark.release),
        pytest.param("Lamb", "float32", marks=pytest.mark.release),
        pytest.param("Muon", "float32", marks=pytest.mark.release),
    ],
)
def test_training_from_a_keras_file_equals_training_without_a_break(
    optimizer, policy, tmp_path
):
    keras.config.set_dtype_policy(policy)
    try:
        keras.utils.set_random_seed(3)
        model = small_align()
    finally:
        keras.config.set_dtype_policy("float32")
    freeze_blocks(model)
    kernels = [block.depthwise.kernel.numpy() for block in model.image_encoder.blocks]
    model.compile(OPTIMIZERS[optimizer]())
    # Loss scaling halves the scale in the first steps until the gradients are finite.
    batches = tf.data.Dataset.from_tensors(small_batch()).repeat(12)
    model.fit(batches, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")

    assert len(loaded.optimizer.variables) == len(model.optimizer.variables)
    assert int(loaded.optimizer.iterations) == int(model.optimizer.iterations) > 0
    for actual, expected in zip(
        loaded.optimizer.variables, model.optimizer.variables, strict=True
    ):
        np.testing.assert_array_equal(actual, expected)

    expected_losses = model.fit(batches, verbose=0).history["loss"]
    losses = loaded.fit(batches, verbose=0).history["loss"]
    assert losses == expected_losses
    for actual, expected in zip(loaded.weights, model.weights, strict=True):
        np.testing.assert_array_equal(actual, expected, err_msg=actual.path)
    for block, kernel in zip(loaded.image_encoder.blocks, kernels, strict=True):
        np.testing.assert_array_equal(block.depthwise.kernel, kernel)
