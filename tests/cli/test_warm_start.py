"""--image-weights and --text-weights of `align-keras train` set the configuration."""

import argparse

import numpy as np
import pytest

from align_keras.cli.train import add_weights_arguments, weights_overrides
from align_keras.config import load_config


def model_config(*argv):
    parser = argparse.ArgumentParser()
    add_weights_arguments(parser)
    overrides = weights_overrides(parser.parse_args(argv))
    return load_config(params_override=[overrides]).task.model


def test_the_configuration_is_the_default_without_options():
    assert model_config() == load_config().task.model


def test_names_of_weights_also_set_the_sizes():
    model = model_config(
        "--image-weights", "efficientnet-lite1", "--text-weights", "minilm-l6"
    )
    assert model.image_encoder.weights == "efficientnet-lite1"
    assert model.image_encoder.variant == "efficientnet_lite1"
    text = model.text_encoder
    assert (text.weights, text.variant, text.pooling, text.activation) == (
        "minilm-l6",
        "minilm_l6",
        "mean",
        "gelu",
    )


@pytest.mark.release
def test_the_weights_of_align_small_en_match_the_sizes():
    from align_keras.models import ALIGN
    from align_keras.models.warm_start import text_weights
    from align_keras.runs.model_from_config import build_model

    name = "align_small_en"
    config = model_config("--image-weights", name, "--text-weights", name)
    model = build_model(config, text_weights(name).vocabulary)
    source = ALIGN.from_preset(name)
    for variable, expected in zip(model.weights, source.weights, strict=True):
        np.testing.assert_allclose(variable, expected, rtol=1e-6, err_msg=variable.path)
    images = [np.full((200, 100, 3), 90, "uint8")]
    np.testing.assert_allclose(
        model.encode_images(images), source.encode_images(images), atol=1e-6
    )
    np.testing.assert_allclose(
        model.encode_texts(["a red cat"]), source.encode_texts(["a red cat"]), atol=1e-6
    )
    image_config = model_config("--image-weights", name)
    assert image_config.projection_dim == 384
    assert image_config.text_encoder == load_config().task.model.text_encoder


def test_paths_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bert.ckpt.index").touch()
    (tmp_path / "b0.h5").touch()
    model = model_config("--image-weights", "b0.h5", "--text-weights", "bert.ckpt")
    assert model.image_encoder.weights == str(tmp_path / "b0.h5")
    assert model.text_encoder.weights == str(tmp_path / "bert.ckpt")
    assert model_config("--image-weights", "hf://a/b").image_encoder.weights == (
        "hf://a/b"
    )
