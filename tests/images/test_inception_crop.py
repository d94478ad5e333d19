"""Random and central crops for classifiers."""

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
    """Returns pixels whose red level is the row and whose green level is the column."""
    rows, columns = np.indices((height, width))
    return np.stack([rows, columns, np.zeros_like(rows)], axis=-1)


def box_of(crop):
    """Returns the height and width of the window of a crop of `ramp`."""
    red, green = crop[..., 0].astype(float), crop[..., 1].astype(float)
    side = len(crop)
    stretch = side / (side - 1)
    return np.ptp(red[:, 0]) * stretch, np.ptp(green[0]) * stretch


@pytest.mark.ci
def test_areas_and_aspect_ratios_are_those_of_the_recipe():
    image = decode_image(encoded(ramp()))
    boxes = np.array(
        [
            box_of(inception_crop(image, 96, (0, seed), flip=False).numpy())
            for seed in range(150)
        ]
    )
    areas, aspects = boxes.prod(axis=1) / (200 * 240), boxes[:, 1] / boxes[:, 0]
    # The bounds have a tolerance, because the ends of a window are computed from
    # rounded, smoothed gray levels.
    assert areas.min() > 0.06 and areas.max() <= 1.05
    assert areas.min() < 0.15 and areas.max() > 0.85
    assert aspects.min() > 0.7 and aspects.max() < 1.45
    # TensorFlow draws the height uniformly, so that small areas are more frequent.
    assert 0.5 < np.mean(areas < 0.54) < 0.85


def test_the_crop_depends_on_the_seed():
    image = decode_image(encoded(ramp()))
    crops = [inception_crop(image, 96, (1, seed)) for seed in (5, 5, 6)]
    np.testing.assert_array_equal(crops[0], crops[1])
    assert (crops[0].numpy() != crops[2].numpy()).any()


def test_a_minimum_area_of_one_is_the_whole_image():
    square = decode_image(encoded(ramp(200, 200)))
    crop = inception_crop(square, 96, (0, 1), min_area=1.0, flip=False)
    whole = central_crop(square, 96, 1.0)
    np.testing.assert_array_equal(crop, whole)


def test_half_of_the_images_are_mirrored():
    image = tf.constant(ramp(4, 6), tf.uint8)
    mirrored = 0
    for seed in range(300):
        flipped = random_flip(image, (0, seed)).numpy()
        if (flipped == image.numpy()).all():
            continue
        np.testing.assert_array_equal(flipped, image.numpy()[:, ::-1])
        mirrored += 1
    assert 120 < mirrored < 180  # The standard deviation for 300 images is 9.


@pytest.mark.parametrize("fraction, margin", [(0.875, 1 / 16), (1.0, 0)])
def test_central_crop_contains_the_center(fraction, margin):
    crop = central_crop(decode_image(encoded(ramp())), 96, fraction)
    crop = crop.numpy().astype(float)
    center = crop.mean(axis=(0, 1))
    np.testing.assert_allclose(center[:2], [99.5, 119.5], atol=1)
    # The first row and column differ by half a pixel of the crop and its smoothing.
    assert crop[0, 0, 0] == pytest.approx(200 * margin, abs=2.5)
    assert crop[0, 0, 1] == pytest.approx(240 * margin, abs=2.5)


@pytest.mark.parametrize("size", [(1, 1), (3, 300)])
@pytest.mark.ci
def test_tiny_and_long_images_are_cropped(size):
    image = decode_image(encoded(np.full((*size, 3), 77)))
    for crop in (
        inception_crop(image, 32, (0, 0)),
        central_crop(image, 32),
    ):
        assert crop.shape == (32, 32, 3) and (crop.numpy() == 77).all()
