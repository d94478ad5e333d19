"""Tests that `ALIGNImageConverter` applies the operations of `align_keras.images`."""

import json

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from align_keras.images import (
    augment_images,
    crop_image,
    crop_image_bytes,
    preprocess_image,
    resize_image,
)
from align_keras.models import ALIGNImageConverter
from align_keras.utils.errors import InputError

OPTIONS = {
    "crop": "center",
    "flip": False,
    "zoom": 0.1,
    "shift": 0.2,
    "recolor": 0.5,
    "min_area": 0.3,
    "central_crop": 0.9,
    "value_range": [0.0, 1.0],
}


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (3, 60, 50, 3)).astype("uint8")


@pytest.fixture(scope="module")
def paths(pixels, tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    paths = [str(folder / f"{row}.png") for row in range(len(pixels))]
    for path, image in zip(paths, pixels, strict=True):
        Image.fromarray(image).save(path)
    return paths


def read_files(paths):
    return tf.stack([tf.io.read_file(path) for path in paths])


# Functions of the converter, the pixels and the paths.
FORMS = {
    "pixels": lambda converter, pixels, _: converter(pixels),
    "convert": lambda converter, pixels, _: converter.convert(pixels),
    "single": lambda converter, pixels, _: [converter(image) for image in pixels],
    "ragged": lambda converter, pixels, _: converter(
        tf.RaggedTensor.from_tensor(pixels, ragged_rank=2)
    ),
    "dataset": lambda converter, pixels, _: (
        tf.data.Dataset.from_tensors(pixels).map(converter).get_single_element()
    ),
    "files": lambda converter, _, paths: converter(read_files(paths)),
    "paths": lambda converter, _, paths: [converter.read(path, 0) for path in paths],
    "readable": lambda converter, _, paths: converter.convert_readable(
        read_files(paths)
    )[0],
}


@pytest.mark.parametrize("form", list(FORMS))
def test_evaluation_of_all_forms_equals_preprocess_image(pixels, paths, form):
    images = FORMS[form](ALIGNImageConverter(32), pixels, paths)
    # Graphs of one image and of a batch may round differently.
    np.testing.assert_allclose(images, preprocess_image(pixels, 32), atol=1e-3)


def test_the_converter_is_one_of_keras_hub():
    converter = ALIGNImageConverter(32)
    assert isinstance(converter, keras_hub.layers.ImageConverter)
    assert converter.image_size == (32, 32)


def test_the_seed_determines_the_window(pixels, paths):
    converter = ALIGNImageConverter(32)
    seed = tf.constant([3, 4], tf.int64)
    for row, image in enumerate(pixels):
        numbers = tf.random.stateless_uniform((3,), seed)
        expected = crop_image(image, 32, numbers[:2], numbers[2] < 0.5)
        np.testing.assert_array_equal(converter.augment(image, seed), expected)
        file = tf.io.read_file(paths[row])
        np.testing.assert_array_equal(converter.augment(file, seed), expected)
        assert expected.dtype == tf.uint8
    first, same_seed, other_seed = (
        converter(pixels, training=True, seed=seed) for seed in ((3, 4), (3, 4), (3, 5))
    )
    np.testing.assert_array_equal(first, same_seed)
    assert (first.numpy() != other_seed.numpy()).any()
    numbers = tf.random.stateless_uniform((3, 3), seed)
    for row, image in enumerate(pixels):
        expected = converter.crop_window(image, numbers[row])
        np.testing.assert_array_equal(first[row], expected)
    center = ALIGNImageConverter(32, crop="center", flip=False)
    expected = [crop_image(image, 32, (0.5, 0.5)) for image in pixels]
    np.testing.assert_array_equal(center(pixels, training=True, seed=seed), expected)
    png = tf.io.encode_png(pixels[0])
    expected = crop_image_bytes(png, 32, (0.5, 0.5))
    np.testing.assert_array_equal(center.augment(png, seed), expected)


def test_zoom_shift_and_recolor_augment_a_batch_of_resized_images(pixels):
    options = {"zoom": 0.1, "shift": 0.05, "recolor": 0.5}
    converter = ALIGNImageConverter(32, **options)
    assert converter.augments_batches
    assert not ALIGNImageConverter(32).augments_batches
    seed = tf.constant([5, 6], tf.int64)
    resized = tf.stack([converter.augment(image, seed) for image in pixels])
    np.testing.assert_array_equal(resized, resize_image(pixels, 38))
    expected = augment_images(resized, 32, seed, crop=True, flip=True, **options)
    np.testing.assert_array_equal(converter.augment_batch(resized, seed), expected)
    augmented = converter(pixels, training=True, seed=(5, 5))
    np.testing.assert_array_equal(augmented, expected)


@pytest.mark.parametrize("crop", ["inception", "whole"])
def test_crops_for_classifiers_are_reproducible(pixels, crop):
    converter = ALIGNImageConverter(32, crop=crop)
    first, second = (converter(pixels, training=True, seed=(0, 1)) for _ in range(2))
    assert first.shape == (3, 32, 32, 3) and first.dtype == tf.uint8
    np.testing.assert_array_equal(first, second)
    if crop == "whole":
        resized = resize_image(pixels, 32).numpy()
        is_straight = (first == resized).numpy().all(axis=(1, 2, 3))
        is_mirrored = (first == resized[:, :, ::-1]).numpy().all(axis=(1, 2, 3))
        assert (is_straight ^ is_mirrored).all()
    with pytest.raises(tf.errors.InvalidArgumentError):
        converter.augment(tf.constant(b"junk"), tf.constant([0, 0], tf.int64))


def test_float_pixels_need_a_value_range(pixels):
    expected = ALIGNImageConverter(32).convert(pixels)
    converter = ALIGNImageConverter(32, value_range=(0, 1))
    np.testing.assert_array_equal(converter(pixels / 255.0), expected)
    for options in ({}, {"training": True, "seed": (0, 0)}):
        with pytest.raises(InputError, match="value_range"):
            ALIGNImageConverter(32).call(pixels / 255.0, **options)


def test_copies_from_the_config_have_the_same_options():
    converter = ALIGNImageConverter(32, **OPTIONS, name="pixels")
    config = converter.get_config()
    assert {name: config[name] for name in OPTIONS} == OPTIONS
    assert config["image_size"] == 32 and config["name"] == "pixels"
    serialized = keras.saving.serialize_keras_object(converter)
    assert json.loads(json.dumps(serialized)) == serialized
    copies = (
        ALIGNImageConverter.from_config(config),
        keras.saving.deserialize_keras_object(serialized),
        ALIGNImageConverter((32, 32), name="pixels").with_options(**OPTIONS),
    )
    for copy in copies:
        assert copy.get_config() == config


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"image_size": (32, 33)}, "`image_size` .*33"),
        ({"image_size": 0}, "image_size=0"),
        ({"crop": True}, "crop .*random, paper, center, inception, whole"),
        ({"zoom": -1}, "zoom .*at least 0"),
        ({"recolor": 2}, "recolor .*from 0 to 1"),
        ({"min_area": 0}, "min_area"),
        ({"central_crop": 1.5}, "central_crop"),
        ({"value_range": (1, 0)}, "value_range .*increasing"),
    ],
)
def test_invalid_arguments_raise_a_one_line_error(arguments, words):
    with pytest.raises(InputError, match=words) as caught:
        ALIGNImageConverter(**{"image_size": 32, **arguments})
    assert "\n" not in str(caught.value)


def test_training_needs_a_seed(pixels):
    with pytest.raises(InputError, match="`seed`"):
        ALIGNImageConverter(32).call(pixels, training=True)
