"""Augmentation: exact crops, flips, colors, and repeatability."""

import numpy as np
import tensorflow as tf

from align_keras.images import augment_images


def random_images(count=16, side=40):
    return tf.constant(
        np.random.default_rng(0).integers(0, 256, (count, side, side, 3)), tf.uint8
    )


def windows(image, size):
    side = image.shape[0]
    for top in range(side - size + 1):
        for left in range(side - size + 1):
            yield image[top : top + size, left : left + size]


def test_crop_is_a_window_of_the_image_and_varies():
    images = random_images(8, 36)
    cropped = augment_images(images, 32, [0, 1]).numpy()
    places = set()
    for image, crop in zip(images.numpy(), cropped, strict=True):
        errors = [np.abs(window - crop).max() for window in windows(image, 32)]
        # crop_and_resize samples at whole pixels up to float32 rounding.
        assert min(errors) < 0.05
        places.add(int(np.argmin(errors)))
    assert len(places) > 3


def test_flip_mirrors_about_half():
    images = random_images(64, 32)
    flipped = augment_images(images, 32, [3, 1], crop=False, flip=True).numpy()
    originals = images.numpy()
    same = np.abs(flipped - originals).max(axis=(1, 2, 3)) < 0.05
    mirrored = np.abs(flipped - originals[:, :, ::-1]).max(axis=(1, 2, 3)) < 0.05
    assert (same | mirrored).all()
    assert 16 < mirrored.sum() < 48


def test_same_seed_same_result_other_seed_other():
    arguments = {"flip": True, "zoom": 0.2, "recolor": 1.0}
    first, again, other = (
        augment_images(random_images(), 32, [0, seed], **arguments).numpy()
        for seed in (5, 5, 6)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 10


def test_recolor_stays_in_range_keeps_contrast_and_turns_polarity():
    drawing = np.full((64, 40, 40, 3), 255, "uint8")
    drawing[:, 10:30, 10:30] = 0
    colored = augment_images(drawing, 40, [0, 0], crop=False, recolor=1.0).numpy()
    assert colored.min() >= 0
    assert colored.max() <= 255.001
    ink, paper = colored[:, 20, 20].mean(-1), colored[:, 2, 2].mean(-1)
    assert np.abs(ink - paper).min() > 40
    assert 10 < (ink > paper).sum() < 54


def test_zoom_outside_is_white():
    images = np.zeros((32, 36, 36, 3), "uint8")
    zoomed = augment_images(images, 32, [0, 0], zoom=0.5).numpy()
    assert {0.0, 255.0} <= set(np.unique(zoomed.round()))


def test_parts_are_varied_as_in_the_whole_batch():
    arguments = {"flip": True, "zoom": 0.2, "shift": 0.1, "recolor": 0.5}
    whole = augment_images(random_images(), 32, [0, 5], **arguments).numpy()
    for number in range(4):
        part = augment_images(
            random_images()[4 * number : 4 * number + 4],
            32,
            [0, 5],
            input_pipeline_id=number,
            num_input_pipelines=4,
            **arguments,
        )
        np.testing.assert_array_equal(part, whole[4 * number : 4 * number + 4])
