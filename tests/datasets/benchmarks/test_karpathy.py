"""Tests of the reader of Karpathy's splits."""

import pathlib

import pytest

from align_keras.datasets.benchmarks import read_karpathy
from align_keras.utils.errors import InputError
from tests.helpers.small_benchmarks import (
    captions_of,
    coco_name,
    karpathy_image,
    write_coco,
    write_flickr30k,
    write_json,
)


def test_a_split_of_flickr30k_is_read(tmp_path):
    write_flickr30k(tmp_path)
    data = read_karpathy(
        tmp_path / "dataset_flickr30k.json", tmp_path / "images", "test"
    )
    assert len(data) == 8
    assert data.images[3] == str(tmp_path / "images" / "1003.jpg")
    assert all(pathlib.Path(image).is_file() for image in data.images)
    assert data.captions[3] == captions_of(3, 5)
    assert data.image_ids[3] == "1003.jpg"
    assert data.caption_ids[3] == ["300", "301", "302", "303", "304"]


def test_the_first_five_captions_of_coco_are_read(tmp_path):
    write_coco(tmp_path)
    data = read_karpathy(tmp_path / "dataset_coco.json", tmp_path, "test")
    assert data.images[2] == str(tmp_path / "val2014" / coco_name(2))
    assert list(map(len, data.captions)) == [5] * 6
    assert data.captions[2] == captions_of(2, 7)[:5]
    assert data.caption_ids[2] == ["200", "201", "202", "203", "204"]


def test_all_captions_are_read_on_request(tmp_path):
    write_coco(tmp_path)
    data = read_karpathy(
        tmp_path / "dataset_coco.json", tmp_path, "test", captions_per_image=None
    )
    assert list(map(len, data.captions)) == [5, 6, 7, 5, 6, 7]
    assert data.captions[2] == captions_of(2, 7)


def test_the_error_for_an_unknown_split_lists_the_splits(tmp_path):
    write_coco(tmp_path)
    with pytest.raises(InputError, match="restval"):
        read_karpathy(tmp_path / "dataset_coco.json", tmp_path, "val")


def test_missing_images_are_counted_and_named(tmp_path, capsys):
    write_flickr30k(tmp_path)
    arguments = (tmp_path / "dataset_flickr30k.json", tmp_path / "images", "test")
    for row in (1, 4):
        (tmp_path / "images" / f"{1000 + row}.jpg").unlink()
    with pytest.raises(InputError, match="1001.jpg"):
        read_karpathy(*arguments)
    data = read_karpathy(*arguments, allow_missing=True)
    assert data.image_ids == [f"{1000 + row}.jpg" for row in (0, 2, 3, 5, 6, 7)]
    assert data.captions[1] == captions_of(2, 5)
    assert data.caption_ids[1][0] == "200"
    assert "2 of 8 images" in capsys.readouterr().err


def test_a_folder_without_any_image_raises(tmp_path):
    write_flickr30k(tmp_path)
    arguments = (tmp_path / "dataset_flickr30k.json", tmp_path / "elsewhere", "test")
    with pytest.raises(InputError, match="8 of 8"):
        read_karpathy(*arguments, allow_missing=True)


def karpathy_entries(dataset, images, captions):
    """Returns entries of a test split with these numbers of images and captions."""
    extra = captions - 5 * images
    image_name = coco_name if dataset == "coco" else "{}.jpg".format
    return [
        karpathy_image(row, image_name(row), "test", captions=5 + (row < extra))
        for row in range(images)
    ]


@pytest.mark.parametrize(
    ("dataset", "images", "captions", "is_valid"),
    [
        ("flickr30k", 1000, 5000, True),
        ("flickr30k", 1014, 5070, False),
        ("coco", 1000, 5000, False),
        ("another", 3, 15, True),
    ],
)
def test_the_test_splits_of_the_paper_have_fixed_counts(
    tmp_path, dataset, images, captions, is_valid
):
    path = tmp_path / "dataset.json"
    write_json(path, karpathy_entries(dataset, images, captions), dataset)
    (tmp_path / "0.jpg").touch()
    (tmp_path / coco_name(0)).touch()

    def read():
        return read_karpathy(path, tmp_path, "test", allow_missing=True)

    if is_valid:
        assert len(read()) == 1
        return
    with pytest.raises(InputError, match=f"{images:,}"):
        read()


# The second file is the format of COCO's own annotations.
@pytest.mark.parametrize("content", ["{", '{"images": [{"file_name": "a.jpg"}]}'])
def test_another_format_raises(tmp_path, content):
    path = tmp_path / "dataset.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"dataset\.json"):
        read_karpathy(path, tmp_path, "test")
