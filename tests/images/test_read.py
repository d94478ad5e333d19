"""Reading of batches with files that are not images or decompression bombs."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.pair_files import read_pairs
from align_keras.images import (
    decode,
    decode_image,
    preprocess_image_bytes,
    read_image,
    readable_images,
)
from align_keras.images.decode import pixels_by_header
from align_keras.images.read import encoded_image, read_graph_file
from align_keras.search.readers.image_files import find_images
from align_keras.search.readers.photos import read_upright
from align_keras.utils.errors import InputError
from align_keras.utils.files import MAX_FILE_BYTES
from align_keras.utils.pillow_images import decode_rgb


def encoded(file_format, size=(120, 70), mode="RGB", **options):
    source = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3))
    file = io.BytesIO()
    image = Image.fromarray(source.astype(np.uint8)).convert(mode)
    image.save(file, file_format, **options)
    return file.getvalue()


GOOD = {
    "png": encoded("PNG"),
    "palette": encoded("PNG", mode="P"),
    "jpeg": encoded("JPEG"),
    "gray": encoded("JPEG", mode="L"),
    "webp": encoded("WEBP"),
    "lossless": encoded("WEBP", lossless=True),
    "extended": encoded("WEBP", exif=b"Exif\0\0"),
}


def bomb(width, height):
    """Returns a PNG of a few kilobytes with the given number of pixels."""

    def chunk(kind, data):
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    # The image has one bit per pixel.
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    compressor = zlib.compressobj(9)
    rows = [compressor.compress(bytes(1 + (width + 7) // 8)) for _ in range(height)]
    data = b"".join([*rows, compressor.flush()])
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


@pytest.mark.parametrize("name", ["BM.jpg", "BM", "a", "GIF87.png"])
def test_short_paths_are_not_contents(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(GOOD["jpeg"])
    assert encoded_image(tf.constant(name)).numpy() == GOOD["jpeg"]


@pytest.mark.parametrize("file_format", ["GIF", "BMP"])
def test_a_file_that_the_graph_does_not_decode_is_converted(file_format):
    content = encoded(file_format)
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode_image(tf.constant(content))
    pixels = decode_image(encoded_image(tf.constant(content)))
    np.testing.assert_array_equal(pixels, decode_rgb(content)[0])


def upright_file(file_format):
    """Returns a file whose pixels are on their side, and which is upright by EXIF."""
    if file_format == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    corners = np.zeros((48, 64, 3), np.uint8)
    corners[:24, 32:] = 255, 0, 0
    corners[24:, :32] = 0, 0, 255
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {} if file_format in ("PPM", "JPEG2000") else {"exif": exif}
    if file_format == "HEIF":
        # pillow-heif writes the rotation of the container for bytes.
        options = {"exif": exif.tobytes()}
    image = Image.fromarray(corners)
    if options:
        image = image.transpose(Image.Transpose.ROTATE_90)
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return corners, file.getvalue()


@pytest.mark.parametrize(
    ("file_format", "suffix"),
    [
        ("JPEG", ".jpg"),
        pytest.param("HEIF", ".heic", marks=pytest.mark.ci),
        ("AVIF", ".avif"),
        ("TIFF", ".tif"),
        ("JPEG2000", ".jp2"),
        ("PPM", ".ppm"),
    ],
)
def test_all_readers_have_the_same_formats_and_orientation(
    tmp_path, file_format, suffix
):
    corners, content = upright_file(file_format)
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    (tmp_path / "a.txt").write_text("two corners")
    # Pairs of a folder, sources of a corpus, and files of an index.
    [record] = read_pairs(tmp_path, counter=DropCounter())
    [image_file] = find_images(os.fsencode(tmp_path))
    assert record.image_path == path and image_file.file == os.fsencode(path)
    corpus_image, _ = decode_rgb(path)
    readers = {
        "corpus": np.asarray(corpus_image),
        "index": np.asarray(read_upright(content)),
        "bytes": decode_image(encoded_image(tf.constant(content))),
        "path": decode_image(encoded_image(tf.constant(str(path)))),
        "labels": decode_image(read_graph_file(tf.constant(str(path)))),
    }
    for name, pixels in readers.items():
        difference = np.abs(np.int32(pixels) - corners).mean()
        assert np.shape(pixels) == (48, 64, 3) and difference < 6, name
    expected = read_image(corners, 0, 32)
    for image in (content, path, Image.open(path)):
        assert np.abs(read_image(image, 0, 32) - expected).mean() < 6


BAD = {
    "empty": b"",
    "text": b"no image",
    "html": b"<!DOCTYPE html><html></html>",
    "half a jpeg": GOOD["jpeg"][:400],
    "half a png": GOOD["png"][:400],
    "half a webp": GOOD["webp"][:60],
    **{f"{name}'s beginning": GOOD[name][:6] for name in ("png", "webp")},
    "gif": encoded("GIF"),
    "bmp": encoded("BMP"),
    "bomb": bomb(20_000, 10_000),
}


@pytest.mark.parametrize("name", GOOD)
def test_the_number_of_pixels_is_read_from_the_header(name):
    assert int(pixels_by_header(tf.constant(GOOD[name]))) == 120 * 70


@pytest.mark.ci
def test_images_are_preprocessed_and_other_files_are_black():
    files = [*GOOD.values(), *BAD.values()]
    np.random.default_rng(0).shuffle(files)
    images, valid = readable_images(tf.constant(files), 64)
    assert [file in GOOD.values() for file in files] == valid.numpy().tolist()
    for file, image in zip(files, images.numpy(), strict=True):
        expected = np.zeros((64, 64, 3))
        if file in GOOD.values():
            expected = preprocess_image_bytes(tf.constant(file), 64).numpy()
        np.testing.assert_array_equal(image, expected)


@pytest.mark.ci
def test_a_saved_model_gives_exactly_the_pixels_of_the_evaluation(tmp_path):
    module = tf.Module()
    module.read = tf.function(
        lambda files: readable_images(files, 64),
        input_signature=[tf.TensorSpec((None,), tf.string)],
    )
    tf.saved_model.save(module, str(tmp_path))
    files = [*GOOD.values(), encoded("JPEG", (1000, 31)), encoded("PNG", (7, 500))]
    images, valid = tf.saved_model.load(str(tmp_path)).read(tf.constant(files))
    assert valid.numpy().all()
    for file, image in zip(files, images.numpy(), strict=True):
        # `ALIGN.encode_images` reads each image in this way.
        expected = preprocess_image_bytes(tf.constant(file), 64)
        np.testing.assert_array_equal(image, expected)


@pytest.mark.ci
@pytest.mark.parametrize("files", [[], list(BAD.values()), list(GOOD.values())])
def test_a_batch_can_be_empty_or_without_images(files):
    read = tf.function(readable_images)
    images, valid = read(tf.constant(files, tf.string), 64)
    assert images.shape == (len(files), 64, 64, 3) and valid.shape == (len(files),)
    assert valid.numpy().all() == (files != list(BAD.values()))


def test_headers_of_bombs_have_too_many_pixels():
    assert len(BAD["bomb"]) < 100_000
    assert int(pixels_by_header(tf.constant(BAD["bomb"]))) == 200_000_000


def test_functions_that_are_not_inlined_contain_no_operations_that_raise():
    """TensorFlow leaks memory at each failed call of such a function."""
    graph = tf.function(decode.decode_image).get_concrete_function(
        tf.TensorSpec((), tf.string)
    )
    functions = graph.graph.as_graph_def().library.function
    called_functions = {
        function.signature.name: {
            callee.name
            for node in function.node_def
            for value in node.attr.values()
            for callee in (value.func, *value.list.func)
        }
        for function in functions
    }
    not_inlined = {
        function.signature.name
        for function in functions
        if function.attr["_noinline"].b
    }
    assert len(not_inlined) > 9
    queue = list(not_inlined)
    while queue:
        new = called_functions.get(queue.pop(), set()) - not_inlined
        not_inlined |= new
        queue += new
    operations = {
        node.op
        for function in functions
        if function.signature.name in not_inlined
        for node in function.node_def
    }
    # DecodeRaw is allowed, because its inputs are truncated to whole numbers.
    operations -= {"DecodeRaw"}
    assert not [
        operation
        for operation in operations
        if operation.startswith(("Assert", "Decode", "Extract"))
    ]


def test_devices_and_large_files_are_refused(tmp_path):
    large = tmp_path / "large.png"
    with large.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    for path in ("/dev/zero", large):
        with pytest.raises(InputError, match=os.path.basename(path)):
            read_image(path, 0, 8)
