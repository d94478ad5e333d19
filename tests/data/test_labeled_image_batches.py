"""Tests of the batches for the training and the evaluation of classifiers."""

import io
import itertools
import os

import numpy as np
import pytest
from PIL import Image

from align_keras.data import evaluation_batches, labeled_batches, unreadable_rows
from align_keras.models import ALIGNImageConverter
from align_keras.utils.errors import InputError

INCEPTION = ALIGNImageConverter(32, crop="inception")
CENTRAL = ALIGNImageConverter(32, central_crop=0.875)


def encode_gray(gray, size=(40, 30), file_format="PNG"):
    file = io.BytesIO()
    Image.new("RGB", size, (gray,) * 3).save(file, file_format)
    return file.getvalue()


GRAYS = [10, 60, 110, 160, 210]
IMAGES = [encode_gray(gray) for gray in GRAYS]
LABELS = np.arange(5)


def paths_of(images, folder):
    paths = [folder / f"{number}.png" for number in range(len(images))]
    for path, content in zip(paths, images, strict=True):
        path.write_bytes(content)
    return [str(path) for path in paths]


def first_batches(batches, count):
    return [
        (images, labels)
        for images, labels in itertools.islice(batches.as_numpy_iterator(), count)
    ]


class Stream:
    """Collection that has a length and can be iterated, but not indexed."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __iter__(self):
        return iter(self.images)


@pytest.mark.parametrize(
    "kind, crop",
    [
        ("paths", "inception"),
        pytest.param("stream", "whole", marks=pytest.mark.ci),
        pytest.param("bytes", "inception", marks=pytest.mark.release),
        pytest.param("arrays", "whole", marks=pytest.mark.release),
    ],
)
def test_images_of_all_kinds_keep_their_class(tmp_path, kind, crop):
    images = {
        "paths": lambda: paths_of(IMAGES, tmp_path),
        "bytes": lambda: IMAGES,
        "arrays": lambda: [np.full((9, 7, 3), gray, "uint8") for gray in GRAYS],
        "stream": lambda: Stream(IMAGES),
    }[kind]()
    converter = ALIGNImageConverter(32, crop=crop)
    batches = labeled_batches(images, LABELS, converter, batch_size=4)
    all_labels = []
    for pixels, labels in first_batches(batches, 5):
        assert pixels.shape == (4, 32, 32, 3) and pixels.dtype == np.uint8
        np.testing.assert_array_equal(
            pixels.mean(axis=(1, 2, 3)), np.array(GRAYS)[labels]
        )
        all_labels += labels.tolist()
    # 20 images are four epochs, and each epoch has each image once.
    epochs = [all_labels[start : start + 5] for start in range(0, 20, 5)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(5))
    assert epochs[0] != epochs[1] or epochs[1] != epochs[2]


@pytest.mark.release
def test_the_seed_determines_the_batches():
    noise = np.random.default_rng(0).integers(0, 256, (5, 40, 40, 3), "uint8")
    arguments = {"image_converter": INCEPTION, "batch_size": 5}

    def batches_of_seed(seed):
        batches = labeled_batches(list(noise), LABELS, seed=seed, **arguments)
        return first_batches(batches, 2)

    expected, same_seed, other_seed = (batches_of_seed(seed) for seed in (0, 0, 1))
    for (pixels, labels), (same_pixels, same_labels) in zip(
        expected, same_seed, strict=True
    ):
        np.testing.assert_array_equal(pixels, same_pixels)
        np.testing.assert_array_equal(labels, same_labels)
    assert (expected[0][0] != other_seed[0][0]).any()
    # The second epoch has other windows of the same images.
    by_label = [pixels[np.argsort(labels)] for pixels, labels in expected]
    assert (by_label[0] != by_label[1]).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("bytes", marks=pytest.mark.release),
        pytest.param("paths", marks=pytest.mark.ci),
    ],
)
def test_images_that_cannot_be_decoded_are_skipped(kind, tmp_path):
    images = [*IMAGES[:2], b"junk", *IMAGES[3:]]
    if kind == "paths":
        images = paths_of(images, tmp_path)
    batches = labeled_batches(images, LABELS, INCEPTION, batch_size=8)
    labels = np.concatenate([labels for _, labels in first_batches(batches, 2)])
    assert sorted(labels) == sorted([0, 1, 3, 4] * 4)
    evaluation = evaluation_batches(images, CENTRAL, batch_size=3)
    rows = np.concatenate([rows for rows, _ in evaluation.as_numpy_iterator()])
    np.testing.assert_array_equal(rows, [0, 1, 3, 4])
    assert unreadable_rows(images) == [2]


def test_a_missing_file_is_unreadable(tmp_path):
    images = paths_of(IMAGES, tmp_path)
    os.unlink(images[4])
    assert unreadable_rows(images) == [4]


def test_images_without_a_readable_one_are_refused():
    with pytest.raises(InputError, match="no image"):
        labeled_batches([b"junk"] * 3, [0, 1, 1], INCEPTION, batch_size=2)


@pytest.mark.ci
def test_batches_do_not_depend_on_the_start_step():
    noise = np.random.default_rng(0).integers(0, 256, (5, 40, 40, 3), "uint8")
    arguments = {"image_converter": INCEPTION, "batch_size": 3, "seed": 2}
    uninterrupted = first_batches(labeled_batches(list(noise), LABELS, **arguments), 6)
    resumed = labeled_batches(list(noise), LABELS, start_step=4, **arguments)
    for (pixels, labels), (resumed_pixels, resumed_labels) in zip(
        uninterrupted[4:], first_batches(resumed, 2), strict=True
    ):
        np.testing.assert_array_equal(pixels, resumed_pixels)
        np.testing.assert_array_equal(labels, resumed_labels)


def test_evaluation_batches_contain_all_images_in_order():
    dataset = evaluation_batches(Stream(IMAGES), CENTRAL, batch_size=2)
    batches = list(dataset.as_numpy_iterator())
    assert [rows.tolist() for rows, _ in batches] == [[0, 1], [2, 3], [4]]
    grays = np.concatenate([pixels.mean(axis=(1, 2, 3)) for _, pixels in batches])
    np.testing.assert_array_equal(grays, GRAYS)


@pytest.mark.ci
def test_evaluation_crops_the_center():
    pixels = np.zeros((80, 80, 3), "uint8")
    pixels[10:70, 10:70] = 200
    (full,) = evaluation_batches(
        [pixels], ALIGNImageConverter(40, central_crop=1.0), batch_size=1
    ).as_numpy_iterator()
    (center,) = evaluation_batches(
        [pixels], ALIGNImageConverter(40, central_crop=0.75), batch_size=1
    ).as_numpy_iterator()
    assert full[1].mean() == pytest.approx(200 * (60 / 80) ** 2, abs=2)
    assert (center[1] == 200).all()


def test_float_arrays_are_refused():
    images = [np.full((40, 50, 3), 0.5, "float32")] * 2
    with pytest.raises(InputError, match="uint8"):
        labeled_batches(images, [0, 1], INCEPTION, batch_size=2)
