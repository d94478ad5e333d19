import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from align_keras.images import (
    central_crop,
    decode_image,
    inception_crop,
    random_flip,
)


def encoded(pixels, file_format="PNG"):
    file = io.BytesIO()
    Image.fromarray(np.asarray(pixels, "uint8")).save(file, file_format)
    return file.getvalue()


def ramp(height=200, width=240):
    """Red is the row, green the column: a crop tells where it comes from."""
    rows, columns = np.indices((height, width))
    return np.stack([rows, columns, np.zeros_like(rows)], axis=-1)


def box_of(crop):
    """(height, width) of the window, from its gray levels in a ramp."""
    red, green = crop[..., 0].astype(float), crop[..., 1].astype(float)
    side = len(crop)
    stretch = side / (side - 1)
    return np.ptp(red[:, 0]) * stretch, np.ptp(green[0]) * stretch


@pytest.mark.ci
def test_areas_and_aspects_are_those_of_the_recipe():
    image = decode_image(encoded(ramp()))
    boxes = np.array(
        [
            box_of(inception_crop(image, 96, (0, seed), flip=False).numpy())
            for seed in range(300)
        ]
    )
    areas, aspects = boxes.prod(axis=1) / (200 * 240), boxes[:, 1] / boxes[:, 0]
    # The ends of a window are read from rounded, smoothed gray levels.
    assert areas.min() > 0.06 and areas.max() <= 1.05
    assert areas.min() < 0.15 and areas.max() > 0.85
    assert aspects.min() > 0.7 and aspects.max() < 1.45
    # TensorFlow draws the height uniformly, so that small areas are commoner.
    assert 0.5 < np.mean(areas < 0.54) < 0.85


def test_the_seed_is_all():
    image = decode_image(encoded(ramp(), "JPEG"))
    crops = [inception_crop(image, 48, (1, seed)) for seed in (5, 5, 6)]
    np.testing.assert_array_equal(crops[0], crops[1])
    assert (crops[0].numpy() != crops[2].numpy()).any()


def test_a_least_area_of_one_is_the_whole_image():
    square = decode_image(encoded(ramp(200, 200)))
    crop = inception_crop(square, 96, (0, 1), min_area=1.0, flip=False)
    whole = central_crop(square, 96, 1.0)
    np.testing.assert_array_equal(crop, whole)


def test_half_are_mirrored():
    image = tf.constant(ramp(4, 6), tf.uint8)
    mirrored = 0
    for seed in range(300):
        flipped = random_flip(image, (0, seed)).numpy()
        if (flipped == image.numpy()).all():
            continue
        np.testing.assert_array_equal(flipped, image.numpy()[:, ::-1])
        mirrored += 1
    assert 120 < mirrored < 180  # Of 300, a deviation is 9.


@pytest.mark.parametrize("fraction, margin", [(0.875, 1 / 16), (0.5, 0.25), (1.0, 0)])
def test_central_crop_takes_the_middle(fraction, margin):
    crop = central_crop(decode_image(encoded(ramp())), 96, fraction)
    crop = crop.numpy().astype(float)
    middle = crop.mean(axis=(0, 1))
    np.testing.assert_allclose(middle[:2], [99.5, 119.5], atol=1)
    # The first rows and columns, by half a window's pixel and its smoothing.
    assert crop[0, 0, 0] == pytest.approx(200 * margin, abs=2.5)
    assert crop[0, 0, 1] == pytest.approx(240 * margin, abs=2.5)


@pytest.mark.parametrize("size", [(1, 1), (3, 300), (300, 2)])
@pytest.mark.ci
def test_tiny_and_long_images(size):
    image = decode_image(encoded(np.full((*size, 3), 77)))
    for crop in (
        inception_crop(image, 32, (0, 0)),
        central_crop(image, 32),
    ):
        assert crop.shape == (32, 32, 3) and (crop.numpy() == 77).all()
