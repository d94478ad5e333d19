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


def test_the_features_are_those_before_the_projection():
    encoder = ImageEncoder(**SMALL, projection_dim=8, name="tower")
    before = [weight.copy() for weight in encoder.get_weights()]
    copy = encoder_without_projection(encoder)
    pooled = keras.Model(encoder.inputs, encoder.get_layer("projection").input)
    images = random_images()
    np.testing.assert_array_equal(copy(images), pooled(images))
    assert copy.projection_dim is None and copy.name == "tower"
    # A copy: what it learns doesn't reach the other.
    for variable in copy.trainable_variables:
        variable.assign_add(np.ones(variable.shape))
    for old, new in zip(before, encoder.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_without_a_projection_it_is_the_embedding():
    encoder = ImageEncoder(**SMALL)
    images = random_images()
    copy = encoder_without_projection(encoder)
    np.testing.assert_array_equal(copy(images), encoder(images))


def test_a_locked_tower_is_unlocked_and_keeps_its_classes():
    encoder = ImageEncoder(
        **SMALL, projection_dim=8, num_classes=5, locked=True, virtual_batch_size=3
    )
    copy = encoder_without_projection(encoder, freeze_batch_statistics=True)
    assert copy.trainable_variables and not copy.locked
    assert copy.freeze_batch_statistics and copy.virtual_batch_size is None
    assert copy.output_shape == encoder.get_layer("projection").input.shape


def test_it_begins_at_zero_and_takes_any_size():
    classifier = ImageClassifier(ImageEncoder(**SMALL), 3)
    for side in (32, 45, 64):
        logits = classifier(random_images(side=side))
        np.testing.assert_array_equal(logits, np.zeros((4, 3)))
        assert logits.dtype == "float32"


def test_a_frozen_encoder_runs_as_in_inference():
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
    trained = classifier(images, training=True).numpy()
    assert (trained != classifier(images, training=False).numpy()).any()


@pytest.mark.ci
def test_it_is_saved_and_read(tmp_path):
    classifier = ImageClassifier(ImageEncoder(**SMALL), 3, dtype="float32")
    images = random_images()
    classifier(images)
    classifier.head.kernel.assign(np.random.default_rng(0).normal(size=(80, 3)))
    classifier.save(tmp_path / "classifier.keras")
    again = keras.models.load_model(tmp_path / "classifier.keras")
    np.testing.assert_array_equal(again(images), classifier(images))
    assert again.get_config() == classifier.get_config()


def test_the_head_is_float32_in_mixed_precision():
    encoder = ImageEncoder(**SMALL, dtype="mixed_bfloat16")
    classifier = ImageClassifier(encoder_without_projection(encoder), 3)
    assert classifier.dtype_policy.name == "mixed_bfloat16"
    assert classifier(random_images()).dtype == "float32"


def test_one_class_is_no_choice():
    with pytest.raises(
        InputError, match="num_classes must be .* Received: num_classes=1"
    ):
        ImageClassifier(ImageEncoder(**SMALL), 1)


@pytest.mark.release
def test_a_quantized_encoder_cannot_learn():
    encoder = ImageEncoder(**SMALL, projection_dim=8)
    encoder.quantize("int8")
    with pytest.raises(InputError, match="float weights to learn"):
        encoder_without_projection(encoder)
