"""Tests of the image encoder and its compound scaling."""

import math

import keras
import numpy as np
import pytest

from align_keras.layers import FusedBatchNormalization
from align_keras.models import ALIGN, ImageEncoder
from align_keras.presets import sizes
from align_keras.presets.variants import (
    IMAGE_VARIANTS,
    image_encoder_arguments,
    round_filters,
    scaled_stages,
)
from align_keras.utils.errors import InputError
from tests.helpers.recorded_oracles import recorded

SMALL = {"width_coefficient": 0.25, "depth_coefficient": 0.3, "image_size": 32}


def random_images(height=32, width=32, count=4):
    random = np.random.default_rng(0)
    return random.integers(0, 256, (count, height, width, 3)).astype("float32")


def fit_a_step(encoder, images):
    """Returns the paths of all variables that a step of `fit` changes."""
    # The gradients of an untrained encoder are tiny. With a smaller rate, gamma, which
    # is 1, would not change in float32.
    encoder.compile(keras.optimizers.SGD(1e6), loss="mse", jit_compile=False)
    before = {variable.path: variable.numpy() for variable in encoder.variables}
    targets = np.random.default_rng(1).normal(size=(len(images), 8))
    encoder.fit(images, targets, verbose=0)
    return {v.path for v in encoder.variables if (before[v.path] != v.numpy()).any()}


def copy_keras_weights(reference, encoder):
    """Copies the weights of `keras.applications`, which have the same order.

    Squeeze-and-excitation of Keras consists of two 1×1 convolutions instead of two
    dense layers, so these kernels have another shape.
    """
    weights = [w for w in reference.weights if "normalization" not in w.path]
    for variable, weight in zip(encoder.weights, weights, strict=True):
        variable.assign(np.reshape(weight.numpy(), variable.shape))


@pytest.mark.parametrize(
    ("padding", "size"),
    [
        pytest.param("hugging_face", 64, marks=pytest.mark.release),
        pytest.param("hugging_face", 75, marks=pytest.mark.release),
        pytest.param("tf", 75, marks=pytest.mark.ci),
    ],
)
def test_b0_equals_keras_applications(padding, size):
    keras.utils.set_random_seed(0)
    # Keras pads according to the static input shape. With an unknown shape, it pads odd
    # sides like even ones, as Hugging Face does.
    side = size if padding == "tf" else None
    reference = keras.applications.EfficientNetB0(
        include_top=False, weights=None, input_shape=(side, side, 3)
    )
    features = reference.get_layer("block7a_project_bn").output
    reference = keras.Model(
        reference.get_layer("stem_conv_pad").input,
        keras.layers.GlobalAveragePooling2D()(features),
    )
    encoder = ImageEncoder(image_size=size, padding=padding)
    copy_keras_weights(reference, encoder)
    images = np.random.default_rng(0).integers(0, 256, (2, size, size, 3))
    expected = reference((images / 127.5 - 1.0).astype("float32"), training=False)
    actual = encoder(images.astype("float32"), training=False)
    # The tolerance is relative to the embedding, for float32 through 81 layers.
    scale = np.abs(expected).max()
    np.testing.assert_allclose(actual / scale, expected / scale, atol=2e-5)


@pytest.mark.parametrize(("padding", "side"), [("tf", 145), ("hugging_face", 144)])
def test_the_stem_output_of_289_pixels_depends_on_the_padding(padding, side):
    encoder = ImageEncoder(**SMALL, padding=padding)
    stem = keras.Model(encoder.input, encoder.get_layer("stem").output)
    assert stem(random_images(289, 289, 1)).shape[1:3] == (side, side)
    rebuilt = ImageEncoder.from_config(encoder.get_config())
    assert rebuilt.padding == padding


def test_presets_have_the_padding_of_tensorflow():
    model = ALIGN.from_preset("align_nano", vocabulary_size=10)
    assert model.image_encoder.padding == "tf"


def test_channels_first_is_refused():
    data_format = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_first")
    try:
        with pytest.raises(InputError, match="channels_first"):
            ImageEncoder(width_coefficient=0.25, num_stages=1, image_size=32)
    finally:
        keras.config.set_image_data_format(data_format)


def test_an_unknown_padding_is_refused():
    with pytest.raises(InputError, match="padding"):
        ImageEncoder(**SMALL, padding="same")


def test_the_last_stages_have_the_widths_of_the_paper():
    assert scaled_stages(*IMAGE_VARIANTS["efficientnet_b7"][:2])[-1].filters == 640
    assert scaled_stages(*IMAGE_VARIANTS["efficientnet_l2"][:2])[-1].filters == 1376
    assert scaled_stages(*IMAGE_VARIANTS["efficientnet_b6"][:2])[-1].filters == 576
    assert scaled_stages(*IMAGE_VARIANTS["efficientnet_b8"][:2])[-1].filters == 704
    assert round_filters(32, 0.1) == 8


