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
CI, RELEASE = pytest.mark.ci, pytest.mark.release


def picture(gray, size=(40, 30), file_format="PNG"):
    file = io.BytesIO()
    Image.new("RGB", size, (gray,) * 3).save(file, file_format)
    return file.getvalue()


GRAYS = [10, 60, 110, 160, 210]
IMAGES = [picture(gray) for gray in GRAYS]
LABELS = np.arange(5)


def paths_of(images, folder):
    paths = [folder / f"{number}.png" for number in range(len(images))]
    for path, content in zip(paths, images, strict=True):
        path.write_bytes(content)
    return [str(path) for path in paths]


def first(batches, count):
    return [
        (images, labels)
        for images, labels in itertools.islice(batches.as_numpy_iterator(), count)
    ]


class Stream:
    """Re-iterable and with a length, and no more."""

    def __init__(self, images):
        self.images, self.times = images, 0

    def __len__(self):
        return len(self.images)

    def __iter__(self):
        self.times += 1
        return iter(self.images)


@pytest.mark.parametrize(
    "kind, crop",
    [
        pytest.param(
            kind,
            crop,
            marks=[(), RELEASE, RELEASE, CI, RELEASE, RELEASE, CI, RELEASE][number],
        )
        for number, (kind, crop) in enumerate(
            itertools.product(
                ("paths", "bytes", "arrays", "stream"), ("inception", "whole")
            )
        )
    ],
)
def test_pictures_keep_their_class(tmp_path, kind, crop):
    images = {
        "paths": lambda: paths_of(IMAGES, tmp_path),
        "bytes": lambda: IMAGES,
        "arrays": lambda: [np.full((9, 7, 3), gray, "uint8") for gray in GRAYS],
        "stream": lambda: Stream(IMAGES),
    }[kind]()
    converter = ALIGNImageConverter(32, crop=crop)
    batches = labeled_batches(images, LABELS, converter, batch_size=4)
    seen = []
    for pixels, labels in first(batches, 5):
        assert pixels.shape == (4, 32, 32, 3) and pixels.dtype == np.uint8
        np.testing.assert_array_equal(
            pixels.mean(axis=(1, 2, 3)), np.array(GRAYS)[labels]
        )
        seen += labels.tolist()
    # 20 pictures are four epochs; each epoch has each picture once.
    for epoch in range(4):
        assert sorted(seen[5 * epoch : 5 * epoch + 5]) == list(range(5))
    assert seen[:5] != seen[5:10] or seen[5:10] != seen[10:15]


@pytest.mark.release
def test_batches_repeat_with_the_seed_and_vary_with_it():
    noise = np.random.default_rng(0).integers(0, 256, (5, 40, 40, 3), "uint8")
    arguments = {"image_converter": INCEPTION, "batch_size": 5}

    def drawn(seed):
        batches = labeled_batches(list(noise), LABELS, seed=seed, **arguments)
        return first(batches, 2)

    one, same, other = drawn(0), drawn(0), drawn(1)
    for (pixels, labels), (again, own) in zip(one, same, strict=True):
        np.testing.assert_array_equal(pixels, again)
        np.testing.assert_array_equal(labels, own)
    assert (one[0][0] != other[0][0]).any()
    # Another epoch, other windows of the same pictures.
    by_label = [pixels[np.argsort(labels)] for pixels, labels in one]
    assert (by_label[0] != by_label[1]).any(axis=(1, 2, 3)).all()


@pytest.mark.ci
def test_a_batch_may_be_larger_than_the_set():
    batches = labeled_batches(IMAGES, LABELS, INCEPTION, batch_size=12)
    ((_, labels),) = first(batches, 1)
    assert np.bincount(labels).tolist().count(2) == 3


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("bytes", marks=pytest.mark.release),
        pytest.param("paths", marks=pytest.mark.ci),
    ],
)
def test_what_cannot_be_decoded_is_left_out(kind, tmp_path):
    images = [*IMAGES[:2], b"junk", *IMAGES[3:]]
    if kind == "paths":
        images = paths_of(images, tmp_path)
    batches = labeled_batches(images, LABELS, INCEPTION, batch_size=8)
    labels = np.concatenate([labels for _, labels in first(batches, 2)])
    assert sorted(labels) == sorted([0, 1, 3, 4] * 4)
    found = evaluation_batches(images, CENTRAL, batch_size=3)
    rows = np.concatenate([rows for rows, _ in found.as_numpy_iterator()])
    np.testing.assert_array_equal(rows, [0, 1, 3, 4])
    assert unreadable_rows(images) == [2]


def test_a_file_that_is_gone_cannot_be_read(tmp_path):
    images = paths_of(IMAGES, tmp_path)
    os.unlink(images[4])
    assert unreadable_rows(images) == [4]


def test_a_file_that_would_fill_the_memory_is_refused(tmp_path):
    images = paths_of(IMAGES, tmp_path)
    os.truncate(images[1], 600_000_000)  # A hole: it takes no disk.
    with pytest.raises(
        InputError, match="of at most 512,000,000 bytes. Received:.*600"
    ):
        labeled_batches(images, LABELS, INCEPTION, batch_size=2)


def test_nothing_to_learn_from():
    with pytest.raises(InputError, match="to learn from. Received: no image that"):
        labeled_batches([b"junk"] * 3, [0, 1, 1], INCEPTION, batch_size=2)


@pytest.mark.ci
def test_batch_k_is_that_of_a_start_at_zero():
    noise = np.random.default_rng(0).integers(0, 256, (5, 40, 40, 3), "uint8")
    arguments = {"image_converter": INCEPTION, "batch_size": 3, "seed": 2}
    whole = first(labeled_batches(list(noise), LABELS, **arguments), 6)
    for start in (1, 4):
        late = labeled_batches(list(noise), LABELS, start_step=start, **arguments)
        for (pixels, labels), (ours, own) in zip(
            whole[start:], first(late, 6 - start), strict=True
        ):
            np.testing.assert_array_equal(pixels, ours)
            np.testing.assert_array_equal(labels, own)


def test_evaluation_takes_all_in_order():
    found = evaluation_batches(Stream(IMAGES), CENTRAL, batch_size=2)
    batches = list(found.as_numpy_iterator())
    assert [rows.tolist() for rows, _ in batches] == [[0, 1], [2, 3], [4]]
    grays = np.concatenate([pixels.mean(axis=(1, 2, 3)) for _, pixels in batches])
    np.testing.assert_array_equal(grays, GRAYS)


@pytest.mark.ci
def test_evaluation_crops_the_middle():
    pixels = np.zeros((80, 80, 3), "uint8")
    pixels[10:70, 10:70] = 200
    (whole,) = evaluation_batches(
        [pixels], ALIGNImageConverter(40, central_crop=1.0), batch_size=1
    ).as_numpy_iterator()
    (middle,) = evaluation_batches(
        [pixels], ALIGNImageConverter(40, central_crop=0.75), batch_size=1
    ).as_numpy_iterator()
    assert whole[1].mean() == pytest.approx(200 * (60 / 80) ** 2, abs=2)
    assert (middle[1] == 200).all()


def test_numbers_must_fit():
    for images, labels in ((IMAGES, [0, 1]), ([], [])):
        with pytest.raises(InputError, match="of one number and not empty"):
            labeled_batches(images, labels, INCEPTION, batch_size=2)


def test_float_arrays_are_refused():
    images = [np.full((40, 50, 3), 0.5, "float32")] * 2
    with pytest.raises(InputError, match="pixels must be uint8.*Received: float32"):
        labeled_batches(images, [0, 1], INCEPTION, batch_size=2)
