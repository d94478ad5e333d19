"""EfficientNet against Keras's own, and its compound scaling."""

import math

import keras
import numpy as np
import pytest

from align_keras.layers import FusedBatchNormalization
from align_keras.models import ALIGN, ImageEncoder, preset_table
from align_keras.models.variants import (
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
    # An untrained tower's gradients are tiny; without such a rate, gamma, which is
    # 1, would change by less than float32 can show.
    encoder.compile(keras.optimizers.SGD(1e6), loss="mse", jit_compile=False)
    before = {variable.path: variable.numpy() for variable in encoder.variables}
    targets = np.random.default_rng(1).normal(size=(len(images), 8))
    encoder.fit(images, targets, verbose=0)
    return {v.path for v in encoder.variables if (before[v.path] != v.numpy()).any()}


def copy_keras_weights(reference, encoder):
    """Copies by order: both run stem, then block by block.

    Keras's squeeze-and-excitation is two 1×1 convolutions where ours is two
    dense layers, so those kernels only change shape.
    """
    weights = [w for w in reference.weights if "normalization" not in w.path]
    for ours, theirs in zip(encoder.weights, weights, strict=True):
        ours.assign(np.reshape(theirs.numpy(), ours.shape))


@pytest.mark.parametrize(
    ("padding", "size"),
    [
        pytest.param("hugging_face", 64, marks=pytest.mark.release),
        pytest.param("hugging_face", 75, marks=pytest.mark.ci),
        pytest.param("tf", 75, marks=pytest.mark.ci),
    ],
)
def test_b0_equals_keras_applications(padding, size):
    keras.utils.set_random_seed(0)
    # Keras pads by the sides that it knows. An open input shape makes it pad all sides
    # as even ones, as Hugging Face does.
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
    # float32 through 81 layers; relative to the embedding's size.
    scale = np.abs(expected).max()
    np.testing.assert_allclose(actual / scale, expected / scale, atol=2e-5)


@pytest.mark.parametrize(("padding", "side"), [("tf", 145), ("hugging_face", 144)])
def test_the_stem_of_289_pixels(padding, side):
    encoder = ImageEncoder(**SMALL, padding=padding)
    stem = keras.Model(encoder.input, encoder.get_layer("stem").output)
    assert stem(random_images(289, 289, 1)).shape[1:3] == (side, side)
    rebuilt = ImageEncoder.from_config(encoder.get_config())
    assert rebuilt.padding == padding


def test_a_configuration_of_version_0_1_keeps_its_padding():
    config = ImageEncoder(**SMALL).get_config()
    del config["padding"]
    assert ImageEncoder.from_config(config).padding == "hugging_face"


def test_the_papers_presets_pad_as_the_open_source_efficientnet():
    model = ALIGN.from_preset("align_nano", vocabulary_size=10)
    assert model.image_encoder.padding == "tf"


def test_channels_first_is_refused_by_name():
    data_format = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_first")
    try:
        with pytest.raises(InputError, match="Received: .* 'channels_first'. Call"):
            ImageEncoder(width_coefficient=0.25, num_stages=1, image_size=32)
    finally:
        keras.config.set_image_data_format(data_format)


def test_an_unknown_padding_is_refused():
    with pytest.raises(InputError, match="padding must be one of tf, hugging_face"):
        ImageEncoder(**SMALL, padding="same")


def test_widths_of_the_paper():
    assert scaled_stages(*IMAGE_VARIANTS["efficientnet_b7"][:2])[-1].filters == 640
    assert scaled_stages(*IMAGE_VARIANTS["efficientnet_l2"][:2])[-1].filters == 1376
    assert scaled_stages(*IMAGE_VARIANTS["efficientnet_b6"][:2])[-1].filters == 576
    assert scaled_stages(*IMAGE_VARIANTS["efficientnet_b8"][:2])[-1].filters == 704
    assert round_filters(32, 0.1) == 8


def test_projection_is_absent_where_the_tower_is_as_wide():
    arguments = image_encoder_arguments
    assert arguments("efficientnet_b7", 640)["projection_dim"] is None
    assert arguments("efficientnet_l2", 1376)["projection_dim"] is None
    assert arguments("efficientnet_b3", 640)["projection_dim"] == 640


def test_paper_grid_is_complete():
    names = preset_table.preset_names()
    assert (
        sum(name.split("_")[1] in ("b1", "b3", "b5", "b7", "l2") for name in names)
        == 20
    )
    # Section 6.1: 640 in the grid; section 5: 1376 in the largest model alone.
    for name in names[2:]:
        width = 1376 if name == "align_l2_large" else 640
        assert preset_table.preset_config(name)["projection_dim"] == width


@pytest.mark.parametrize(
    "freeze",
    [
        pytest.param(True, marks=pytest.mark.ci),
        pytest.param(False, marks=pytest.mark.release),
    ],
)
def test_frozen_statistics_stay_while_the_rest_learns(freeze):
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
        # What it learns from is what it will predict with.
        images = random_images(64, 64)
        encoder = ImageEncoder(
            **SMALL, freeze_batch_statistics=True, drop_connect_rate=0.0
        )
        np.testing.assert_array_equal(
            encoder(images, training=True), encoder(images, training=False)
        )


@pytest.mark.ci
def test_locked_tower_stays_bit_by_bit():
    # Without the lock, drop-connect and batch statistics would change features.
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


def test_locked_without_a_projection_learns_nothing():
    encoder = ImageEncoder(**SMALL, locked=True)
    assert not any(variable.trainable for variable in encoder.variables)


@pytest.mark.parametrize(
    "number", [0, *(pytest.param(one, marks=pytest.mark.ci) for one in range(1, 5))]
)
def test_lite_has_as_many_parameters_as_its_pytorch_tower(number):
    question, expected = recorded("lite_parameters")[number]
    assert question["number"] == number
    arguments = image_encoder_arguments(f"efficientnet_lite{number}", None)
    encoder = ImageEncoder(**arguments, image_size=32)
    found = sum(math.prod(weight.shape) for weight in encoder.trainable_weights)
    assert found == expected["answer"]


@pytest.fixture(scope="module", params=[False, True], ids=["b", "lite"])
def small_encoder(request):
    return ImageEncoder(**SMALL, lite=request.param)


@pytest.mark.parametrize(
    ("height", "width"), [(32, 32), (33, 47), (64, 35), (129, 32), (101, 99)]
)
def test_any_size_from_32_runs(small_encoder, height, width):
    embedding = small_encoder(random_images(height, width, 2))
    assert embedding.shape == (2, *small_encoder.output_shape[1:])
    # A side that had vanished in the strides would average to NaN.
    assert np.isfinite(embedding).all()


def test_the_first_stages_alone():
    encoder = ImageEncoder(**SMALL, num_stages=3)
    assert [block.name for block in encoder.blocks] == [
        f"block_{number}_1" for number in (1, 2, 3)
    ]
    whole = ImageEncoder(**SMALL)
    shapes = [variable.shape for variable in whole.weights]
    assert [v.shape for v in encoder.weights] == shapes[: len(encoder.weights)]
    assert ImageEncoder.from_config(encoder.get_config()).num_stages == 3
    with pytest.raises(
        InputError, match="num_stages must be .* Received: num_stages=8"
    ):
        ImageEncoder(**SMALL, num_stages=8)
