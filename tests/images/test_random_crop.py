"""Training crops in comparison with decoding, resizing and cropping whole images."""

import functools
import io
import pathlib

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
from align_keras.images.crops import _box
from align_keras.models import ALIGNImageConverter
from align_keras.utils.pillow_images import decode_rgb
from tests.helpers.oracle_process import needs

STAMPS = pathlib.Path("/usr/share/tuxpaint/stamps")
CI, RELEASE = pytest.mark.ci, pytest.mark.release

needs_photographs = needs("sklearn")


@functools.cache
def image_of(name):
    """Returns a photograph of scikit-learn, or noise with the spectrum of one."""
    if name == "noise":
        return pink_noise(427, 640)
    from sklearn.datasets import load_sample_images

    images = load_sample_images().images
    return Image.fromarray(images[["china", "flower"].index(name)])


def pink_noise(height, width):
    """Returns noise whose amplitudes decrease with the frequency."""
    random = np.random.RandomState(0)
    frequencies = np.hypot(
        np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    )
    frequencies[0, 0] = 1.0
    gray, *colors = (
        np.fft.rfft2(random.standard_normal((height, width))) / frequencies
        for _ in range(4)
    )
    pixels = np.stack([np.fft.irfft2(gray + color / 2) for color in colors], -1)
    pixels = 128 + 25 * (pixels - pixels.mean()) / pixels.std()
    return Image.fromarray(np.clip(pixels, 0, 255).astype("uint8"))


def encoded(image, file_format="JPEG", **options):
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def resize_and_crop(image_bytes, image_size, y, x):
    """Decodes a whole image, resizes it with antialiasing and crops whole pixels."""
    resized = resize_image(
        decode_image(image_bytes), crop_size_to_resize_size(image_size)
    )
    return resized[y : y + image_size, x : x + image_size].numpy()


def source_image(image, image_size, multiple):
    """Resizes an image to `multiple` source pixels per pixel of the resized image."""
    side = crop_size_to_resize_size(image_size) * multiple
    return image.resize((round(side), round(side)), Image.Resampling.LANCZOS)


def mean_difference(first, second):
    return np.abs(first.astype(float) - second.astype(float)).mean()


# Input size, source pixels per pixel of the resized image, and maximum mean difference
# in gray levels. Crops average the area of a pixel, which preserves more details than
# the triangle filter of `resize_image`. The limits are a sixth above the largest
# measured differences, which are those of the roofs and leaves in the lower right of
# the photograph "china". The differences of the other photograph are half as large, and
# those of noise are in between. If the second value is 2 or more, JPEGs are decoded at
# a smaller scale. At the full scale, the difference at 3.5 would be 8.
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
        return () if number in (0, 8) else RELEASE
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
def test_crops_are_close_to_resize_and_crop(image, image_size, multiple, limit):
    source = source_image(image_of(image), image_size, multiple)
    content = encoded(source, quality=92)
    slack = crop_size_to_resize_size(image_size) - image_size
    expected = resize_and_crop(content, image_size, slack, slack)
    position = (0.999, 0.999)
    crop = crop_image_bytes(content, image_size, position).numpy()
    difference = mean_difference(crop, expected)
    assert difference < limit
    # The difference increases if the expected crop is shifted by one pixel.
    for axis in (0, 1):
        inner = (slice(2, -2),) * 2
        for shift in (-1, 1):
            shifted = np.roll(expected, shift, axis)[inner]
            assert mean_difference(crop[inner], shifted) > difference
    mirrored = crop_image_bytes(content, image_size, position, True).numpy()
    np.testing.assert_array_equal(mirrored, crop[:, ::-1])


def test_all_source_pixels_of_a_pixel_are_averaged():
    # The mean of black and white rows is gray. Interpolation of four pixels would give
    # stripes.
    side = round(64 * 3.5) * 346 // 289
    pixels = np.zeros((side, side, 3), np.uint8)
    pixels[::2] = 255
    crop = crop_image_bytes(encoded(Image.fromarray(pixels), "PNG"), 64, (0.3, 0.3))
    spread = crop.numpy().astype(float).mean(axis=(1, 2)).std()
    assert spread < 30


