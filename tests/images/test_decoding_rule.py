"""Decoding of a table of files in a graph and by Pillow.

Tests in `tests/export` compare the web page and the LiteRT example with the same table.
"""

import io
import struct

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from align_keras.images import crop_image_bytes, decode_image, readable_images
from align_keras.images.preprocess import preprocess_image
from align_keras.images.read import graph_file
from align_keras.utils.errors import ImageError
from align_keras.utils.pillow_images import decode_rgb
from tests.helpers.image_files import (
    apply_orientation,
    encoded,
    exif,
    plain_cmyk_jpeg,
    readable_files,
    refused_files,
    source,
)

READABLE = readable_files()
# This file is not in the table of the web page, because browsers decode it differently.
READABLE["JPEG, CMYK without Adobe's marker"] = plain_cmyk_jpeg(source())
REFUSED = refused_files()
CONVERTED = {name for name in READABLE if name.startswith(("GIF", "BMP"))}


def difference(actual, expected):
    actual, expected = np.asarray(actual).astype(int), np.asarray(expected).astype(int)
    assert actual.shape == expected.shape
    return np.abs(actual - expected).max()


@pytest.mark.parametrize("name", READABLE)
def test_a_graph_and_pillow_give_the_expected_pixels(name):
    content, expected = READABLE[name]
    # Blending with white and the conversion from 16 bits may round.
    assert difference(decode_image(graph_file(tf.constant(content))), expected) <= 1
    normalized = decode_rgb(content)[0]
    assert difference(normalized, expected) <= 1
    # The normalized image has no orientation, so it is not rotated again.
    assert difference(ImageOps.exif_transpose(normalized), expected) <= 1


@pytest.mark.ci
def test_a_saved_model_gives_the_expected_pixels(tmp_path):
    module = tf.Module()
    module.read = tf.function(
        lambda files: readable_images(files, 48),
        input_signature=[tf.TensorSpec((None,), tf.string)],
    )
    tf.saved_model.save(module, str(tmp_path))
    readable = [READABLE[name] for name in READABLE if name not in CONVERTED]
    refused = [READABLE[name][0] for name in CONVERTED] + list(REFUSED.values())
    files = [content for content, _ in readable] + refused
    images, valid = tf.saved_model.load(str(tmp_path)).read(tf.constant(files))
    assert valid.numpy().tolist() == [True] * len(readable) + [False] * len(refused)
    expected = [pixels for _, pixels in readable]
    for image, pixels in zip(images[: len(expected)], expected, strict=True):
        assert difference(image, preprocess_image(tf.constant(pixels), 48)) <= 1


@pytest.mark.parametrize("name", READABLE)
@pytest.mark.ci
def test_training_crops_contain_the_expected_pixels(name):
    content, expected_pixels = READABLE[name]
    position = (0.0, 0.0)
    png = encoded(Image.fromarray(expected_pixels), "PNG")
    expected = crop_image_bytes(tf.constant(png), 32, position)
    crop = crop_image_bytes(graph_file(tf.constant(content)), 32, position)
    # Only the window of a JPEG is decoded. The colors at its edges are not smoothed
    # with colors outside of the window, so the edges are not compared.
    inner = slice(0, 28 if name.startswith("JPEG") else None)
    assert difference(crop[inner, inner], expected[inner, inner]) <= 1


@pytest.mark.parametrize("name", REFUSED)
def test_unsupported_files_are_refused(name):
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode_image(tf.constant(REFUSED[name]))
    # Pillow and the renderer of SVG read formats that the graph does not decode.
    if name in ("SVG", "TIFF", "HEIC", "AVIF"):
        return
    with pytest.raises(ImageError, match="unreadable|empty|oversized"):
        decode_rgb(REFUSED[name])


def tiff(order, entries, start=8):
    """Returns EXIF data with one directory of entries (tag, type, count, value)."""
    letter = {"II": "<", "MM": ">"}[order]
    parts = [order.encode(), struct.pack(f"{letter}HI", 42, start)]
    parts += [b"\0" * (start - 8), struct.pack(f"{letter}H", len(entries))]
    for tag, kind, count, value in entries:
        parts.append(struct.pack(f"{letter}HHIHH", tag, kind, count, value, 0))
    return b"Exif\0\0" + b"".join(parts)


@pytest.mark.parametrize(
    ("data", "orientation"),
    [
        (tiff("MM", [(0x0112, 3, 1, 6)]), 6),
        (tiff("II", [(0x0100, 3, 1, 9), (0x0112, 3, 1, 8)], start=20), 8),
        (tiff("II", [(0x0112, 3, 1, 9)]), 1),
        (tiff("II", [(0x0112, 3, 1, 0)]), 1),
        (tiff("II", [(0x0112, 4, 1, 6)]), 1),
        (tiff("II", [(0x0112, 3, 2, 6)]), 1),
        (tiff("II", [(0x0112, 3, 1, 6)])[:-5], 1),
        (tiff("II", [(0x0112, 3, 1, 6)])[:12], 1),
        (tiff("II", []) + b"\x12\x01\x03\0\x01\0\0\0\x06\0\0\0", 1),
        (b"Exif\0\0", 1),
        (b"Exif\0\0II*\0\xff\xff\xff\xff", 1),
    ],
)
def test_the_orientation_in_unusual_metadata_is_the_same_for_all_decoders(
    data, orientation
):
    image = source()
    for file_format in ("JPEG", "PNG", "WEBP"):
        content = encoded(image, file_format, exif=data)
        pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
        expected = apply_orientation(pixels, orientation)
        assert difference(decode_image(tf.constant(content)), expected) == 0
        assert difference(decode_rgb(content)[0], expected) == 0


def test_metadata_after_the_first_64_kib_are_ignored():
    image = source()
    jpeg = encoded(image, "JPEG", comment=b"x" * 60_000, exif=exif(6))
    assert jpeg.index(b"Exif") < 2**16
    assert decode_image(tf.constant(jpeg)).shape[:2] == image.size
    # More than 64 KiB of comments separate the signature and the metadata.
    start = jpeg.index(b"\xff\xe1")
    filler = b"\xff\xfe\xff\xff" + b"x" * 65_533
    jpeg = jpeg[:start] + filler + jpeg[start:]
    for decoded in (decode_image(tf.constant(jpeg)), decode_rgb(jpeg)[0]):
        assert np.asarray(decoded).shape[:2] == image.size[::-1]


def test_a_frame_with_a_wrong_size_in_its_header_is_refused():
    content = bytearray(READABLE["WebP, animated"][0])
    frame = content.index(b"ANMF")
    # The width in the header is one less than the width of the pixels.
    content[frame + 14] -= 1
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode_image(tf.constant(bytes(content)))
