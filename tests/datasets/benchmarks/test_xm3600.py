"""Crossmodal-3600 in the layout of its publishers."""

import pytest
from PIL import Image

from align_keras.datasets.benchmarks import read_xm3600
from align_keras.utils.errors import InputError
from tests.helpers.public_benchmarks import write_xm3600

IMAGES = [Image.new("RGB", (8, 8), (60 * row, 0, 0)) for row in range(4)]
CAPTIONS = {
    "de": [["ein Bild"], ["zwei", "noch  eines"], ["drei"], ["vier"]],
    "zh": [["一"], ["二"], ["三\u2028三"], []],
}


@pytest.fixture
def folder(tmp_path):
    write_xm3600(tmp_path, IMAGES, CAPTIONS)
    return tmp_path


def test_all_captions_of_each_language_are_read(folder):
    data = read_xm3600(folder, check_counts=False)
    assert data.captions["de"][1] == ["zwei", "noch eines"]
    assert data.captions["zh"] == [["一"], ["二"], ["三 三"], []]
    assert data.columns["locale"] == ["de", "zh", "de", "zh"]
    assert data.images[2] == str(folder / "images" / "0000000000000002.jpg")


def test_the_complete_set_is_required_by_default(folder):
    with pytest.raises(InputError, match="must have 3,600 images. Received: 4 images"):
        read_xm3600(folder)


def test_a_missing_image_is_refused_or_left_out(folder):
    (folder / "images" / "0000000000000001.jpg").unlink()
    with pytest.raises(InputError, match="1 of 4 images of XM3600 are missing"):
        read_xm3600(folder, check_counts=False)
    data = read_xm3600(folder, allow_missing=True, check_counts=False)
    assert data.missing == 1 and data.captions["de"] == [
        ["ein Bild"],
        ["drei"],
        ["vier"],
    ]


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        '{"image/key": "a"}',
        '{"image/key": "../a", "de": {"caption": ["x"]}}',
        '{"image/key": "a", "de": {"caption": "x"}}',
        '{"de": {"caption": ["x"]}}',
    ],
)
def test_a_damaged_line_is_named(folder, line):
    path = folder / "captions.jsonl"
    path.write_text(path.read_text("utf-8") + line + "\n", "utf-8")
    with pytest.raises(InputError, match="line 5 must be an object"):
        read_xm3600(folder, check_counts=False)
