"""TIFF, JPEG 2000, PNM and RAW files in an index.

Pillow, tifffile and LibRaw are the oracles.
"""

import csv
import io
import json
import sys

import numpy as np
import pytest
from PIL import Image

from align_keras.cli.main import main
from align_keras.embedders.image_transforms import ResizeSquare
from align_keras.search.readers import image_files, raw_preview
from align_keras.search.readers.photos import (
    decode_photo,
    read_query_image,
    read_upright,
)
from align_keras.search.readers.raw_preview import NO_PREVIEW, NO_RAW
from align_keras.search.serve.server import count_left_out
from align_keras.utils import pillow_images
from align_keras.utils.errors import ImageError
from align_keras.utils.pillow_images import NO_HEIC
from tests.helpers import image_files as samples
from tests.helpers.color_towers import GOLDEN
from tests.helpers.oracle_process import needs
from tests.helpers.raw_files import CAMERAS, SENSOR, dng_without_preview, raw_file

ORIENTATION = 0x0112
# Pillow warns about damaged files.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")


def quarters(width=96, height=64):
    """Returns an image with a different color in each quarter."""
    image = Image.new("RGB", (width, height), (20, 200, 20))
    image.paste((230, 20, 20), (0, 0, width // 2, height // 2))
    image.paste((20, 20, 230), (width // 2, height // 2, width, height))
    image.paste((230, 230, 20), (0, height // 2, width // 2, height))
    return image


def assert_pixels(image, expected, tolerance=0):
    assert image.mode == "RGB"
    actual = np.asarray(image).astype(int)
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= tolerance


RGB = quarters()
RGBA = samples.source("RGBA")
GRAY16 = np.linspace(0, 65535, 64 * 96).reshape(64, 96).astype(np.uint16)
GRAY = np.stack([GRAY16 >> 8] * 3, -1)
LOSSLESS = {
    "TIFF": (samples.encoded(RGB, "TIFF"), np.asarray(RGB)),
    "TIFF, LZW": (
        samples.encoded(RGB, "TIFF", compression="tiff_lzw"),
        np.asarray(RGB),
    ),
    "TIFF, alpha": (
        samples.encoded(RGBA, "TIFF"),
        np.asarray(samples.on_white(RGBA)),
    ),
    "TIFF, 16 bits": (samples.encoded(Image.fromarray(GRAY16), "TIFF"), GRAY),
    "TIFF, 16 bits, 0 is white": (
        samples.encoded(Image.fromarray(65535 - GRAY16), "TIFF", tiffinfo={262: 0}),
        GRAY,
    ),
    "JPEG 2000": (samples.encoded(RGB, "JPEG2000"), np.asarray(RGB)),
    "JPEG 2000, 16 bits": (
        samples.encoded(Image.fromarray(GRAY16), "JPEG2000", irreversible=False),
        GRAY,
    ),
    "PPM": (samples.encoded(RGB, "PPM"), np.asarray(RGB)),
    "PGM, 16 bits": (b"P5\n96 64\n65535\n" + GRAY16.astype(">u2").tobytes(), GRAY),
    "PBM, text": (b"P1\n2 1\n1 0\n", np.array([[[0] * 3, [255] * 3]])),
}


@pytest.mark.parametrize("name", LOSSLESS)
def test_pixels_follow_the_rule_of_all_formats(name):
    content, expected = LOSSLESS[name]
    assert_pixels(read_upright(content), expected, 1 if "alpha" in name else 0)
    image = decode_photo(content, ResizeSquare(32))
    assert (image.height, image.width) == expected.shape[:2]


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_tiff_files_are_rotated(compression):
    for orientation in range(1, 9):
        tags = {ORIENTATION: orientation}
        content = samples.encoded(RGB, "TIFF", tiffinfo=tags, compression=compression)
        expected = samples.apply_orientation(np.asarray(RGB), orientation)
        assert_pixels(read_upright(content), expected)
        image = decode_photo(content, ResizeSquare(32))
        assert (image.height, image.width) == expected.shape[:2]


def test_date_and_camera_of_a_tiff_file_are_read():
    tags = {0x010F: "Canon", 0x0110: "Scanner 3", 0x0132: "2019:07:03 18:20:00"}
    image = decode_photo(samples.encoded(RGB, "TIFF", tiffinfo=tags), ResizeSquare(32))
    assert (image.date, image.camera) == ("2019-07-03 18:20:00", "Canon Scanner 3")


@pytest.mark.parametrize("mode", ["F", "I"])
def test_samples_without_a_level_for_white_are_refused(mode):
    content = samples.encoded(Image.new(mode, (9, 9)), "TIFF")
    with pytest.raises(ImageError, match="32 bits") as caught:
        decode_photo(content, ResizeSquare(32))
    assert caught.value.reason == "unreadable"


@pytest.mark.parametrize("name", ["TIFF, LZW", "JPEG 2000", "PPM"])
def test_damaged_files_have_a_reason(name):
    content, _ = LOSSLESS[name]
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        damaged = bytearray(content)
        for position in random.integers(0, len(damaged), 8):
            damaged[position] = random.integers(256)
        try:
            decode_photo(
                bytes(damaged[: random.integers(4, len(damaged))]), ResizeSquare(8)
            )
        except ImageError as error:
            refused += 1
            assert error.reason in ("unreadable", "truncated", "oversized")
    assert refused > 10


@pytest.mark.ci
@needs("tifffile")
def test_the_limit_of_pixels_holds_for_tiles(monkeypatch):
    """A tile takes memory even if the image is smaller."""
    import tifffile

    file = io.BytesIO()
    tifffile.imwrite(file, np.zeros((16, 16), np.uint8), tile=(512, 512))
    assert decode_photo(file.getvalue(), ResizeSquare(8)).width == 16
    monkeypatch.setattr(pillow_images, "MAX_PIXELS", 512 * 512 - 1)
    with pytest.raises(ImageError, match="tile"):
        decode_photo(file.getvalue(), ResizeSquare(8))


def test_tiff_files_are_not_taken_for_raw_files():
    assert not raw_preview.is_raw_photo(LOSSLESS["TIFF"][0])
    sub_directories = samples.encoded(RGB, "TIFF", tiffinfo={330: 8})
    assert not raw_preview.is_raw_photo(sub_directories)
    thumbnail = samples.encoded(RGB, "TIFF", tiffinfo={254: 1, 330: 8})
    assert raw_preview.is_raw_photo(thumbnail)
    assert raw_preview.is_raw_photo(b"FUJIFILMCCD-RAW 0201")
    assert not raw_preview.is_raw_photo(b"II*\0\xff\xff\xff\xff")


@pytest.mark.ci
@needs("rawpy", "tifffile", "imagecodecs")
@pytest.mark.parametrize("kind", CAMERAS)
def test_the_preview_of_a_raw_file_is_read(kind):
    import rawpy

    for orientation in (1, 3, 6, 8):
        content = raw_file(kind, RGB, orientation)
        with rawpy.imread(io.BytesIO(content)) as raw:
            # LibRaw accepts the file, including its sensor data.
            assert raw.raw_image.shape == SENSOR
        expected = samples.apply_orientation(np.asarray(RGB), orientation)
        assert_pixels(read_upright(content), expected, 12)
        image = decode_photo(content, ResizeSquare(32))
        is_portrait = orientation in (6, 8)
        assert (image.height > image.width) == is_portrait
        # The size is that of the photo, of which LibRaw may cut the margin.
        assert max(image.height, image.width) in (SENSOR[1], SENSOR[1] - 1)
        assert image.date == "2021-05-06 07:08:09"
        assert image.camera is not None and image.camera.endswith(CAMERAS[kind][1])
        if kind != "cr2":  # The preview of old cameras is not compressed.
            content = raw_file(kind, RGB, orientation, is_jpeg=False)
            assert_pixels(read_upright(content), expected)
    square = np.asarray(RGB.resize((32, 32), Image.Resampling.BILINEAR)).astype(int)
    pixels = read_query_image(raw_file(kind, RGB), ResizeSquare(32))
    assert np.abs(pixels - square).max() < 20


@pytest.mark.ci
@needs("rawpy", "tifffile", "imagecodecs", "pidng")
def test_raw_files_without_a_readable_preview_have_a_reason(tmp_path):
    path = tmp_path / "plain.dng"
    dng_without_preview(path)
    content = raw_file("nef", RGB)
    start = content.index(b"\xff\xd8\xff")
    for damaged, reason in (
        (path.read_bytes(), NO_PREVIEW),
        (content[:100], "unreadable"),
        (content[: start + 20] + bytes(len(content) - start - 20), NO_PREVIEW),
    ):
        with pytest.raises(ImageError) as caught:
            decode_photo(damaged, ResizeSquare(32))
        assert caught.value.reason == reason


def index_folder(folder, tmp_path, *options):
    command = ["index", str(folder), "--index", str(tmp_path / "index")]
    return main([*command, "--model", str(GOLDEN), *options])


def test_files_without_their_extra_are_counted_and_kept(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(raw_preview, "has_raw_reader", lambda: False)
    monkeypatch.setattr(image_files, "has_raw_reader", lambda: False)
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "scan.tif").write_bytes(LOSSLESS["TIFF"][0])
    (folder / "page.jp2").write_bytes(LOSSLESS["JPEG 2000"][0])
    (folder / "drawing.ppm").write_bytes(LOSSLESS["PPM"][0])
    (folder / "DSC1.NEF").write_bytes(b"never read")
    (folder / "sensor.tif").write_bytes(b"II*\0\0\0\0\0CR\2\0")
    (folder / "layers.psd").write_bytes(b"8BPS")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (folder / "IMG_1.HEIC").write_bytes(samples.HEIC)
    table = tmp_path / "left_out.csv"
    assert index_folder(folder, tmp_path, "--left-out", str(table)) == 0
    out = capsys.readouterr().out
    assert out.startswith("3 added")
    assert (
        f"2 left out: {NO_RAW} ({folder}/DSC1.NEF, {folder}/sensor.tif). Run `pip "
        'install "align-keras[raw]"`.'
    ) in out
    assert (
        f"1 left out: {NO_HEIC} ({folder}/IMG_1.HEIC). Run `pip install "
        '"align-keras[heic]"`.'
    ) in out
    assert f"({folder}/layers.psd)" in out
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["path"], row["reason"]) for row in rows] == [
        (f"{folder}/DSC1.NEF", NO_RAW),
        (f"{folder}/IMG_1.HEIC", NO_HEIC),
        (f"{folder}/layers.psd", "format that is not read"),
        (f"{folder}/sensor.tif", NO_RAW),
    ]
    assert "align-keras[raw]" in rows[0]["detail"] and rows[2]["detail"] == ".psd"


def test_the_index_remembers_what_it_has_left_out(tmp_path, capsys):
    from align_keras.search import Index

    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "good.png").write_bytes(samples.encoded(RGB, "PNG"))
    (folder / "cut.png").write_bytes(samples.encoded(RGB, "PNG")[:60])
    (folder / "layers.psd").write_bytes(b"8BPS")
    assert index_folder(folder, tmp_path) == 0
    left_out = Index.open(tmp_path / "index").left_out()
    assert [(file.path, file.reason) for file in left_out] == [
        (f"{folder}/cut.png", "truncated"),
        (f"{folder}/layers.psd", "format that is not read"),
    ]
    assert left_out[0].detail and left_out[1].detail == ".psd"
    assert count_left_out(left_out)[1] == {
        "reason": "truncated",
        "count": 1,
        "examples": [{"path": f"{folder}/cut.png", "detail": left_out[0].detail}],
    }
    # The second run does not read the broken file, and reports the same.
    assert main(["index", "--index", str(tmp_path / "index")]) == 0
    assert Index.open(tmp_path / "index").left_out() == left_out
    (folder / "cut.png").write_bytes(samples.encoded(RGBA, "PNG"))
    (folder / "layers.psd").unlink()
    assert main(["index", "--index", str(tmp_path / "index")]) == 0
    assert Index.open(tmp_path / "index").left_out() == []
    capsys.readouterr()
    search = ["search", "--index", str(tmp_path / "index"), "--json"]
    assert main([*search, "--where", "width > 0"]) == 0
    (query,) = json.loads(capsys.readouterr().out)["queries"]
    assert len(query["hits"]) == 2
