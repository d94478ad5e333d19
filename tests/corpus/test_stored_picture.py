"""What is stored is what the key names."""

import io

import numpy as np
import pytest
from PIL import Image

from align_keras.corpus.picture import PictureError, pixel_key
from align_keras.corpus.stored_picture import PictureLayout


def noise(width, height):
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(values)


def test_png_stores_the_very_pixels():
    content, key = PictureLayout(size=64).apply(noise(200, 100))
    stored = Image.open(io.BytesIO(content))
    assert (stored.format, stored.size) == ("PNG", (64, 64))
    assert pixel_key(stored) == key


def test_jpeg_keeps_the_aspect_and_comes_close():
    image = Image.linear_gradient("L").convert("RGB")
    content, key = PictureLayout(32, square=False, encoding="jpeg").apply(
        image.resize((128, 64))
    )
    stored = Image.open(io.BytesIO(content))
    assert (stored.format, stored.size) == ("JPEG", (64, 32))
    expected = image.resize((128, 64)).resize((64, 32))
    difference = np.asarray(stored, int) - np.asarray(expected, int)
    assert np.abs(difference).mean() < 4
    assert len(key) == 32


@pytest.mark.parametrize("size", [(500, 700), (900, 301), (200, 100)])
def test_training_need_not_enlarge_what_keeps_its_aspect(size):
    """It resizes both sides to one length: 346 for 289 pixels, 569 for 475."""
    keys = set()
    for shorter_side in (346, 569):
        layout = PictureLayout(shorter_side, square=False, encoding="jpeg")
        content, key = layout.apply(noise(*size))
        stored = Image.open(io.BytesIO(content)).size
        assert min(stored) == min(*size, shorter_side)
        assert stored[0] / stored[1] == pytest.approx(size[0] / size[1], rel=0.01)
        keys.add(key)
    # So that a picture keeps its split.
    assert len(keys) == 1


def test_grey_stays_a_grey_file():
    content, key = PictureLayout(size=64).apply(Image.new("L", (8, 8), 9))
    assert Image.open(io.BytesIO(content)).mode == "L"
    assert key == pixel_key(Image.new("RGB", (8, 8), (9, 9, 9)))


def test_what_no_jpeg_can_hold_is_refused():
    image = Image.new("RGB", (70_000, 3))
    with pytest.raises(PictureError, match="oversized.*70000 × 3 pixels"):
        PictureLayout(size=3, square=False, encoding="jpeg").apply(image)
