"""Crops, flips and colors of augmented images and their dependence on the seed."""

import numpy as np
import tensorflow as tf

from align_keras.images import augment_images


def random_images(count=16, side=40):
    return tf.constant(
        np.random.default_rng(0).integers(0, 256, (count, side, side, 3)), tf.uint8
    )


def windows(image, size):
    side = image.shape[0]
    for y in range(side - size + 1):
        for x in range(side - size + 1):
            yield image[y : y + size, x : x + size]


def test_crops_are_windows_at_random_positions():
    images = random_images(8, 36)
    cropped = augment_images(images, 32, [0, 1]).numpy()
    positions = set()
    for image, crop in zip(images.numpy(), cropped, strict=True):
        errors = [np.abs(window - crop).max() for window in windows(image, 32)]
        # crop_and_resize samples whole pixels, except for the float32 rounding.
        assert min(errors) < 0.05
        positions.add(int(np.argmin(errors)))
    assert len(positions) > 3


def test_flip_mirrors_about_half_of_the_images():
    images = random_images(64, 32)
    flipped = augment_images(images, 32, [3, 1], crop=False, flip=True).numpy()
    originals = images.numpy()
    is_unchanged = np.abs(flipped - originals).max(axis=(1, 2, 3)) < 0.05
    is_mirrored = np.abs(flipped - originals[:, :, ::-1]).max(axis=(1, 2, 3)) < 0.05
    assert (is_unchanged | is_mirrored).all()
    assert 16 < is_mirrored.sum() < 48


def test_the_result_depends_on_the_seed():
    arguments = {"flip": True, "zoom": 0.2, "recolor": 1.0}
    first, same_seed, other_seed = (
        augment_images(random_images(), 32, [0, seed], **arguments).numpy()
        for seed in (5, 5, 6)
    )
    np.testing.assert_array_equal(first, same_seed)
    assert np.abs(first - other_seed).max() > 10


def test_recolored_images_have_contrast_and_both_polarities():
    drawing = np.full((64, 40, 40, 3), 255, "uint8")
    drawing[:, 10:30, 10:30] = 0
    colored = augment_images(drawing, 40, [0, 0], crop=False, recolor=1.0).numpy()
    assert colored.min() >= 0
    assert colored.max() <= 255.001
    ink, paper = colored[:, 20, 20].mean(-1), colored[:, 2, 2].mean(-1)
    assert np.abs(ink - paper).min() > 40
    assert 10 < (ink > paper).sum() < 54


def test_pixels_outside_of_the_image_are_white():
    images = np.zeros((32, 36, 36, 3), "uint8")
    zoomed = augment_images(images, 32, [0, 0], zoom=0.5).numpy()
    assert {0.0, 255.0} <= set(np.unique(zoomed.round()))


def test_parts_of_a_batch_are_augmented_as_in_the_whole_batch():
    arguments = {"flip": True, "zoom": 0.2, "shift": 0.1, "recolor": 0.5}
    batch = augment_images(random_images(), 32, [0, 5], **arguments).numpy()
    for number in range(4):
        part = augment_images(
            random_images()[4 * number : 4 * number + 4],
            32,
            [0, 5],
            input_pipeline_id=number,
            num_input_pipelines=4,
            **arguments,
        )
        np.testing.assert_array_equal(part, batch[4 * number : 4 * number + 4])
