"""Tests of the image classifier and of the copy of its encoder."""

import keras
import numpy as np
import pytest

from align_keras.models import ImageClassifier, ImageEncoder
from align_keras.models.image_classifier import encoder_without_projection
from align_keras.utils.errors import InputError

SMALL = {"width_coefficient": 0.25, "depth_coefficient": 0.3, "image_size": 32}


def random_images(count=4, side=32, seed=0):
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (count, side, side, 3)).astype("uint8")


def test_the_copy_returns_the_features_before_the_projection():
    encoder = ImageEncoder(**SMALL, projection_dim=8, name="tower")
    before = [weight.copy() for weight in encoder.get_weights()]
    copy = encoder_without_projection(encoder)
    pooled = keras.Model(encoder.inputs, encoder.get_layer("projection").input)
    images = random_images()
    np.testing.assert_array_equal(copy(images), pooled(images))
    assert copy.projection_dim is None and copy.name == "tower"
    # Training the copy doesn't change the original encoder.
    for variable in copy.trainable_variables:
        variable.assign_add(np.ones(variable.shape))
    for old, new in zip(before, encoder.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_the_copy_of_an_encoder_without_projection_has_the_same_output():
    encoder = ImageEncoder(**SMALL)
    images = random_images()
    copy = encoder_without_projection(encoder)
    np.testing.assert_array_equal(copy(images), encoder(images))


def test_the_copy_of_a_locked_encoder_is_trainable_and_has_its_classes():
    encoder = ImageEncoder(
        **SMALL, projection_dim=8, num_classes=5, locked=True, virtual_batch_size=3
    )
    copy = encoder_without_projection(encoder, freeze_batch_statistics=True)
    assert copy.trainable_variables and not copy.locked
    assert copy.freeze_batch_statistics and copy.virtual_batch_size is None
    assert copy.output_shape == encoder.get_layer("projection").input.shape


def test_initial_logits_are_zero_for_images_of_any_size():
    classifier = ImageClassifier(ImageEncoder(**SMALL), 3)
    for side in (32, 45, 64):
        logits = classifier(random_images(side=side))
        np.testing.assert_array_equal(logits, np.zeros((4, 3)))
        assert logits.dtype == "float32"


def test_a_frozen_encoder_runs_in_inference_mode():
    encoder = ImageEncoder(**SMALL, drop_connect_rate=0.9)
    classifier = ImageClassifier(encoder, 3)
    classifier.build((None, 32, 32, 3))
    classifier.head.kernel.assign(np.random.default_rng(0).normal(size=(80, 3)))
    images = random_images()
    encoder.trainable = False
    np.testing.assert_array_equal(
        classifier(images, training=True), classifier(images, training=False)
    )
    assert len(classifier.trainable_variables) == 2
    encoder.trainable = True
    training_logits = classifier(images, training=True).numpy()
    assert (training_logits != classifier(images, training=False).numpy()).any()


@pytest.mark.ci
def test_a_keras_file_restores_the_classifier(tmp_path):
    classifier = ImageClassifier(ImageEncoder(**SMALL), 3, dtype="float32")
    images = random_images()
    classifier(images)
    classifier.head.kernel.assign(np.random.default_rng(0).normal(size=(80, 3)))
    classifier.save(tmp_path / "classifier.keras")
    loaded = keras.models.load_model(tmp_path / "classifier.keras")
    np.testing.assert_array_equal(loaded(images), classifier(images))
    assert loaded.get_config() == classifier.get_config()


def test_the_head_is_float32_in_mixed_precision():
    encoder = ImageEncoder(**SMALL, dtype="mixed_bfloat16")
    classifier = ImageClassifier(encoder_without_projection(encoder), 3)
    assert classifier.dtype_policy.name == "mixed_bfloat16"
    assert classifier(random_images()).dtype == "float32"


def test_a_single_class_is_refused():
    with pytest.raises(InputError, match="num_classes=1"):
        ImageClassifier(ImageEncoder(**SMALL), 1)
