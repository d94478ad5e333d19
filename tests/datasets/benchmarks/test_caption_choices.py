"""SugarCrepe and Winoground in the layouts of their publishers."""

import io

import pytest
from PIL import Image

from align_keras.datasets.benchmarks import read_sugar_crepe, read_winoground
from align_keras.utils.errors import InputError
from tests.helpers.oracle_process import needs
from tests.helpers.public_benchmarks import (
    write_sugar_crepe,
    write_winoground,
    write_winoground_parquet,
)

IMAGES = [Image.new("RGB", (8, 8), (60 * row, 0, 0)) for row in range(4)]
PAIRS = {
    "add_obj": [(0, "a cat", "a cat and a dog"), (0, "one cat", "one cat, one dog")],
    "swap_att": [(2, "a red cat", "a cat red")],
}
EXAMPLES = [
    ((IMAGES[0], IMAGES[1]), ("a cat on a mat", "a mat on a cat"), "Object"),
    ((IMAGES[2], IMAGES[3]), ("more red than blue", "more blue than red"), "Relation"),
]


def test_categories_of_sugar_crepe_are_read(tmp_path):
    write_sugar_crepe(tmp_path / "data", tmp_path / "val2017", IMAGES, PAIRS)
    data = read_sugar_crepe(tmp_path, tmp_path / "val2017", check_counts=False)
    assert data.captions == ["a cat", "one cat", "a red cat"]
    assert data.negative_captions == [
        "a cat and a dog",
        "one cat, one dog",
        "a cat red",
    ]
    assert data.columns["category"] == ["add_obj", "add_obj", "swap_att"]
    assert data.images[2] == str(tmp_path / "val2017" / "000000000002.jpg")
    (tmp_path / "val2017" / "000000000002.jpg").unlink()
    with pytest.raises(InputError, match="1 of 3 images of SugarCrepe are missing"):
        read_sugar_crepe(tmp_path, tmp_path / "val2017", check_counts=False)
    data = read_sugar_crepe(tmp_path, tmp_path / "val2017", True, check_counts=False)
    assert data.captions == ["a cat", "one cat"]


def test_an_incomplete_sugar_crepe_is_refused(tmp_path):
    write_sugar_crepe(tmp_path, tmp_path / "val2017", IMAGES, PAIRS)
    with pytest.raises(InputError, match="add_obj.json must have 2,062 entries"):
        read_sugar_crepe(tmp_path, tmp_path / "val2017")
    with pytest.raises(InputError, match="such as add_obj.json. Received: no such"):
        read_sugar_crepe(tmp_path / "val2017", tmp_path, check_counts=False)
    for content in ("[", '{"0": {"filename": "a.jpg"}}', '{"0": 3}'):
        (tmp_path / "add_obj.json").write_text(content)
        with pytest.raises(InputError, match="add_obj.json must contain an object"):
            read_sugar_crepe(tmp_path, tmp_path / "val2017", check_counts=False)


def red_levels(images):
    return [
        Image.open(io.BytesIO(image) if isinstance(image, bytes) else image).getpixel(
            (0, 0)
        )[0]
        for image in images
    ]


@pytest.mark.parametrize(
    "layout",
    [
        "zip",
        "folder",
        pytest.param("parquet", marks=[pytest.mark.ci, needs("pyarrow")]),
    ],
)
def test_examples_of_winoground_are_read(tmp_path, layout):
    if layout == "parquet":
        write_winoground_parquet(tmp_path, EXAMPLES)
    else:
        write_winoground(tmp_path, EXAMPLES, packed=layout == "zip")
    data = read_winoground(tmp_path, check_counts=False)
    assert red_levels(data.images) == [0, 60, 120, 180]
    assert data.captions[2:] == ["more red than blue", "more blue than red"]
    assert data.columns["collapsed_tag"] == ["Object", "Relation"]
    assert data.image_ids == ["0", "1"]
    with pytest.raises(InputError, match="must have 400 examples. Received: 2"):
        read_winoground(tmp_path)


def test_a_damaged_winoground_is_refused(tmp_path):
    write_winoground(tmp_path, EXAMPLES)
    path = tmp_path / "data" / "examples.jsonl"
    content = path.read_text()
    path.write_text(content.replace("ex_1_img_1", "ex_9_img_1"))
    with pytest.raises(InputError, match="line 2 must name two captions"):
        read_winoground(tmp_path, check_counts=False)
    path.write_text(content + "{\n")
    with pytest.raises(InputError, match="line 3 must name two captions"):
        read_winoground(tmp_path, check_counts=False)
    path.write_text(content)
    archive = tmp_path / "data" / "images.zip"
    archive.write_bytes(b"no archive")
    with pytest.raises(InputError, match="images.zip must be a ZIP file"):
        read_winoground(tmp_path, check_counts=False)
    archive.unlink()
    with pytest.raises(InputError, match="must contain images/ or images.zip"):
        read_winoground(tmp_path, check_counts=False)
    path.unlink()
    with pytest.raises(InputError, match="examples.jsonl"):
        read_winoground(tmp_path, check_counts=False)
