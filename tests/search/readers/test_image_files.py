import io
import itertools
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from align_keras.embedders.image_transforms import ResizeSquare
from align_keras.search.readers import photos
from align_keras.search.readers.image_files import find_images, read_file
from align_keras.search.readers.photos import decode_photo, read_photo_metadata
from align_keras.utils.errors import ImageError


def encoded_image(format, size=(40, 20), **options):
    file = io.BytesIO()
    Image.new("RGB", size, (200, 10, 10)).save(file, format, **options)
    return file.getvalue()


def test_metadata_are_read_without_decoding_the_pixels(monkeypatch):
    """A decompression bomb must not fill the memory while its metadata are read."""
    opened = Image.open(io.BytesIO(encoded_image("PNG")))
    monkeypatch.setattr(type(opened), "load", lambda image: pytest.fail("decoded"))
    assert read_photo_metadata(opened) == (None, None)


def test_size_date_and_camera_are_read():
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = "Canon\0", "Canon EOS 5D"
    exif[0x0112] = 6  # Rotated by 90 degrees.
    exif.get_ifd(0x8769)[0x9003] = "2019:07:03 18:20:00"
    image = decode_photo(encoded_image("JPEG", exif=exif), ResizeSquare(32))
    assert (image.width, image.height) == (20, 40)
    assert (image.date, image.camera) == ("2019-07-03 18:20:00", "Canon EOS 5D")
    assert image.pixels.shape == (32, 32, 3) and image.pixels.dtype == np.uint8
    plain = decode_photo(encoded_image("PNG"), ResizeSquare(32))
    assert (plain.date, plain.camera) == (None, None)


@pytest.mark.parametrize("pixels", ["too many", "few"])
def test_the_size_limit_is_checked_before_decoding(monkeypatch, pixels):
    content = bytearray(encoded_image("PNG"))
    if pixels == "too many":
        content[16:24] = struct.pack(">II", 30_000, 30_000)
        content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    loads, load = [], PngImageFile.load
    monkeypatch.setattr(
        PngImageFile, "load", lambda self: loads.append(1) or load(self)
    )
    if pixels == "too many":
        with pytest.raises(ImageError, match="50,331,648"):
            decode_photo(bytes(content), ResizeSquare(32))
        assert not loads
    else:
        decode_photo(bytes(content), ResizeSquare(32))
        # Pillow calls `load` again for the conversion, which then does nothing.
        assert loads.count(1) <= 2


@pytest.mark.parametrize("text", ["", "2019:13:45 99:00:00", "\xff" * 19])
def test_an_invalid_time_gives_no_date(text):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9003] = text
    assert decode_photo(encoded_image("JPEG", exif=exif), ResizeSquare(32)).date is None


def test_large_jpegs_are_decoded_at_a_reduced_size(monkeypatch):
    shorter_sides = []
    original = photos.decode_rgb

    def decode(content, shorter_side):
        shorter_sides.append(shorter_side)
        return original(content, shorter_side=shorter_side)

    monkeypatch.setattr(photos, "decode_rgb", decode)
    decode_photo(encoded_image("JPEG", (400, 300)), ResizeSquare(32))
    assert shorter_sides[0] == 64


@pytest.mark.parametrize(
    "size, orientation, expected",
    [
        # The draft of a nearly square JPEG is square.
        ((200, 193), 1, (200, 193)),
        ((193, 200), 1, (193, 200)),
        ((200, 150), 1, (200, 150)),
        ((200, 150), 6, (150, 200)),
        ((150, 200), 6, (200, 150)),
    ],
)
def test_the_size_of_a_reduced_jpeg_is_that_of_the_upright_image(
    size, orientation, expected
):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = decode_photo(encoded_image("JPEG", size, exif=exif), ResizeSquare(8))
    assert (image.width, image.height) == expected


def test_a_file_that_changes_while_it_is_read_raises_an_error(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(b"first")
    file, times = os.fsencode(path), itertools.count(2)
    status = os.fstat

    def changing(descriptor):
        os.utime(path, (next(times), 1))
        os.utime(path, (1, next(times)))
        return status(descriptor)

    monkeypatch.setattr(os, "fstat", changing)
    with pytest.raises(ImageError) as caught:
        read_file(file)
    assert caught.value.reason == "changes while it is read"
    assert next(times) > 12  # `read_file` has tried several times.
    monkeypatch.undo()
    content, image_file = read_file(file)
    assert content == b"first" and image_file.size == 5


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_pipes_and_folders_cannot_be_opened(tmp_path, make):
    make(tmp_path / "a.png")
    with pytest.raises(ImageError) as caught:
        read_file(os.fsencode(tmp_path / "a.png"))
    assert caught.value.reason == "can't be opened"
    unread = list(find_images(os.fsencode(tmp_path)))
    expected = [(os.fsencode(tmp_path / "a.png"), "no regular file", "")]
    assert unread == (expected if make is os.mkfifo else [])


def test_a_folder_that_cannot_be_listed_is_reported(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    (tmp_path / "a.JPG").touch()
    (tmp_path / ".hidden.jpg").touch()
    scandir = os.scandir

    def scandir_without_permission(folder):
        if folder.endswith(b"closed"):
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", scandir_without_permission)
    image, unread = find_images(os.fsencode(tmp_path))
    assert os.path.basename(image.file) == b"a.JPG"
    closed = os.fsencode(tmp_path / "closed")
    assert unread == (closed, "folder: Permission denied", "")


@pytest.mark.ci
@pytest.mark.parametrize("format", ["HEIF", "AVIF"])
def test_heif_and_avif_are_decoded(format):
    pytest.importorskip("pillow_heif").register_heif_opener()
    image = decode_photo(encoded_image(format), ResizeSquare(32))
    assert (image.width, image.height) == (40, 20)
    assert np.abs(image.pixels.astype(int) - (200, 10, 10)).max() < 12
    with pytest.raises(ImageError) as caught:
        decode_photo(encoded_image(format)[:200], ResizeSquare(32))
    assert caught.value.reason == "unreadable"
