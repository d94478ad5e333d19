"""The fast training path against the plain one, on photographs and on noise."""

import functools
import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from align_keras.corpus.image_tables import store_image
from align_keras.images import (
    crop_image_bytes,
    crop_size_to_resize_size,
    decode_image,
    resize_image,
)
from tests.helpers.oracle_process import needs

CI, RELEASE = pytest.mark.ci, pytest.mark.release

needs_photographs = needs("sklearn")
SOURCES = [
    "noise",
    pytest.param("china", marks=needs_photographs),
    pytest.param("flower", marks=needs_photographs),
]


@functools.cache
def image_of(name):
    """One of scikit-learn's photographs, or noise with a photograph's spectrum."""
    if name == "noise":
        return pink_noise(427, 640)
    from sklearn.datasets import load_sample_images

    images = load_sample_images().images
    return Image.fromarray(images[["china", "flower"].index(name)])


def pink_noise(height, width):
    """Amplitudes fall as the frequency grows, as they do in photographs."""
    random = np.random.RandomState(0)
    frequencies = np.hypot(
        np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    )
    frequencies[0, 0] = 1.0
    gray, *colors = (
        np.fft.rfft2(random.standard_normal((height, width))) / frequencies
        for _ in range(4)
    )
    pixels = np.stack([np.fft.irfft2(gray + own / 2) for own in colors], -1)
    pixels = 128 + 25 * (pixels - pixels.mean()) / pixels.std()
    return Image.fromarray(np.clip(pixels, 0, 255).astype("uint8"))


def encoded(image, file_format="JPEG", **options):
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def plain(image_bytes, image_size, top, left):
    """Decodes whole, resizes antialiased and crops at whole pixels."""
    resized = resize_image(
        decode_image(image_bytes), crop_size_to_resize_size(image_size)
    )
    return resized[top : top + image_size, left : left + image_size].numpy()


def source_image(image, image_size, multiple):
    """An image of so many source pixels a pixel of the resized one."""
    side = crop_size_to_resize_size(image_size) * multiple
    return image.resize((round(side), round(side)), Image.Resampling.LANCZOS)


def mean_difference(one, other):
    return np.abs(one.astype(float) - other.astype(float)).mean()


# (input size, source pixels a pixel of the resized image, gray levels). The
# limits are a sixth above the most that was once measured, in the lower right of
# china, all roofs and leaves. The mean of a pixel's area keeps more of them than
# smoothing by a triangle. The other photograph lies at half of
# it, and noise in between. JPEGs are decoded at a smaller scale from 2 on. Whole,
# 3.5 gives 8.
SCALES = [
    (289, 1, 0.01),
    (128, 1, 0.01),
    (289, 1.5, 6.0),
    (128, 1.5, 4.4),
    (128, 2, 4.7),
    (128, 3.5, 5.4),
    (128, 4, 4.0),
    (64, 2, 5.0),
    (64, 8, 3.6),
]


def marks_of(image, number):
    if image == "noise":
        return () if number in (0, 4, 8) else RELEASE
    in_ci = (image, number) in {("china", 2), ("china", 5), ("flower", 6)}
    return (needs_photographs, CI if in_ci else RELEASE)


@pytest.mark.parametrize(
    ("image", "image_size", "multiple", "limit"),
    [
        pytest.param(image, *scale, marks=marks_of(image, number))
        for image in ("noise", "china", "flower")
        for number, scale in enumerate(SCALES)
    ],
)
@pytest.mark.parametrize("corner", [(0, 0), (1, 1)])
def test_equals_the_plain_path(image, image_size, multiple, limit, corner):
    source = source_image(image_of(image), image_size, multiple)
    content = encoded(source, quality=92)
    slack = crop_size_to_resize_size(image_size) - image_size
    expected = plain(content, image_size, *(slack * share for share in corner))
    place = tuple(0.999 * share for share in corner)
    fast = crop_image_bytes(content, image_size, place).numpy()
    difference = mean_difference(fast, expected)
    assert difference < limit
    # Nearer to it than to what lies a pixel beside.
    for axis in (0, 1):
        inner = (slice(2, -2),) * 2
        for shift in (-1, 1):
            moved = np.roll(expected, shift, axis)[inner]
            assert mean_difference(fast[inner], moved) > difference
    mirrored = crop_image_bytes(content, image_size, place, True).numpy()
    np.testing.assert_array_equal(mirrored, fast[:, ::-1])


@pytest.mark.parametrize("factor", [2.5, 3.5])
def test_source_pixels_of_a_pixel_are_all_averaged(factor):
    # Rows of black and white: their mean is gray, which four pixels can't see.
    side = round(64 * factor) * 346 // 289
    pixels = np.zeros((side, side, 3), np.uint8)
    pixels[::2] = 255
    crop = crop_image_bytes(encoded(Image.fromarray(pixels), "PNG"), 64, (0.3, 0.3))
    spread = crop.numpy().astype(float).mean(axis=(1, 2)).std()
    assert spread < 30


def detail(pixels):
    """The mean difference of pixels that lie side by side."""
    return np.abs(np.diff(pixels.astype(float), axis=1)).mean()


