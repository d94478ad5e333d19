"""Tests of perceptual hashes on drawings and their edited copies."""

import importlib.util
import io
import pathlib

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageOps

from align_keras.corpus.duplicates import hashes as module
from align_keras.corpus.duplicates.hashes import (
    BIT_THRESHOLD,
    HASH_BYTES,
    hash_array,
    mirrored_hashes,
    perceptual_hash,
)

pytestmark = pytest.mark.ci

STAMPS = pathlib.Path("/usr/share/tuxpaint/stamps")


def hamming_distance(first, second):
    return module.bit_count(first ^ second).sum(-1, dtype=np.int64)


def drawing(seed, size=(320, 240)):
    """Returns an asymmetric image of forty random shapes on a light background."""
    random = np.random.default_rng(seed)
    image = Image.new("RGB", size, tuple(random.integers(120, 256, 3).tolist()))
    draw = ImageDraw.Draw(image)
    for _ in range(40):
        center = random.uniform(0, 1, 2) * size
        reach = random.uniform(0.03, 0.2, 2) * size
        box = [*(center - reach), *(center + reach)]
        color = tuple(random.integers(0, 256, 3).tolist())
        if random.random() < 0.5:
            draw.ellipse(box, fill=color)
        else:
            draw.rectangle(box, fill=color)
    return image


def encoded(image, image_format, **options):
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return Image.open(file).convert("RGB")


def watermarked(image):
    image = image.copy()
    ImageDraw.Draw(image).text((5, 5), "(c) example.org", fill=(128, 128, 128))
    return image