def detail(pixels):
    """Returns the mean difference of adjacent pixels."""
    return np.abs(np.diff(pixels.astype(float), axis=1)).mean()


# Image, maximum mean difference in gray levels from the crop of Pillow, and maximum
# ratio of the details. Interpolation without antialiasing had a difference of up to 5.2
# and 1.57 times the details.
@pytest.mark.parametrize(
    ("image", "limit", "max_detail_ratio"),
    [
        ("noise", 1.7, 1.2),
        pytest.param("flower", 1.0, 1.1, marks=[needs_photographs, CI]),
        # The roofs and leaves of this photograph have many details.
        pytest.param("china", 2.8, 1.25, marks=[needs_photographs, CI]),
    ],
)
def test_crops_have_as_many_details_as_those_of_pillow(image, limit, max_detail_ratio):
    source = image_of(image).resize((720, 540), Image.Resampling.LANCZOS)
    content = encoded(source, quality=95)
    resized = Image.open(io.BytesIO(content)).resize(
        (346, 346), Image.Resampling.BILINEAR
    )
    for corner in (0, 1):
        start = 57 * corner
        box = (start, start, start + 289, start + 289)
        expected = np.asarray(resized.crop(box))
        crop = crop_image_bytes(content, 289, (0.9999 * corner,) * 2).numpy()
        assert mean_difference(crop, expected) < limit
        assert 0.97 < detail(crop) / detail(expected) < max_detail_ratio


def test_the_crop_of_the_paper_is_that_of_pillow():
    image = image_of("noise")
    resized = image.resize((77, 77), Image.Resampling.BILINEAR)
    content = encoded(image, "PNG")
    for crop in ("paper", "random"):
        converter = ALIGNImageConverter(64, crop=crop)
        # There are 14 positions on each axis.
        numbers = tf.constant([3.5 / 14, 9.5 / 14, 0.1])
        expected = np.asarray(resized.crop((9, 3, 73, 67)))[:, ::-1]
        for source in (tf.constant(content), tf.constant(np.asarray(image))):
            difference = mean_difference(
                converter.crop_window(source, numbers).numpy(), expected
            )
            assert (difference < 0.25) == (crop == "paper")


def filter_differences(images, image_size):
    """Returns mean differences of crops from Pillow's filter on the same windows."""
    differences = []
    for image in images:
        content = encoded(image, quality=95)
        decoded = Image.open(io.BytesIO(content))
        shape = tf.constant([image.height, image.width])
        y, x, height, width = _box(shape, image_size, tf.constant([0.5, 0.5])).numpy()
        expected = decoded.resize(
            (image_size, image_size),
            Image.Resampling.BILINEAR,
            box=(x, y, x + width, y + height),
        )
        crop = crop_image_bytes(content, image_size, (0.5, 0.5)).numpy()
        differences.append(mean_difference(crop, np.asarray(expected)))
    return differences


@pytest.mark.release
@pytest.mark.skipif(not STAMPS.is_dir(), reason="needs tuxpaint-stamps-default")
@needs_photographs
@pytest.mark.parametrize(
    ("image_size", "stamps", "photographs"),
    [(289, (0.16, 0.41, 1.7), (1.5, 0.5)), (144, (0.28, 1.8, 7.6), (6.8, 3.5))],
)
def test_the_docstring_states_the_differences_of_the_filter(
    image_size, stamps, photographs
):
    paths = sorted(STAMPS.rglob("*.png"))[::10]
    images = [decode_rgb(path)[0] for path in paths]
    quantiles = np.quantile(filter_differences(images, image_size), [0.5, 0.9, 1])
    np.testing.assert_allclose(quantiles, stamps, rtol=0.1)
    images = [image_of("china"), image_of("flower")]
    differences = filter_differences(images, image_size)
    np.testing.assert_allclose(differences, photographs, rtol=0.1)