# The image, gray levels from Pillow's resize and crop, and the ratio of detail.
# Interpolation without antialiasing gave up to 5.2 levels and 1.57 times the detail.
@pytest.mark.parametrize(
    ("image", "limit", "most_detail"),
    [
        ("noise", 1.7, 1.2),
        pytest.param("flower", 1.0, 1.1, marks=[needs_photographs, CI]),
        # All roofs and leaves, the most detailed photograph by far.
        pytest.param("china", 2.8, 1.25, marks=[needs_photographs, CI]),
    ],
)
@pytest.mark.parametrize("size", [(720, 540), (461, 346), (600, 600)])
def test_crops_are_antialiased_like_resize_then_crop(image, limit, most_detail, size):
    source = image_of(image).resize(size, Image.Resampling.LANCZOS)
    content = encoded(source, quality=95)
    whole = Image.open(io.BytesIO(content)).resize(
        (346, 346), Image.Resampling.BILINEAR
    )
    for corner in (0, 1):
        start = 57 * corner
        box = (start, start, start + 289, start + 289)
        expected = np.asarray(whole.crop(box))
        crop = crop_image_bytes(content, 289, (0.9999 * corner,) * 2).numpy()
        assert mean_difference(crop, expected) < limit
        assert 0.97 < detail(crop) / detail(expected) < most_detail


@pytest.mark.ci
@pytest.mark.parametrize("size", [(20, 30), (60, 400), (70, 5), (1, 1)])
def test_small_and_narrow_images(size):
    image = image_of("noise").resize(size, Image.Resampling.LANCZOS)
    for content in (encoded(image, "PNG"), encoded(image, quality=95)):
        fast = crop_image_bytes(content, 64, (0.0, 0.0)).numpy()
        assert fast.shape == (64, 64, 3)
    # What grows is interpolated as in the plain path, but the window's border
    # falls between pixels, which an image of few pixels shows.
    assert mean_difference(fast, plain(content, 64, 0, 0)) < 12


def test_what_grows_is_interpolated_exactly():
    # Of 76 pixels the window has exactly 63.5, so that 2 · 346/289 · 64 fits.
    image = image_of("noise").resize((38, 38), Image.Resampling.LANCZOS)
    content = encoded(image, "PNG")
    window = np.asarray(image)[:32, :32]
    expected = resize_image(tf.constant(window), 64).numpy()
    fast = crop_image_bytes(content, 64, (0.0, 0.0)).numpy()
    # Halves are rounded up here and to even there.
    assert np.abs(fast.astype(int) - expected).max() <= 1


@pytest.mark.ci
@pytest.mark.parametrize("keep_aspect", [True, False])
@pytest.mark.parametrize("image", SOURCES)
def test_stored_by_a_corpus(image, keep_aspect):
    content = encoded(image_of(image), quality=95)
    stored = store_image(content, 346, 85, keep_aspect=keep_aspect)["jpeg"]
    fast = crop_image_bytes(stored, 289, (0.0, 0.0)).numpy()
    # Two to five gray levels in the mean, most of it of JPEG and of less smoothing.
    assert mean_difference(fast, plain(content, 289, 0, 0)) < 5


@pytest.mark.ci
@needs("sklearn")
def test_other_formats_and_gray():
    image = source_image(image_of("flower"), 64, 1.5)
    expected = crop_image_bytes(encoded(image, "PNG"), 64, (0.4, 0.7)).numpy()
    bmp = crop_image_bytes(encoded(image, "BMP"), 64, (0.4, 0.7)).numpy()
    np.testing.assert_array_equal(bmp, expected)
    jpeg = crop_image_bytes(
        encoded(image, quality=95, subsampling=0), 64, (0.4, 0.7)
    ).numpy()
    # What JPEG of this quality changes of a photograph without noise.
    assert mean_difference(jpeg, expected) < 2
    gray = crop_image_bytes(encoded(image.convert("L")), 64, (0.4, 0.7)).numpy()
    assert (gray[..., 0] == gray[..., 1]).all() and gray.std() > 10


def test_what_is_no_image_is_refused():
    with pytest.raises(tf.errors.InvalidArgumentError):
        crop_image_bytes(tf.constant(b"junk"), 64, (0.4, 0.7))


@pytest.mark.parametrize("file_format", ["PNG", "JPEG"])
@pytest.mark.ci
def test_windows_lie_anywhere(file_format):
    # Each row and column has a gray level of its own.
    ramp = np.arange(77, dtype="uint8")
    pixels = np.stack(np.broadcast_arrays(ramp[:, None], ramp, np.uint8(0)), -1)
    options = {"subsampling": 0, "quality": 100} if file_format == "JPEG" else {}
    content = encoded(Image.fromarray(pixels), file_format, **options)
    for top, left in ((0.0, 0.5), (0.99, 0.0), (0.5, 1 - 1e-7)):
        crop = crop_image_bytes(content, 64, (top, left)).numpy().astype(int)
        expected = [int(top * 14), min(int(left * 14), 13)]
        # JPEG rounds its color transform, and its inverse transform is the fast one.
        limit = 3 if file_format == "JPEG" else 0
        assert np.abs(crop[0, 0, :2] - expected).max() <= limit
        assert np.abs(crop[-1, -1, :2] - np.add(expected, 63)).max() <= limit
