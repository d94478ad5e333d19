import io

import numpy as np
import pytest
from PIL import Image, JpegImagePlugin

from align_keras.corpus.image import ImageError
from align_keras.corpus.image_tables import (
    image_schema,
    load_hook,
    rgba_pixels,
    store_image,
    store_images,
)
from align_keras.corpus.parquet_tables import read_rows, table_writer
from align_keras.utils.errors import InputError

pytestmark = pytest.mark.ci


def file_of(image, **options):
    file = io.BytesIO()
    image.save(file, **options)
    return file.getvalue()


def smooth(width, height):
    """A picture without edges, on which any good resizing agrees."""
    x, y = np.meshgrid(np.linspace(0, 6, width), np.linspace(0, 6, height))
    waves = [np.sin(x + y), np.cos(x), np.sin(2 * y)]
    pixels = np.stack([127 + 100 * own for own in waves], -1)
    return Image.fromarray(pixels.astype(np.uint8))


def opened(stored):
    return Image.open(io.BytesIO(stored["jpeg"]))


@pytest.mark.parametrize(
    "size, expected",
    [
        ((200, 100), (200, 100)),  # Small ones stay as they are.
        ((300, 101), (297, 100)),
        ((400, 300), (133, 100)),
        ((1600, 1200), (133, 100)),
        ((300, 2400), (100, 800)),
    ],
)
@pytest.mark.parametrize("encoding", ["JPEG", "PNG"])
def test_the_shorter_side_is_reduced(size, expected, encoding):
    image = smooth(*size)
    options = {"quality": 95} if encoding == "JPEG" else {}
    content = file_of(image, format=encoding, **options)
    stored = store_image(content, shorter_side=100, quality=90)
    assert (stored["width"], stored["height"]) == opened(stored).size == expected
    # Pillow's Lanczos is the oracle; gray levels, where JPEG alone makes 2 or 3.
    exact = np.asarray(image.resize(expected, Image.Resampling.LANCZOS), np.int16)
    found = np.asarray(opened(stored), np.int16)
    assert np.abs(found - exact).mean() < 2


@pytest.mark.parametrize(
    "size, expected",
    [
        ((200, 90), (200, 90)),  # Small ones stay as they are.
        ((200, 100), (100, 100)),
        ((300, 150), (100, 100)),
        ((250, 290), (100, 100)),
        ((250, 700), (100, 100)),
    ],
)
def test_squares_are_resized_as_the_paper_does(size, expected):
    image = smooth(*size)
    content = file_of(image, format="PNG")
    stored = store_image(content, shorter_side=100, quality=90, keep_aspect=False)
    assert (stored["width"], stored["height"]) == opened(stored).size == expected
    exact = np.asarray(image.resize(expected, Image.Resampling.LANCZOS), np.int16)
    found = np.asarray(opened(stored), np.int16)
    assert np.abs(found - exact).mean() < 2  # As above.


@pytest.mark.parametrize("size", [(90, 70), (2100, 2100)])  # More than a block.
def test_pixels_are_pillows(size):
    image = smooth(*size)
    np.testing.assert_array_equal(rgba_pixels(image)[..., :3], np.asarray(image))


def test_colors_are_subsampled_and_quality_counts():
    content = file_of(smooth(90, 90), format="PNG")
    fine, coarse = (store_image(content, 100, quality) for quality in (90, 40))
    assert JpegImagePlugin.get_sampling(opened(fine)) == 2  # 4:2:0
    assert len(coarse["jpeg"]) < len(fine["jpeg"])


def test_equal_pictures_have_equal_keys():
    first, second = (
        store_image(file_of(own, format="PNG"), 100, 90)
        for own in (smooth(90, 90), smooth(90, 90))
    )
    assert first["pixel_key"] == second["pixel_key"]
    other = store_image(file_of(smooth(90, 91), format="PNG"), 100, 90)
    assert other["pixel_key"] != first["pixel_key"]


def test_transparency_and_cmyk_become_rgb_on_white():
    clear = Image.new("RGBA", (90, 90), (255, 0, 0, 0))
    stored = store_image(file_of(clear, format="PNG"), 100, 90)
    assert opened(stored).getpixel((45, 45)) == (255, 255, 255)
    assert stored["conversion"] == "transparency"
    cmyk = Image.new("CMYK", (90, 90))
    stored = store_image(file_of(cmyk, format="JPEG"), 100, 90)
    assert opened(stored).mode == "RGB"


def test_a_hook_refuses_pictures():
    with pytest.raises(ImageError, match="refused"):
        store_image(
            file_of(smooth(90, 90), format="PNG"), 100, 90, refuse=lambda _: True
        )
    store_image(file_of(smooth(90, 90), format="PNG"), 100, 90, refuse=lambda _: False)


def test_the_pixel_limit_is_the_callers():
    content = file_of(smooth(90, 90), format="PNG")
    with pytest.raises(ImageError, match="oversized"):
        store_image(content, 100, 90, max_pixels=8099)
    store_image(content, 100, 90, max_pixels=8100)


def test_hooks_are_found_by_name_or_told_of():
    assert load_hook(None) is None
    assert load_hook("math:isnan") is __import__("math").isnan
    for name in ("math", "math:nothing", "no.such.module:function", ":x"):
        with pytest.raises(InputError, match="module:function"):
            load_hook(name)


def test_bad_pictures_keep_their_row_with_the_fault(tmp_path):
    contents = {
        "a": file_of(smooth(120, 110), format="JPEG"),
        "b": b"",
        "c": file_of(smooth(500, 500), format="JPEG")[:3000],
    }
    rows = []
    for key, content in [*contents.items(), ("d", None)]:
        path = tmp_path / f"{key}.jpg"
        if content is not None:
            path.write_bytes(content)
        own = {"image_key": key, "image": str(path), "width": 9, "height": 9}
        rows.append({**own, "captions": []})
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
    assert [own["image_key"] for own in stored] == ["a", "b", "c", "d"]
    assert [own["fault"] for own in stored] == ["", "empty", "truncated", "missing"]
    assert [own["jpeg"] is None for own in stored] == [False, True, True, True]


def test_what_no_jpeg_can_hold_is_refused():
    # What a recipe with a large max_aspect lets through.
    content = file_of(Image.new("L", (70_000, 300)), format="PNG")
    with pytest.raises(ImageError, match="oversized.*70000 × 300 pixels.*65,500"):
        store_image(content, shorter_side=300, quality=90)
    stored = store_image(content, shorter_side=200, quality=90)
    assert (stored["width"], stored["height"]) == (46_667, 200)
