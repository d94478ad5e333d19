"""Preprocessing for evaluation in comparison with Pillow."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from align_keras.images import (
    crop_size_to_resize_size,
    decode_image,
    preprocess_image,
    preprocess_image_bytes,
    resize_image,
    uint8_pixels,
)
from align_keras.utils.errors import InputError


def random_image(height, width, mode="RGB", seed=0):
    channels = len(mode)
    random = np.random.default_rng(seed)
    small = random.integers(0, 256, (height // 4 + 1, width // 4 + 1, channels))
    return Image.fromarray(small.astype("uint8"), mode).resize((width, height))


def encoded(image, file_format):
    file = io.BytesIO()
    image.save(
        file, file_format, **({"lossless": True} if file_format == "WEBP" else {})
    )
    return file.getvalue()


@pytest.mark.parametrize("size", [(200, 300), (97, 41), (64, 64), (500, 20)])
def test_resized_images_equal_those_of_pillow_within_one_gray_level(size):
    image = random_image(*size)
    resized = resize_image(tf.constant(np.asarray(image)), 77).numpy().astype(int)
    expected = np.asarray(image.resize((77, 77), Image.BILINEAR)).astype(int)
    assert np.abs(resized - expected).max() <= 1


def test_images_are_resized_to_346_and_cropped_to_289_as_in_the_paper():
    assert crop_size_to_resize_size(289) == 346
    image = np.asarray(random_image(346, 346))
    cropped = preprocess_image(tf.constant(image), 289)
    np.testing.assert_array_equal(cropped, image[28:317, 28:317])


@pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
def test_decoded_images_equal_those_of_pillow(file_format):
    image = random_image(30, 40)
    content = encoded(image, file_format)
    np.testing.assert_array_equal(
        decode_image(tf.constant(content)), np.asarray(image.convert("RGB"))
    )


def test_decoded_jpeg_images_are_close_to_those_of_pillow():
    content = encoded(random_image(64, 64), "JPEG")
    expected = np.asarray(Image.open(io.BytesIO(content))).astype(int)
    actual = decode_image(tf.constant(content)).numpy().astype(int)
    # The inverse transforms of the libraries may differ.
    assert np.abs(actual - expected).max() <= 8


def test_a_transparent_png_is_blended_with_white():
    image = random_image(20, 20, "RGBA")
    white = Image.new("RGBA", image.size, "white")
    expected = np.asarray(Image.alpha_composite(white, image).convert("RGB")).astype(
        int
    )
    actual = decode_image(tf.constant(encoded(image, "PNG"))).numpy().astype(int)
    assert np.abs(actual - expected).max() <= 1


def test_encoded_images_are_decoded_and_preprocessed():
    image = random_image(50, 80)
    pixels = preprocess_image_bytes(tf.constant(encoded(image, "PNG")), 64)
    assert pixels.dtype == tf.float32
    np.testing.assert_array_equal(
        pixels, preprocess_image(tf.constant(np.asarray(image)), 64)
    )
    with pytest.raises(tf.errors.InvalidArgumentError):
        preprocess_image_bytes(tf.constant(b"junk"), 64)


@pytest.mark.parametrize("value_range", [(0, 1), (-1, 1)])
def test_floats_in_a_value_range_are_converted_to_the_same_pixels(value_range):
    pixels = np.asarray(random_image(30, 40))
    low, high = value_range
    floats = (low + pixels / 255 * (high - low)).astype("float32")
    np.testing.assert_array_equal(uint8_pixels(floats, value_range), pixels)
    np.testing.assert_array_equal(uint8_pixels(pixels, value_range), pixels)
    batches = tf.data.Dataset.from_tensors(floats)
    batches = batches.map(lambda batch: uint8_pixels(batch, value_range))
    np.testing.assert_array_equal(next(batches.as_numpy_iterator()), pixels)


@pytest.mark.parametrize(
    ("pixels", "value_range", "message"),
    [
        (np.full((9, 9, 3), 0.5), None, "Received: float64 and value_range=None"),
        (np.full((9, 9, 3), 128), (0, 255), "Received: int64"),
        (np.full((9, 9, 3), 2.0), (0, 1), r"value_range=\(0, 1\). Received: 2 to 2"),
        (np.full((9, 9, 3), np.nan), (0, 1), "Received: nan"),
        (np.full((9, 9, 3), 0.5), (1, 0), "value_range"),
    ],
)
def test_ambiguous_pixels_are_refused(pixels, value_range, message):
    with pytest.raises(InputError, match=message) as caught:
        uint8_pixels(pixels, value_range)
    assert "\n" not in str(caught.value)


def test_all_functions_refuse_floats_without_a_value_range():
    for prepare in (resize_image, preprocess_image):
        with pytest.raises(InputError, match="Received: float32"):
            prepare(tf.fill((50, 40, 3), 0.5), 64)
