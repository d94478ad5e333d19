import io
import itertools
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from align_keras.corpus.image import ImageError
from align_keras.search import image_files
from align_keras.search.image_files import (
    decode_square,
    find_images,
    read_file,
    read_photo_metadata,
)


def saved(format, size=(40, 20), **options):
    file = io.BytesIO()
    Image.new("RGB", size, (200, 10, 10)).save(file, format, **options)
    return file.getvalue()


def test_metadata_are_read_without_the_pixels(monkeypatch):
    """A bomb would fill the memory, and every PNG would be decoded twice."""
    opened = Image.open(io.BytesIO(saved("PNG")))
    monkeypatch.setattr(type(opened), "load", lambda image: pytest.fail("decoded"))
    assert read_photo_metadata(opened) == (None, None)


def test_what_an_image_says_of_itself():
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = "Canon\0", "Canon EOS 5D"
    exif[0x0112] = 6  # Turned.
    exif.get_ifd(0x8769)[0x9003] = "2019:07:03 18:20:00"
    image = decode_square(saved("JPEG", exif=exif), 32)
    assert (image.width, image.height) == (20, 40)
    assert (image.date, image.camera) == ("2019-07-03 18:20:00", "Canon EOS 5D")
    assert image.pixels.shape == (32, 32, 3) and image.pixels.dtype == np.uint8
    plain = decode_square(saved("PNG"), 32)
    assert (plain.date, plain.camera) == (None, None)


@pytest.mark.parametrize("pixels", ["too many", "few"])
def test_a_header_is_read_without_the_pixels(monkeypatch, pixels):
    content = bytearray(saved("PNG"))
    if pixels == "too many":
        content[16:24] = struct.pack(">II", 30_000, 30_000)
        content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    loads, load = [], PngImageFile.load
    monkeypatch.setattr(
        PngImageFile, "load", lambda self: loads.append(1) or load(self)
    )
    if pixels == "too many":
        with pytest.raises(ImageError, match="oversized"):
            decode_square(bytes(content), 32)
        assert not loads
    else:
        decode_square(bytes(content), 32)
        assert loads.count(1) <= 2  # Once more by what converts it, and does nothing.


@pytest.mark.parametrize("text", ["", "2019:13:45 99:00:00", "\xff" * 19])
def test_an_unreadable_time_is_no_date(text):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9003] = text
    assert decode_square(saved("JPEG", exif=exif), 32).date is None


def test_large_jpegs_are_decoded_smaller(monkeypatch):
    asked = []
    original = image_files.normalize_image

    def normalize(content, shorter_side):
        asked.append(shorter_side)
        return original(content, shorter_side=shorter_side)

    monkeypatch.setattr(image_files, "normalize_image", normalize)
    decode_square(saved("JPEG", (400, 300)), 32)
    assert asked[0] == 64


def test_a_file_that_changes_while_it_is_read(tmp_path, monkeypatch):
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
    assert next(times) > 12  # It was tried again.
    monkeypatch.undo()
    content, found = read_file(file)
    assert content == b"first" and found.size == 5


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_cannot_be_opened(tmp_path, make):
    make(tmp_path / "a.png")
    with pytest.raises(ImageError) as caught:
        read_file(os.fsencode(tmp_path / "a.png"))
    assert caught.value.reason == "can't be opened"
    unread = list(find_images(os.fsencode(tmp_path)))
    expected = [(os.fsencode(tmp_path / "a.png"), "no regular file")]
    assert unread == (expected if make is os.mkfifo else [])


def test_a_folder_that_cannot_be_listed_is_told(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    (tmp_path / "a.JPG").touch()
    (tmp_path / ".hidden.jpg").touch()
    scandir = os.scandir

    def refusing(folder):
        if folder.endswith(b"closed"):
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refusing)
    image, unread = find_images(os.fsencode(tmp_path))
    assert os.path.basename(image.file) == b"a.JPG"
    closed = os.fsencode(tmp_path / "closed")
    assert unread == (closed, "folder: Permission denied")


@pytest.mark.ci
@pytest.mark.parametrize("format", ["HEIF", "AVIF"])
def test_photos_of_telephones(format):
    pytest.importorskip("pillow_heif").register_heif_opener()
    image = decode_square(saved(format), 32)
    assert (image.width, image.height) == (40, 20)
    assert np.abs(image.pixels.astype(int) - (200, 10, 10)).max() < 12
    with pytest.raises(ImageError) as caught:
        decode_square(saved(format)[:200], 32)
    assert caught.value.reason == "unreadable"
