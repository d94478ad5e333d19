"""Tests of the reader of classification data sets of TFDS."""

import io
from unittest import mock

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from align_keras.datasets.benchmarks.class_names import imagenet_ids, rename_classes
from align_keras.datasets.benchmarks.labeled_images import only_occurring_classes
from align_keras.datasets.benchmarks.tfds_images import (
    prepared_builder,
    read_tfds_classification,
)
from align_keras.utils.errors import InputError
from tests.helpers.small_benchmarks import imagenet_examples, jpeg, prepare

R_IDS = ["n01443537", "n07697537", "n01443537", "n02007558"]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    prepare("imagenet_r", folder, {"test": imagenet_examples(R_IDS)})
    pets = [
        {
            "image": io.BytesIO(jpeg(row)),
            "label": breed,
            "species": species,
            "file_name": f"{row}.jpg",
            "segmentation_mask": np.zeros((4, 6, 1), np.uint8),
            "head_bbox": tfds.features.BBox(0.0, 0.0, 1.0, 1.0),
        }
        for row, (breed, species) in enumerate(
            [("yorkshire_terrier", "Dog"), ("Abyssinian", "Cat"), ("beagle", "Dog")]
        )
    ]
    prepare("oxford_iiit_pet", folder, {"train": pets, "test": pets[:1]})
    return folder


def read_from(name, split, folder):
    with mock.patch("tensorflow_datasets.core.constants.DATA_DIR", str(folder)):
        return read_tfds_classification(name, split)


def open_from(name, folder):
    with mock.patch("tensorflow_datasets.core.constants.DATA_DIR", str(folder)):
        return prepared_builder(name)


def test_imagenet_r_has_the_labels_of_imagenet_and_few_of_them_occur(data_dir):
    data = read_from("imagenet_r", "test", data_dir)
    assert data.class_names == imagenet_ids() and len(data.class_names) == 1000
    class_names = sorted(data.class_names[label] for label in data.labels)
    assert class_names == sorted(R_IDS)
    # The names of CLIP are in the order of the ids.
    names = [f"name {row}" for row in range(1000)]
    fewer = only_occurring_classes(rename_classes(data, names))
    assert fewer.class_names == [
        f"name {imagenet_ids().index(class_id)}" for class_id in sorted(set(R_IDS))
    ]
    assert fewer.labels.tolist() == [
        sorted(set(R_IDS)).index(data.class_names[label]) for label in data.labels
    ]


def test_images_are_encoded_in_the_order_of_the_labels_each_time(data_dir):
    data = read_from("imagenet_r", "test", data_dir)
    assert len(data.images) == 4
    for _ in range(2):
        for image, label in zip(data.images, data.labels, strict=True):
            assert isinstance(image, bytes)
            # The red value of an image is about 60 times its row. JPEG rounds it.
            red = np.asarray(Image.open(io.BytesIO(image)))[0, 0, 0]
            assert R_IDS[round(red / 60)] == data.class_names[label]


def test_ids_are_file_names_if_they_are_distinct(data_dir, tmp_path):
    data = read_from("imagenet_r", "test", data_dir)
    for image_id, label in zip(data.image_ids, data.labels, strict=True):
        row = int(image_id.removesuffix(".jpg"))
        assert data.class_names[label] == R_IDS[row]
    same_name = [
        example | {"file_name": "1.jpg"} for example in imagenet_examples(R_IDS)
    ]
    prepare("imagenet_r", tmp_path, {"test": same_name})
    assert read_from("imagenet_r", "test", tmp_path).image_ids is None


def test_other_named_values_are_columns_and_names_are_readable(data_dir):
    data = read_from("oxford_iiit_pet", "train", data_dir)
    breeds = [data.class_names[label] for label in data.labels]
    species = dict(zip(breeds, data.columns["species"], strict=True))
    assert species["yorkshire terrier"] == "Dog" and species["Abyssinian"] == "Cat"
    part = read_from("oxford_iiit_pet", "train[:2]", data_dir)
    assert len(part.images) == len(part.labels) == 2


def test_a_registered_data_set_is_read(tmp_path):
    """TFDS generates random examples instead of the real ones."""
    name = "cifar100"
    builder = tfds.builder(name, data_dir=tmp_path)
    builder.info.set_splits(
        tfds.core.splits.SplitDict(
            [
                tfds.core.SplitInfo(
                    name="test",
                    shard_lengths=[3],
                    num_bytes=0,
                    filename_template=tfds.core.ShardedFileTemplate(
                        data_dir=builder.data_path,
                        dataset_name=builder.name,
                        split="test",
                        filetype_suffix="tfrecord",
                    ),
                )
            ]
        )
    )
    builder.data_path.mkdir(parents=True)
    builder.info.write_to_directory(builder.data_path)
    with tfds.testing.mock_data(num_examples=3, data_dir=str(tmp_path)):
        data = read_from(name, "test", tmp_path)
        images = list(data.images)
    assert len(data.labels) == len(images) == 3
    assert data.image_ids is None or len(data.image_ids) == 3
    assert data.labels.max() < len(data.class_names)
    assert all(Image.open(io.BytesIO(image)).size for image in images)


def test_the_message_on_unprepared_data_has_the_command(tmp_path):
    with pytest.raises(InputError, match="tfds build imagenet_v2/topimages"):
        open_from("imagenet_v2/topimages", tmp_path)
    with pytest.raises(InputError, match="by hand"):
        open_from("imagenet2012", tmp_path)


@pytest.mark.parametrize("name", ["nothing", "../x", "huggingface:mnist"])
def test_unknown_names_raise(tmp_path, name):
    with pytest.raises(InputError, match="--data"):
        open_from(name, tmp_path)


def test_unknown_configurations_raise(tmp_path):
    with pytest.raises(InputError, match="matched-frequency"):
        open_from("imagenet_v2/best", tmp_path)


@pytest.mark.parametrize("split", ["train", "test["])
def test_unknown_splits_raise(data_dir, split):
    with pytest.raises(InputError, match="split"):
        read_from("imagenet_r", split, data_dir)


def test_data_sets_without_a_class_raise(tmp_path):
    builder = tfds.builder("coco_captions", data_dir=tmp_path)
    builder.data_path.mkdir(parents=True)
    with pytest.raises(InputError, match="coco_captions"):
        read_from("coco_captions", "test", tmp_path)


def test_unlabeled_splits_raise(tmp_path):
    examples = imagenet_examples([-1, -1])
    prepare("imagenet_r", tmp_path, {"test": examples})
    with pytest.raises(InputError, match="without a class"):
        read_from("imagenet_r", "test", tmp_path)