@pytest.mark.ci
@pytest.mark.parametrize("size", [(60, 400), (1, 1)])
def test_small_and_narrow_images_are_cropped(size):
    image = image_of("noise").resize(size, Image.Resampling.LANCZOS)
    for content in (encoded(image, "PNG"), encoded(image, quality=95)):
        crop = crop_image_bytes(content, 64, (0.0, 0.0)).numpy()
        assert crop.shape == (64, 64, 3)
    # Enlarged axes are interpolated in the same way. The window has whole source
    # pixels, though, which makes a difference for images with few pixels.
    assert mean_difference(crop, resize_and_crop(content, 64, 0, 0)) < 12


def test_an_enlarged_window_is_interpolated_exactly():
    # In an image of 38 pixels, the window has 31.6 pixels, which are rounded to 32.
    image = image_of("noise").resize((38, 38), Image.Resampling.LANCZOS)
    content = encoded(image, "PNG")
    window = np.asarray(image)[:32, :32]
    expected = resize_image(tf.constant(window), 64).numpy()
    crop = crop_image_bytes(content, 64, (0.0, 0.0)).numpy()
    # `crop_image_bytes` rounds halves up, and `resize_image` rounds them to even.
    assert np.abs(crop.astype(int) - expected).max() <= 1


@pytest.mark.ci
@pytest.mark.parametrize("keep_aspect", [True, False])
def test_crops_of_images_in_a_corpus_are_close_to_those_of_the_originals(keep_aspect):
    content = encoded(image_of("noise"), quality=95)
    stored = store_image(content, 346, 85, keep_aspect=keep_aspect)["jpeg"]
    crop = crop_image_bytes(stored, 289, (0.0, 0.0)).numpy()
    # The difference is two to five gray levels, mainly from JPEG and less smoothing.
    assert mean_difference(crop, resize_and_crop(content, 289, 0, 0)) < 5


@pytest.mark.ci
@needs("sklearn")
def test_all_formats_and_gray_images_are_cropped():
    image = source_image(image_of("flower"), 64, 1.5)
    expected = crop_image_bytes(encoded(image, "PNG"), 64, (0.4, 0.7)).numpy()
    jpeg = crop_image_bytes(
        encoded(image, quality=95, subsampling=0), 64, (0.4, 0.7)
    ).numpy()
    # A JPEG of this quality changes a photograph by less than 2 gray levels.
    assert mean_difference(jpeg, expected) < 2
    gray = crop_image_bytes(encoded(image.convert("L")), 64, (0.4, 0.7)).numpy()
    assert (gray[..., 0] == gray[..., 1]).all() and gray.std() > 10


def test_a_file_without_an_image_is_refused():
    with pytest.raises(tf.errors.InvalidArgumentError):
        crop_image_bytes(tf.constant(b"junk"), 64, (0.4, 0.7))


@pytest.mark.parametrize("file_format", ["PNG", "JPEG"])
@pytest.mark.ci
def test_windows_can_be_at_any_position(file_format):
    # Each row has a different red level, and each column a different green level.
    ramp = np.arange(77, dtype="uint8")
    pixels = np.stack(np.broadcast_arrays(ramp[:, None], ramp, np.uint8(0)), -1)
    options = {"subsampling": 0, "quality": 100} if file_format == "JPEG" else {}
    content = encoded(Image.fromarray(pixels), file_format, **options)
    for y, x in ((0.0, 0.5), (0.99, 0.0), (0.5, 1 - 1e-7)):
        crop = crop_image_bytes(content, 64, (y, x)).numpy().astype(int)
        expected = [int(y * 14), min(int(x * 14), 13)]
        # JPEG rounds its color transform and its inverse transform.
        limit = 3 if file_format == "JPEG" else 0
        assert np.abs(crop[0, 0, :2] - expected).max() <= limit
        assert np.abs(crop[-1, -1, :2] - np.add(expected, 63)).max() <= limit