COPIES = {
    "half": lambda image: image.resize((image.width // 2, image.height // 2)),
    "double": lambda image: image.resize((image.width * 2, image.height * 2)),
    "JPEG 75": lambda image: encoded(image, "JPEG", quality=75),
    "JPEG 30": lambda image: encoded(image, "JPEG", quality=30),
    "WebP": lambda image: encoded(image, "WEBP", quality=60),
    "flipped": ImageOps.mirror,
    "watermark": watermarked,
    "gray": lambda image: image.convert("L").convert("RGB"),
    "squeezed": lambda image: image.resize((image.width, image.height * 3 // 4)),
}


def distance(first, second):
    """Returns the smallest distance of one whole image to a view of the other one.

    The whole image is compared as it is and mirrored.
    """
    first, second = hash_array([perceptual_hash(first), perceptual_hash(second)])
    pairs = [(first[0], view) for view in second] + [(second[0], v) for v in first]
    return min(
        int(hamming_distance(variant, view))
        for whole, view in pairs
        for variant in (whole, mirrored_hashes(whole))
        if whole.any() and view.any()
    )


@pytest.mark.parametrize("kind", COPIES)
def test_copies_are_close(kind):
    for seed in range(3):
        image = drawing(seed)
        assert distance(image, COPIES[kind](image)) <= BIT_THRESHOLD


def test_a_symmetric_drawing_is_close_to_its_copies():
    half = drawing(3, (160, 240))
    image = Image.new("RGB", (320, 240))
    image.paste(half, (0, 0))
    image.paste(ImageOps.mirror(half), (160, 0))
    for copy in COPIES.values():
        assert distance(image, copy(image)) <= BIT_THRESHOLD


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_crop_of_a_corner_is_close_to_a_view(side):
    for seed in range(3):
        image = drawing(seed, (320, 320))
        offset = 0 if side == "left" else 20
        # 20 of 320 pixels are 4 of the 64 pixels of the thumbnail.
        crop = image.crop((offset, 0, offset + 300, 300))
        assert distance(image, crop) <= BIT_THRESHOLD
        assert distance(crop, image) <= BIT_THRESHOLD
    whole = perceptual_hash(image)[:HASH_BYTES], perceptual_hash(crop)[:HASH_BYTES]
    assert hamming_distance(*hash_array(whole)[:, 0]) > BIT_THRESHOLD


def test_different_images_are_far():
    images = [drawing(seed) for seed in range(12)]
    hashes = hash_array([perceptual_hash(image)[:HASH_BYTES] for image in images])
    pairs = hashes[:, None, 0], hashes[None, :, 0]
    distances = hamming_distance(*pairs)[np.triu_indices(12, 1)]
    assert distances.min() > 2 * BIT_THRESHOLD


@pytest.mark.skipif(not STAMPS.exists(), reason="needs tuxpaint-stamps-default")
def test_copies_of_real_stamps_are_close():
    paths = sorted(STAMPS.glob("animals/birds/**/*.png"))[:40:20]
    white = Image.new("RGBA", (400, 400), "white")
    images = []
    for path in paths:
        stamp = Image.open(path).convert("RGBA").resize((400, 400))
        images.append(Image.alpha_composite(white, stamp).convert("RGB"))
    for image in images:
        for copy in COPIES.values():
            assert distance(image, copy(image)) <= BIT_THRESHOLD
    assert distance(*images) > 2 * BIT_THRESHOLD


def disc():
    image = Image.new("RGB", (200, 200), "white")
    ImageDraw.Draw(image).ellipse((40, 40, 160, 160), fill="navy")
    return image


@pytest.mark.parametrize(
    "image",
    [
        Image.new("RGB", (300, 200), "white"),
        Image.new("RGB", (1, 1), "red"),
        Image.linear_gradient("L").convert("RGB"),
        encoded(Image.new("RGB", (300, 200), (90, 200, 30)), "JPEG", quality=30),
        disc(),
    ],
)
def test_plain_images_have_no_hash(image):
    assert perceptual_hash(image) == bytes(96)
    assert perceptual_hash(image)[:HASH_BYTES] == bytes(16)


@pytest.mark.parametrize("view", [0, 3, 5])
def test_the_hash_equals_the_signs_of_the_cosine_transform_of_scipy(view):
    fft = pytest.importorskip("scipy.fft")
    gray = np.asarray(drawing(1, (256, 256)).convert("L"))
    thumbnail = np.rint(gray.reshape(64, 4, 64, 4).mean((1, 3)))
    top, left, bottom, right = module.VIEWS[view]
    window = thumbnail[top:bottom, left:right]
    spectrum = fft.dctn(window, norm="ortho") / np.sqrt(window.size)
    squares = sorted(
        (down**2 + across**2, down, across)
        for down in range(16)
        for across in range(16)
    )[1:65]
    numbers = np.array([spectrum[down, across] for _, down, across in squares])
    zero = 0.1 * np.sqrt((numbers**2).mean())
    words = hash_array([perceptual_hash(gray)])[0, view]
    for bit, number in enumerate(numbers):
        assert bool(int(words[0]) >> bit & 1) == (number > zero)
        assert bool(int(words[1]) >> bit & 1) == (number < -zero)


@pytest.mark.parametrize("size", [(320, 240), (1500, 300)])
def test_an_image_and_its_gray_pixels_have_the_same_hash(size):
    image = drawing(1, size)
    assert perceptual_hash(np.asarray(image.convert("L"))) == perceptual_hash(image)


def test_fine_detail_of_a_large_image_is_averaged():
    # There are 253 lines of one pixel. 256 sampled rows would show three broad lines.
    pixels = np.asarray(drawing(1, (1518, 1518)).convert("L")) // 2
    lined = pixels.copy()
    lined[::6] += 120
    hashes = hash_array(
        [perceptual_hash(image)[:HASH_BYTES] for image in (pixels, lined)]
    )
    assert hamming_distance(*hashes[:, 0]) <= BIT_THRESHOLD // 2


def test_the_mirrored_hash_equals_the_hash_of_the_mirrored_image():
    image = drawing(2, (64, 64))
    views, views_of_mirrored = hash_array(
        [perceptual_hash(image), perceptual_hash(ImageOps.mirror(image))]
    )
    np.testing.assert_array_equal(mirrored_hashes(views)[0], views_of_mirrored[0])
    # The left corner becomes the right corner.
    np.testing.assert_array_equal(mirrored_hashes(views)[2], views_of_mirrored[3])
    np.testing.assert_array_equal(mirrored_hashes(mirrored_hashes(views)), views)
    assert (mirrored_hashes(views)[0] != views[0]).any()


def test_bit_counts_match_python():
    random = np.random.default_rng(0)
    words = random.integers(0, 1 << 64, (50, 2, 2), np.uint64)
    expected = [
        sum((int(a) ^ int(b)).bit_count() for a, b in zip(*pair, strict=True))
        for pair in words
    ]
    assert hamming_distance(words[:, 0], words[:, 1]).tolist() == expected


def test_bits_are_counted_without_the_function_of_numpy_2(monkeypatch):
    words = np.random.default_rng(0).integers(0, 1 << 64, (50, 2, 2), np.uint64)
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    # The module chooses the function at import.
    spec = importlib.util.find_spec(module.__name__)
    copy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copy)
    assert copy.bit_count(words).sum((1, 2)).tolist() == [
        sum(int(word).bit_count() for word in pair.ravel()) for pair in words
    ]


def test_an_empty_list_of_hashes_has_six_views():
    assert hash_array([]).shape == (0, 6, 2)
