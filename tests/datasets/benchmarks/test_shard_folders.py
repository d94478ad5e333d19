"""Folders of CLIP_benchmark with tar shards."""

import io
import tarfile

import pytest
from PIL import Image

from align_keras.datasets.benchmarks import (
    is_shard_folder,
    read_shard_captions,
    read_shard_classes,
    read_templates,
    shard_templates,
)
from align_keras.utils.errors import InputError
from tests.helpers.public_benchmarks import write_class_shards, write_shards

IMAGES = [Image.new("RGB", (9, 7), (30 * row, 0, 255)) for row in range(7)]
CAPTIONS = [[f"image {row}", f"the {row}th: ÄÖ"] for row in range(7)]


@pytest.fixture
def captions(tmp_path):
    write_shards(tmp_path, IMAGES, CAPTIONS, shards=3)
    return tmp_path


@pytest.fixture
def classes(tmp_path):
    labels = [0, 1, 2, 0, 1, 2, 0]
    templates = ["a {c}.", "the {c}"]
    write_class_shards(tmp_path, IMAGES, labels, ["cat", "red_fox", "owl"], templates)
    return tmp_path


def test_captions_and_images_are_read_in_their_order(captions):
    assert is_shard_folder(captions) and not is_shard_folder(captions / "test")
    data = read_shard_captions(captions)
    assert data.captions == CAPTIONS
    assert data.image_ids == [f"s{row:07d}" for row in range(7)]
    assert len(data) == len(data.images) == 7
    sizes = [Image.open(io.BytesIO(content)).size for content in data.images]
    assert sizes == [(9, 7)] * 7
    formats = [Image.open(io.BytesIO(content)).format for content in data.images]
    assert formats[:3] == ["WEBP", "PNG", "JPEG"]
    part = data.select_rows([1, 4])
    assert part.missing == 5 and part.captions == [CAPTIONS[1], CAPTIONS[4]]
    assert list(part.images) == [data.images[1], data.images[4]]


def test_classes_and_prompts_are_read_unchanged(classes):
    data = read_shard_classes(classes)
    assert data.labels.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert data.class_names == ["cat", "red_fox", "owl"]
    assert len(list(data.images)) == 7
    assert read_templates(shard_templates(classes)) == ["a {}.", "the {}"]


@pytest.mark.parametrize("data_type", ["multilabel", "classification"])
def test_the_type_of_the_data_must_fit_the_protocol(captions, data_type):
    with pytest.raises(InputError, match="retrieval"):
        read_shard_classes(captions)
    (captions / "dataset_type.txt").write_text(f"{data_type}\n")
    with pytest.raises(InputError, match=data_type):
        read_shard_captions(captions)


def test_an_unknown_split_is_refused(captions):
    with pytest.raises(InputError, match="split"):
        read_shard_captions(captions, "val")


def test_a_missing_or_damaged_shard_is_refused(captions):
    shard = captions / "test" / "1.tar"
    shard.write_bytes(shard.read_bytes()[:700])
    with pytest.raises(InputError, match="1.tar"):
        read_shard_captions(captions)
    shard.unlink()
    with pytest.raises(InputError, match="1.tar"):
        read_shard_captions(captions)


def test_a_sample_without_its_label_is_refused(classes):
    with tarfile.open(classes / "test" / "1.tar", "a") as tar:
        tar.addfile(tarfile.TarInfo("x.png"), io.BytesIO())
    with pytest.raises(InputError, match="x with png"):
        read_shard_classes(classes)
