"""The evaluation path against PIL."""

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
def test_resize_equals_pil_within_one_gray_level(size):
    image = random_image(*size)
    ours = resize_image(tf.constant(np.asarray(image)), 77).numpy().astype(int)
    theirs = np.asarray(image.resize((77, 77), Image.BILINEAR)).astype(int)
    assert np.abs(ours - theirs).max() <= 1


def test_paper_sizes_and_center_crop():
    assert crop_size_to_resize_size(289) == 346
    image = np.asarray(random_image(346, 346))
    cropped = preprocess_image(tf.constant(image), 289)
    np.testing.assert_array_equal(cropped, image[28:317, 28:317])


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "GIF", "WEBP"])
def test_decode_equals_pil(file_format):
    image = random_image(30, 40)
    if file_format == "GIF":
        image = image.quantize(64)
    content = encoded(image, file_format)
    np.testing.assert_array_equal(
        decode_image(tf.constant(content)), np.asarray(image.convert("RGB"))
    )


def test_jpeg_is_close_to_pil():
    content = encoded(random_image(64, 64), "JPEG")
    theirs = np.asarray(Image.open(io.BytesIO(content))).astype(int)
    ours = decode_image(tf.constant(content)).numpy().astype(int)
    # TensorFlow's default inverse transform is the fast integer one.
    assert np.abs(ours - theirs).max() <= 8


def test_transparent_png_lies_on_white():
    image = random_image(20, 20, "RGBA")
    white = Image.new("RGBA", image.size, "white")
    expected = np.asarray(Image.alpha_composite(white, image).convert("RGB")).astype(
        int
    )
    actual = decode_image(tf.constant(encoded(image, "PNG"))).numpy().astype(int)
    assert np.abs(actual - expected).max() <= 1


def test_whole_path_from_bytes():
    image = random_image(50, 80)
    pixels = preprocess_image_bytes(tf.constant(encoded(image, "PNG")), 64)
    assert pixels.dtype == tf.float32
    np.testing.assert_array_equal(
        pixels, preprocess_image(tf.constant(np.asarray(image)), 64)
    )
    with pytest.raises(tf.errors.InvalidArgumentError):
        preprocess_image_bytes(tf.constant(b"junk"), 64)


@pytest.mark.parametrize("value_range", [(0, 1), (-1, 1), (0, 255)])
def test_floats_of_a_stated_range_are_the_image_itself(value_range):
    pixels = np.asarray(random_image(30, 40))
    low, high = value_range
    floats = (low + pixels / 255 * (high - low)).astype("float32")
    np.testing.assert_array_equal(uint8_pixels(floats, value_range), pixels)
    np.testing.assert_array_equal(uint8_pixels(pixels, value_range), pixels)
    batches = tf.data.Dataset.from_tensors(floats)
    batches = batches.map(lambda own: uint8_pixels(own, value_range))
    np.testing.assert_array_equal(next(batches.as_numpy_iterator()), pixels)


@pytest.mark.parametrize(
    ("pixels", "value_range", "words"),
    [
        (np.full((9, 9, 3), 0.5), None, "received float64 and value_range=None"),
        (np.full((9, 9, 3), 128), (0, 255), "received int64"),
        (np.full((9, 9, 3), 2.0), (0, 1), r"value_range=\(0, 1\), received 2 to 2"),
        (np.full((9, 9, 3), np.nan), (0, 1), "received nan"),
        (np.full((9, 9, 3), 0.5), (1, 0), "two numbers"),
        (np.full((9, 9, 3), 0.5), 255, "two numbers"),
    ],
)
def test_pixels_that_could_be_misread_are_refused(pixels, value_range, words):
    with pytest.raises(InputError, match=words) as caught:
        uint8_pixels(pixels, value_range)
    assert "\n" not in str(caught.value)


def test_no_path_takes_floats_for_gray_levels():
    for prepare in (resize_image, preprocess_image):
        with pytest.raises(InputError, match="received float32"):
            prepare(tf.fill((50, 40, 3), 0.5), 64)
