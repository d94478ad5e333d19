"""Tests of the reduction of images and of their storage as JPEGs."""

import io

import numpy as np
import pytest
from PIL import Image, JpegImagePlugin

from align_keras.corpus.image_tables import (
    image_schema,
    load_hook,
    rgba_pixels,
    store_image,
    store_images,
)
from align_keras.corpus.parquet_tables import read_rows, table_writer
from align_keras.utils.errors import ImageError, InputError

pytestmark = pytest.mark.ci


def encode(image, **options):
    file = io.BytesIO()
    image.save(file, **options)
    return file.getvalue()


def smooth_image(width, height):
    """Returns an image without edges. All good resizing methods agree on it."""
    x, y = np.meshgrid(np.linspace(0, 6, width), np.linspace(0, 6, height))
    waves = [np.sin(x + y), np.cos(x), np.sin(2 * y)]
    pixels = np.stack([127 + 100 * wave for wave in waves], -1)
    return Image.fromarray(pixels.astype(np.uint8))


def open_jpeg(stored):
    return Image.open(io.BytesIO(stored["jpeg"]))


@pytest.mark.parametrize(
    "size, expected",
    [
        ((200, 100), (200, 100)),  # Small images keep their size.
        ((300, 101), (297, 100)),
        ((300, 2400), (100, 800)),
    ],
)
@pytest.mark.parametrize("encoding", ["JPEG", "PNG"])
def test_the_shorter_side_is_reduced(size, expected, encoding):
    image = smooth_image(*size)
    options = {"quality": 95} if encoding == "JPEG" else {}
    content = encode(image, format=encoding, **options)
    stored = store_image(content, shorter_side=100, quality=90)
    assert (stored["width"], stored["height"]) == open_jpeg(stored).size == expected
    # Pillow's Lanczos filter gives the expected pixels. JPEG compression alone changes
    # single pixels by 2 or 3 gray levels.
    exact = np.asarray(image.resize(expected, Image.Resampling.LANCZOS), np.int16)
    pixels = np.asarray(open_jpeg(stored), np.int16)
    assert np.abs(pixels - exact).mean() < 2


@pytest.mark.parametrize(
    "size, expected",
    [
        ((200, 90), (200, 90)),  # Small images keep their size.
        ((200, 100), (100, 100)),
        ((250, 700), (100, 100)),
    ],
)
def test_without_the_aspect_ratio_images_become_squares(size, expected):
    image = smooth_image(*size)
    content = encode(image, format="PNG")
    stored = store_image(content, shorter_side=100, quality=90, keep_aspect=False)
    assert (stored["width"], stored["height"]) == open_jpeg(stored).size == expected
    exact = np.asarray(image.resize(expected, Image.Resampling.LANCZOS), np.int16)
    pixels = np.asarray(open_jpeg(stored), np.int16)
    assert np.abs(pixels - exact).mean() < 2


# The second size exceeds a block of Pillow's memory.
@pytest.mark.parametrize("size", [(90, 70), (2100, 2100)])
def test_decoded_pixels_equal_the_pixels_of_the_image(size):
    image = Image.linear_gradient("L").resize(size, Image.Resampling.NEAREST)
    image = image.convert("RGB")
    np.testing.assert_array_equal(rgba_pixels(image)[..., :3], np.asarray(image))


def test_jpegs_have_subsampled_colors_and_the_requested_quality():
    content = encode(smooth_image(90, 90), format="PNG")
    fine, coarse = (store_image(content, 100, quality) for quality in (90, 40))
    assert JpegImagePlugin.get_sampling(open_jpeg(fine)) == 2  # Pillow's code of 4:2:0
    assert len(coarse["jpeg"]) < len(fine["jpeg"])


def test_images_have_equal_keys_if_their_pixels_are_equal():
    first, second = (
        store_image(encode(image, format="PNG"), 100, 90)
        for image in (smooth_image(90, 90), smooth_image(90, 90))
    )
    assert first["pixel_key"] == second["pixel_key"]
    other = store_image(encode(smooth_image(90, 91), format="PNG"), 100, 90)
    assert other["pixel_key"] != first["pixel_key"]


def test_transparency_and_cmyk_become_rgb_on_white():
    transparent = Image.new("RGBA", (90, 90), (255, 0, 0, 0))
    stored = store_image(encode(transparent, format="PNG"), 100, 90)
    assert open_jpeg(stored).getpixel((45, 45)) == (255, 255, 255)
    assert stored["conversion"] == "transparency"
    cmyk = Image.new("CMYK", (90, 90))
    stored = store_image(encode(cmyk, format="JPEG"), 100, 90)
    assert open_jpeg(stored).mode == "RGB"


def test_a_hook_can_refuse_images():
    content = encode(smooth_image(90, 90), format="PNG")
    with pytest.raises(ImageError, match="refused"):
        store_image(content, 100, 90, refuse=lambda _: True)
    store_image(content, 100, 90, refuse=lambda _: False)


def test_max_pixels_is_inclusive():
    content = encode(smooth_image(90, 90), format="PNG")
    with pytest.raises(ImageError, match="oversized"):
        store_image(content, 100, 90, max_pixels=8099)
    store_image(content, 100, 90, max_pixels=8100)


def test_hooks_are_imported_by_their_names():
    assert load_hook(None) is None
    assert load_hook("math:isnan") is __import__("math").isnan
    for name in ("math", "no.such.module:function"):
        with pytest.raises(InputError, match="module:function"):
            load_hook(name)


def test_the_row_of_a_bad_image_has_its_drop_reason(tmp_path):
    contents = {
        "a": encode(smooth_image(120, 110), format="JPEG"),
        "b": b"",
        "c": encode(smooth_image(500, 500), format="JPEG")[:3000],
    }
    rows = []
    for key, content in [*contents.items(), ("d", None)]:
        path = tmp_path / f"{key}.jpg"
        if content is not None:
            path.write_bytes(content)
        row = {"image_key": key, "image": str(path), "width": 9, "height": 9}
        rows.append({**row, "captions": []})
    with table_writer(tmp_path / "group.parquet", image_schema()) as append:
        append(rows)
    task = {
        "group": str(tmp_path / "group.parquet"),
        "table": str(tmp_path / "part.parquet"),
        "shorter_side": 100,
        "quality": 90,
        "keep_aspect": True,
        "refuse": None,
        "max_pixels": 50_000_000,
    }
    assert store_images(task)["faults"] == {"empty": 1, "truncated": 1, "missing": 1}
    stored = list(read_rows(task["table"]))
    assert [row["image_key"] for row in stored] == ["a", "b", "c", "d"]
    assert [row["fault"] for row in stored] == ["", "empty", "truncated", "missing"]
    assert [row["jpeg"] is None for row in stored] == [False, True, True, True]


def test_an_image_that_is_too_wide_for_jpeg_is_refused():
    # A configuration with a large `max_aspect` allows such images.
    content = encode(Image.new("L", (70_000, 30)), format="PNG")
    with pytest.raises(ImageError, match="oversized"):
        store_image(content, shorter_side=30, quality=90)
    stored = store_image(content, shorter_side=20, quality=90)
    assert (stored["width"], stored["height"]) == (46_667, 20)
