"""Tests of the stored images and their pixel keys."""

import io

import numpy as np
import pytest
from PIL import Image

from align_keras.datasets.image_layout import (
    ImageLayout,
    limit_image,
    pixel_key,
    square_image,
)
from align_keras.utils.errors import ImageError


def noise(width, height):
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(values)


def test_png_stores_the_exact_pixels():
    content, key = ImageLayout(size=64).apply(noise(200, 100))
    stored = Image.open(io.BytesIO(content))
    assert (stored.format, stored.size) == ("PNG", (64, 64))
    assert pixel_key(stored) == key


def test_jpeg_keeps_the_aspect_and_similar_pixels():
    image = Image.linear_gradient("L").convert("RGB")
    content, key = ImageLayout(32, square=False, encoding="jpeg").apply(
        image.resize((128, 64))
    )
    stored = Image.open(io.BytesIO(content))
    assert (stored.format, stored.size) == ("JPEG", (64, 32))
    expected = image.resize((128, 64)).resize((64, 32))
    difference = np.asarray(stored, int) - np.asarray(expected, int)
    assert np.abs(difference).mean() < 4
    assert len(key) == 32


@pytest.mark.parametrize("size", [(500, 700), (900, 301), (200, 100)])
def test_the_shorter_side_is_large_enough_for_training(size):
    """Training resizes both sides to 346 pixels for crops of 289, or to 569 for 475."""
    keys = set()
    for shorter_side in (346, 569):
        layout = ImageLayout(shorter_side, square=False, encoding="jpeg")
        content, key = layout.apply(noise(*size))
        stored = Image.open(io.BytesIO(content)).size
        assert min(stored) == min(*size, shorter_side)
        assert stored[0] / stored[1] == pytest.approx(size[0] / size[1], rel=0.01)
        keys.add(key)
    # The key doesn't depend on the size, so that an image keeps its split.
    assert len(keys) == 1


def test_a_gray_image_is_stored_in_gray():
    content, key = ImageLayout(size=64).apply(Image.new("L", (8, 8), 9))
    assert Image.open(io.BytesIO(content)).mode == "L"
    assert key == pixel_key(Image.new("RGB", (8, 8), (9, 9, 9)))


def test_an_image_too_large_for_jpeg_raises():
    image = Image.new("RGB", (70_000, 3))
    with pytest.raises(ImageError, match="70000 × 3"):
        ImageLayout(size=3, square=False, encoding="jpeg").apply(image)


def gradient(width=40, height=30):
    ramp = np.linspace(0, 255, width * height * 3).astype(np.uint8)
    return Image.fromarray(ramp.reshape(height, width, 3))


def test_a_square_image_is_centered_and_not_enlarged():
    image = Image.new("RGB", (10, 4), "black")
    square = np.asarray(square_image(image, 64))
    assert square.shape == (10, 10, 3)
    assert (square[3:7] == 0).all()
    assert (square[:3] == 255).all() and (square[7:] == 255).all()
    assert square_image(gradient(64, 64), 64).size == (64, 64)


def test_a_square_image_is_reduced_with_antialiasing():
    stripes = np.zeros((400, 400), np.uint8)
    stripes[:, ::2] = 255
    square = np.asarray(square_image(Image.fromarray(stripes), 100), int)
    assert square.shape == (100, 100)
    # The stripes become gray.
    assert np.abs(square - 127).max() <= 25


def test_an_extreme_aspect_keeps_one_pixel():
    assert limit_image(Image.new("RGB", (5_000, 1)), 100).size == (100, 1)
    assert square_image(Image.new("RGB", (1, 5_000)), 100).size == (100, 100)


def test_the_pixel_key_depends_on_pixels_and_size_but_not_on_the_mode():
    gray = gradient().convert("L")
    assert pixel_key(gray) == pixel_key(gray.convert("RGB"))
    assert pixel_key(gradient()) != pixel_key(gray)
    changed = gradient().copy()
    changed.putpixel((5, 5), (1, 2, 3))
    assert pixel_key(changed) != pixel_key(gradient())
    tall, wide = Image.new("RGB", (2, 8)), Image.new("RGB", (8, 2))
    assert pixel_key(tall) != pixel_key(wide)
    assert int(pixel_key(gray), 16) >= 0 and len(pixel_key(gray)) == 32
