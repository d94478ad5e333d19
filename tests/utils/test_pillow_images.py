"""Tests of the conversion of images to 8-bit RGB. Pillow creates the test images."""

import base64
import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from align_keras.utils.errors import ImageError
from align_keras.utils.pillow_images import decode_rgb, image_size


def encode(image, image_format="PNG", **options):
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def gradient(width=40, height=30):
    values = np.linspace(0, 255, width * height * 3).astype(np.uint8)
    return Image.fromarray(values.reshape(height, width, 3))


def png_chunk(kind, content):
    checksum = zlib.crc32(kind + content)
    return (
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)
    )


def png_with_wrong_size(width, height):
    """Returns a small PNG whose header has another size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", zlib.compress(b"\0" * 100))
        + png_chunk(b"IEND", b"")
    )


def reason_of(source, **options):
    with pytest.raises(ImageError) as error_info:
        decode_rgb(source, **options)
    assert "\n" not in str(error_info.value)
    return error_info.value.reason


def test_rgb_images_are_unchanged(tmp_path):
    image = gradient()
    path = tmp_path / "a.png"
    image.save(path)
    for source in (path, str(path), path.read_bytes()):
        normalized, conversion = decode_rgb(source)
        assert conversion is None
        assert normalized.mode == "RGB"
        np.testing.assert_array_equal(normalized, image)


def test_cmyk_becomes_rgb():
    content = encode(gradient().convert("CMYK"), "JPEG", quality=95)
    normalized, conversion = decode_rgb(content)
    assert conversion == "cmyk"
    np.testing.assert_array_equal(
        normalized, Image.open(io.BytesIO(content)).convert("RGB")
    )
    assert np.abs(np.asarray(normalized, int) - np.asarray(gradient())).mean() < 12


def test_sixteen_bit_gray_is_scaled_not_clipped():
    values = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    normalized, conversion = decode_rgb(encode(Image.fromarray(values)))
    assert conversion == "16-bit"
    expected = np.rint(values / 257.0)
    np.testing.assert_array_equal(np.asarray(normalized)[:, :, 0], expected)
    assert np.asarray(normalized).min() == 0
    assert np.asarray(normalized).max() == 255


def test_sixteen_bit_color_keeps_its_high_bytes():
    width, height = 4, 3
    random = np.random.default_rng(0)
    values = random.integers(0, 65536, (height, width, 3)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    content = (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0))
        + png_chunk(b"IDAT", zlib.compress(rows))
        + png_chunk(b"IEND", b"")
    )
    normalized, conversion = decode_rgb(content)
    assert conversion == "16-bit"
    np.testing.assert_array_equal(normalized, values.astype(int) >> 8)


def test_grayscale_gets_three_equal_channels():
    content = encode(gradient().convert("L"))
    normalized, conversion = decode_rgb(content)
    assert conversion == "grayscale"
    np.testing.assert_array_equal(normalized, gradient().convert("L").convert("RGB"))


@pytest.mark.parametrize("image_format", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_of_an_animation_is_used(image_format):
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue", "lime")]
    options = {"lossless": True} if image_format == "WEBP" else {}
    content = encode(
        frames[0], image_format, save_all=True, append_images=frames[1:], **options
    )
    normalized, conversion = decode_rgb(content)
    assert "animated" in conversion
    np.testing.assert_array_equal(normalized, frames[0])


def test_a_palette_becomes_rgb():
    palette = gradient().convert("P", palette=Image.Palette.ADAPTIVE, colors=16)
    normalized, conversion = decode_rgb(encode(palette))
    assert conversion == "palette"
    np.testing.assert_array_equal(normalized, palette.convert("RGB"))


def test_a_transparent_palette_color_becomes_white():
    image = Image.new("P", (4, 2), 1)
    image.putpalette([0, 0, 0, 200, 10, 20])
    image.paste(0, (0, 0, 2, 2))  # Color 0, black, is transparent.
    normalized, conversion = decode_rgb(encode(image, transparency=0))
    assert conversion == "palette with transparency"
    pixels = np.asarray(normalized)
    assert (pixels[:, :2] == 255).all()
    assert (pixels[:, 2:] == (200, 10, 20)).all()


def test_alpha_is_composited_on_white():
    alpha = np.linspace(0, 255, 1200).astype(np.uint8).reshape(30, 40)
    image = gradient().copy()
    image.putalpha(Image.fromarray(alpha))
    normalized, conversion = decode_rgb(encode(image))
    assert conversion == "transparency"
    white = Image.new("RGBA", image.size, "white")
    expected = Image.alpha_composite(white, image).convert("RGB")
    difference = np.asarray(normalized, int) - np.asarray(expected, int)
    assert np.abs(difference).max() <= 1
    assert (np.asarray(normalized)[0, 0] == 255).all()


def test_opaque_alpha_is_not_reported_as_a_conversion():
    image = gradient().convert("RGBA")
    normalized, conversion = decode_rgb(encode(image))
    assert conversion is None
    np.testing.assert_array_equal(normalized, gradient())


def test_a_transparent_gray_level_becomes_white():
    image = Image.new("L", (4, 1), 7)
    image.putpixel((0, 0), 50)
    normalized, _ = decode_rgb(encode(image, transparency=50))
    assert np.asarray(normalized)[0, :, 0].tolist() == [255, 7, 7, 7]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encode(gradient(), "JPEG", exif=exif, quality=95)
    normalized, conversion = decode_rgb(content)
    stored = np.asarray(Image.open(io.BytesIO(content)))
    # The expected arrays do not depend on Pillow's operations.
    upright = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.transpose(1, 0, 2),
        6: np.rot90(stored, -1),
        7: stored[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(stored, 1),
    }[orientation]
    np.testing.assert_array_equal(normalized, upright)
    assert conversion == (None if orientation == 1 else "rotated")


def test_a_missing_file_is_reported_as_missing(tmp_path):
    assert reason_of(tmp_path / "nowhere.png") == "missing"


def test_an_empty_file_is_reported_as_empty(tmp_path):
    (tmp_path / "a.png").touch()
    assert reason_of(tmp_path / "a.png") == "empty"
    assert reason_of(b"") == "empty"


@pytest.mark.parametrize(
    "content",
    [b"not an image at all", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\xff\xd8\xff"],
)
def test_other_content_is_reported_as_unreadable(content):
    assert reason_of(content) == "unreadable"


def test_a_bitmap_with_a_short_header_is_reported_as_unreadable():
    content = base64.b64decode("Qk0eAAAAAAAAABoAAAAMAAAAAQABAAEAGAD///8A")
    assert reason_of(content) == "unreadable"
    with pytest.raises(ImageError, match="BMP"):
        image_size(content)


def test_folders_devices_and_invalid_names_are_reported_as_unreadable(tmp_path):
    assert reason_of(tmp_path) == "unreadable"
    assert reason_of("a\0b.png") == "unreadable"
    assert reason_of("\ud800.png") == "unreadable"
    assert reason_of("/dev/zero") == "unreadable"


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "GIF", "BMP"])
def test_truncated_files_are_reported_as_truncated(image_format):
    noise = Image.effect_noise((128, 128), 80)
    content = encode(noise, image_format)
    assert reason_of(content[: len(content) // 2]) == "truncated"


def test_a_file_truncated_at_any_byte_raises_only_image_errors():
    content = encode(gradient())
    for length in range(len(content)):
        try:
            decode_rgb(content[:length])
        except ImageError as error:
            assert error.reason in ("empty", "unreadable", "truncated")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_file_with_changed_bytes_raises_only_image_errors():
    random = np.random.default_rng(1)
    for image_format in ("PNG", "JPEG", "GIF", "WEBP", "BMP"):
        content = bytearray(encode(gradient(), image_format))
        for _ in range(40):
            damaged = bytearray(content)
            for position in random.integers(0, len(content), 3):
                damaged[position] = random.integers(256)
            try:
                decode_rgb(bytes(damaged))
            except ImageError as error:
                assert "\n" not in error.detail


def test_the_size_in_the_header_is_limited():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert reason_of(png_with_wrong_size(20_000, 20_000)) == "oversized"


def test_max_pixels_is_inclusive_and_replaces_the_limit_of_pillow(monkeypatch):
    content = encode(gradient(40, 30))
    assert decode_rgb(content, max_pixels=1200)[0].size == (40, 30)
    assert reason_of(content, max_pixels=1199) == "oversized"
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode_rgb(content)[0].size == (40, 30)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_images_without_pixels_have_zero_size():
    content = bytearray(encode(Image.new("RGB", (1, 1)), "GIF"))
    frame = content.index(b",\0\0\0\0\1\0\1\0")
    content[6:10] = b"\0\0\0\0"  # Width and height of the GIF.
    content[frame + 5 : frame + 9] = b"\0\0\0\0"  # Width and height of the frame.
    assert reason_of(bytes(content)) == "zero size"
    assert reason_of(png_with_wrong_size(0, 5)) == "zero size"
