"""EfficientNet against Keras's own, and its compound scaling."""

import keras
import numpy as np
import pytest

from align_keras.models import ImageEncoder, sizes
from align_keras.models.efficientnet import VARIANTS, round_filters, scaled_stages


def copy_keras_weights(reference, encoder):
    """Copies by order: both run stem, then block by block.

    Keras's squeeze-and-excitation is two 1×1 convolutions where ours is two
    dense layers, so those kernels only change shape.
    """
    weights = [w for w in reference.weights if "normalization" not in w.path]
    for ours, theirs in zip(encoder.weights, weights, strict=True):
        ours.assign(np.reshape(theirs.numpy(), ours.shape))


@pytest.mark.parametrize("size", [64, 75])
def test_b0_equals_keras_applications(size):
    keras.utils.set_random_seed(0)
    # An open input shape makes Keras pad explicitly, as Hugging Face does.
    reference = keras.applications.EfficientNetB0(
        include_top=False, weights=None, input_shape=(None, None, 3)
    )
    features = reference.get_layer("block7a_project_bn").output
    reference = keras.Model(
        reference.get_layer("stem_conv_pad").output,
        keras.layers.GlobalAveragePooling2D()(features),
    )
    encoder = ImageEncoder(image_size=size)
    copy_keras_weights(reference, encoder)
    images = np.random.default_rng(0).integers(0, 256, (2, size, size, 3))
    padded = np.pad(images / 127.5 - 1.0, ((0, 0), (0, 1), (0, 1), (0, 0)))
    expected = reference(padded.astype("float32"), training=False)
    actual = encoder(images.astype("float32"), training=False)
    # float32 through 81 layers; relative to the embedding's size.
    scale = np.abs(expected).max()
    np.testing.assert_allclose(actual / scale, expected / scale, atol=2e-5)


def test_widths_of_the_paper():
    assert scaled_stages(*VARIANTS["efficientnet_b7"][:2])[-1].filters == 640
    assert scaled_stages(*VARIANTS["efficientnet_l2"][:2])[-1].filters == 1376
    assert scaled_stages(*VARIANTS["efficientnet_b6"][:2])[-1].filters == 576
    assert scaled_stages(*VARIANTS["efficientnet_b8"][:2])[-1].filters == 704
    assert round_filters(32, 0.1) == 8


def test_projection_is_absent_where_the_tower_is_as_wide():
    arguments = sizes.image_encoder_arguments
    assert arguments("efficientnet_b7", 640)["projection_dim"] is None
    assert arguments("efficientnet_l2", 1376)["projection_dim"] is None
    assert arguments("efficientnet_b3", 640)["projection_dim"] == 640


def test_paper_grid_is_complete():
    names = sizes.preset_names()
    assert (
        sum(name.split("_")[1] in ("b1", "b3", "b5", "b7", "l2") for name in names)
        == 20
    )
    for name in names:
        assert sizes.preset_config(name)["projection_dim"] > 0
