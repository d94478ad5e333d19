import base64
import io

import numpy as np
import pytest
from PIL import Image

from align_keras.reports.page_template import thumbnail_uri


def decoded(uri):
    head, data = uri.split(",", 1)
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert head == f"data:image/{image.format.lower()};base64"
    return image


def file_bytes(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def photo(height=300, width=400):
    """Returns a color gradient with noise, which compresses like a photograph."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 200, width)[None, :, None] + np.zeros((height, 1, 3))
    return (ramp + rng.uniform(0, 40, (height, width, 3))).astype(np.uint8)


def test_flat_images_become_png_and_photos_become_jpeg():
    flat = np.full((64, 64, 3), (10, 200, 30), np.uint8)
    flat[:20, :20] = 255
    image = decoded(thumbnail_uri(flat))
    assert image.format == "PNG"
    np.testing.assert_array_equal(np.asarray(image), flat)
    image = decoded(thumbnail_uri(photo()))
    assert (image.format, image.size) == ("JPEG", (160, 120))


def test_all_types_of_input_have_the_same_thumbnail(tmp_path):
    pixels = np.full((20, 10, 3), (200, 100, 0), np.uint8)
    image = Image.fromarray(pixels)
    (tmp_path / "a.png").write_bytes(file_bytes(image))
    inputs = [
        image,
        file_bytes(image),
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        pixels,
    ]
    assert len({thumbnail_uri(value) for value in inputs}) == 1
    assert decoded(thumbnail_uri(pixels)).size == (10, 20)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("RGBA", (8, 8), (255, 0, 0, 0)), (255, 255, 255)),
        (Image.new("LA", (8, 8), (0, 0)), (255, 255, 255)),
        (Image.new("CMYK", (8, 8), (0, 0, 0, 255)), (0, 0, 0)),
        (Image.new("1", (8, 8), 1), (255, 255, 255)),
        (Image.new("L", (8, 8), 77), (77, 77, 77)),
        (Image.fromarray(np.full((8, 8), 128 << 8, np.uint16)), (128, 128, 128)),
    ],
)
def test_image_modes_are_converted_to_rgb(image, expected):
    pixels = np.asarray(decoded(thumbnail_uri(image)).convert("RGB")).astype(int)
    assert np.abs(pixels - expected).max() <= 2


def test_gray_and_transparent_arrays_are_converted_to_rgb():
    gray = np.full((8, 8, 1), 50, np.uint8)
    assert decoded(thumbnail_uri(gray)).getpixel((0, 0)) == (50, 50, 50)
    clear = np.zeros((8, 8, 4), np.uint8)
    assert decoded(thumbnail_uri(clear)).getpixel((0, 0)) == (255, 255, 255)


def test_the_exif_orientation_is_applied():
    image = Image.fromarray(photo(40, 80))
    exif = image.getexif()
    # Orientation 6 requires a rotation by 90 degrees.
    exif[0x0112] = 6
    content = file_bytes(image, "JPEG", exif=exif)
    assert decoded(thumbnail_uri(content)).size == (40, 80)


@pytest.mark.parametrize(
    "image",
    [
        b"",
        b"not an image",
        file_bytes(Image.fromarray(photo()))[:2000],
        "/nowhere/missing.png",
        np.zeros((4, 4, 3), np.float32),
        None,
    ],
)
def test_unreadable_images_become_a_cross(image):
    assert thumbnail_uri(image).startswith("data:image/svg+xml,")