def test_an_encoder_with_the_embedding_width_has_no_projection():
    arguments = image_encoder_arguments
    assert arguments("efficientnet_b7", 640)["projection_dim"] is None
    assert arguments("efficientnet_l2", 1376)["projection_dim"] is None
    assert arguments("efficientnet_b3", 640)["projection_dim"] == 640


def test_the_grid_of_the_paper_is_complete():
    names = sizes.preset_names()
    assert (
        sum(name.split("_")[1] in ("b1", "b3", "b5", "b7", "l2") for name in names)
        == 20
    )
    # The width is 640 in the grid (section 6.1), and 1376 in the largest model
    # (section 5).
    for name in names[2:]:
        width = 1376 if name == "align_l2_large" else 640
        assert sizes.preset_config(name)["projection_dim"] == width


@pytest.mark.parametrize(
    "freeze",
    [
        pytest.param(True, marks=pytest.mark.ci),
        pytest.param(False, marks=pytest.mark.release),
    ],
)
def test_frozen_statistics_do_not_change_while_other_weights_learn(freeze):
    encoder = ImageEncoder(**SMALL, projection_dim=8, freeze_batch_statistics=freeze)
    norms = [
        layer
        for layer in encoder._flatten_layers()
        if isinstance(layer, FusedBatchNormalization)
    ]
    changed = fit_a_step(encoder, random_images(64, 64))
    statistics = {v.path for norm in norms for v in norm.non_trainable_variables}
    learned = {v.path for norm in norms for v in norm.trainable_variables}
    assert statistics.isdisjoint(changed) if freeze else statistics <= changed
    assert learned <= changed
    if freeze:
        # With frozen statistics, training and inference have the same outputs.
        images = random_images(64, 64)
        encoder = ImageEncoder(
            **SMALL, freeze_batch_statistics=True, drop_connect_rate=0.0
        )
        np.testing.assert_array_equal(
            encoder(images, training=True), encoder(images, training=False)
        )


@pytest.mark.ci
def test_training_does_not_change_a_locked_encoder():
    # Without the lock, drop-connect and batch statistics would change the features.
    encoder = ImageEncoder(
        **SMALL, projection_dim=8, locked=True, drop_connect_rate=0.5
    )
    features = keras.Model(encoder.input, encoder.get_layer("pooling").output)
    images = random_images()
    before = features(images, training=False).numpy()
    np.testing.assert_array_equal(features(images, training=True), before)
    changed = fit_a_step(encoder, images)
    name = encoder.name
    assert changed == {f"{name}/projection/kernel", f"{name}/projection/bias"}
    for training in (True, False):
        np.testing.assert_array_equal(features(images, training=training), before)


def test_a_locked_encoder_without_projection_has_no_trainable_weights():
    encoder = ImageEncoder(**SMALL, locked=True)
    assert not any(variable.trainable for variable in encoder.variables)


@pytest.mark.parametrize(
    "number",
    [0, *(pytest.param(number, marks=pytest.mark.release) for number in range(1, 5))],
)
def test_lite_has_as_many_parameters_as_in_pytorch(number):
    question, expected = recorded("lite_parameters")[number]
    assert question["number"] == number
    arguments = image_encoder_arguments(f"efficientnet_lite{number}", None)
    encoder = ImageEncoder(**arguments, image_size=32)
    count = sum(math.prod(weight.shape) for weight in encoder.trainable_weights)
    assert count == expected["answer"]


@pytest.fixture(scope="module", params=[False, True], ids=["b", "lite"])
def small_encoder(request):
    return ImageEncoder(**SMALL, lite=request.param)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 47), (129, 32)])
def test_images_of_any_size_from_32_are_embedded(small_encoder, height, width):
    embedding = small_encoder(random_images(height, width, 2))
    assert embedding.shape == (2, *small_encoder.output_shape[1:])
    # The mean over a feature map without pixels would be NaN.
    assert np.isfinite(embedding).all()


def test_an_encoder_may_have_only_the_first_stages():
    encoder = ImageEncoder(**SMALL, num_stages=3)
    assert [block.name for block in encoder.blocks] == [
        f"block_{number}_1" for number in (1, 2, 3)
    ]
    full_encoder = ImageEncoder(**SMALL)
    shapes = [variable.shape for variable in full_encoder.weights]
    assert [v.shape for v in encoder.weights] == shapes[: len(encoder.weights)]
    assert ImageEncoder.from_config(encoder.get_config()).num_stages == 3
    with pytest.raises(InputError, match="num_stages=8"):
        ImageEncoder(**SMALL, num_stages=8)
