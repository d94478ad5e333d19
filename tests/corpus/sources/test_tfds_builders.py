"""Tests of prepared data sets of TensorFlow Datasets."""

import io
import os
import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image

from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.sources import tfds_builders
from align_keras.corpus.sources.location import read_location
from align_keras.corpus.sources.source import open_source, read_part
from align_keras.utils.errors import InputError
from tests.helpers.source_case import SourceCase
from tests.helpers.source_reading import read_source

tfds = pytest.importorskip("tensorflow_datasets")


def png(number):
    file = io.BytesIO()
    pixels = np.full((4, 6, 3), number % 256, np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def prepare(folder, count, features, example):
    """Writes a data set with TFDS, in two files.

    Args:
        folder: path of the data set.
        count: int, number of examples.
        features: dict of the features other than the image.
        example: callable that takes the number of an example and returns the values of
            `features`.

    Returns:
        path of the data set.
    """
    image = tfds.features.Image(shape=(None, None, 3))
    writer = tfds.core.SequentialWriter(
        tfds.core.DatasetInfo(
            builder=tfds.core.DatasetIdentity(
                name="pairs", version=tfds.core.Version("1.0.0"),
                data_dir=str(folder), module_name="",
            ),
            features=tfds.features.FeaturesDict({"image": image, **features}),
        ),
        max_examples_per_shard=-(-count // 2),
    )  # fmt: skip
    writer.initialize_splits(["train"])
    rows = [
        {"image": io.BytesIO(png(number)), **example(number)} for number in range(count)
    ]
    writer.add_examples({"train": rows})
    writer.close_all()
    return folder


TEXT_FEATURES = {"caption": tfds.features.Text(), "language": tfds.features.Text()}


def text_values(number):
    return {"caption": f"Käse {number}", "language": "DE"}


class TestTFDS(SourceCase):
    kind = "tfds"
    pairs = [("Käse 0", "caption", "de"), ("Käse 1", "caption", "de")]
    images = [png(0), png(1)]

    def write(self, folder):
        prepare(folder, 2, TEXT_FEATURES, text_values)

    def spec(self, folder):
        return f"tfds:{folder}:train"

    # TensorFlow Datasets reads local folders, and reports damaged ones itself.
    test_the_kind_is_recognized = None
    test_an_object_store_has_the_same_pairs = None
    test_damaged_files_are_read_or_refused = None


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch):
    monkeypatch.setattr(tfds_builders, "_EXAMPLES_PER_PART", 10)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tfds") / "unusual #1, 木"
    path.mkdir()
    return prepare(path, 13, TEXT_FEATURES, text_values)


def test_images_are_copied_to_tar_files(folder, tmp_path):
    source = open_source(f"tfds:{folder}:train")
    assert [(part.start, part.stop) for part in source.parts()] == [
        (0, 10),
        (10, 13),
    ]
    pairs, counter = read_source(f"tfds:{folder}:train", tmp_path)
    assert [pair[1:4] for pair in pairs] == [
        (f"Käse {number}", "caption", "de") for number in range(13)
    ]
    for number in (0, 5, 12):
        assert read_location(pairs[number].image) == png(number)
    assert not counter.bad
    tars = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(tars) == 2
    with tarfile.open(tmp_path / max(tars)) as tar:
        contents = [tar.extractfile(member).read() for member in tar]
    assert contents == [read_location(pair.image) for pair in pairs[10:]]
    # Reading the parts again gives the same files.
    second_spool = tmp_path / "second"
    for part in reversed(source.parts()):
        list(read_part(part, DropCounter(), second_spool))
    assert {path.name: path.read_bytes() for path in second_spool.iterdir()} == tars


def test_an_example_can_have_several_captions(tmp_path):
    sequence = tfds.features.Sequence
    for captions, example in (
        ({"captions": sequence(tfds.features.Text())}, ["A", "B"]),
        ({"captions": sequence({"id": np.int64, "text": tfds.features.Text()})},
         [{"id": 1, "text": "A"}, {"id": 2, "text": "B"}]),
    ):  # fmt: skip
        folder = tmp_path / str(len(os.listdir(tmp_path)))
        folder.mkdir()
        prepare(folder, 2, captions, lambda _, values=example: {"captions": values})
        pairs, _ = read_source(f"tfds:{folder}:train", tmp_path / "spool")
        assert [pair.caption for pair in pairs] == ["A", "B", "A", "B"]
        assert pairs[0].image == pairs[1].image != pairs[2].image


def test_wrong_names_splits_and_features_raise_an_error(folder, tmp_path):
    with pytest.raises(InputError, match="test"):
        open_source(f"tfds:{folder}:test").parts()
    with pytest.raises(OSError, match="dataset_info.json"):
        open_source(f"tfds:{tmp_path}:train").parts()
    with pytest.raises(InputError, match="no_such_set"):
        open_source("tfds:no_such_set:train")
    labels = tmp_path / "labels"
    labels.mkdir()
    label = {"label": tfds.features.ClassLabel(num_classes=2)}
    prepare(labels, 2, label, lambda number: {"label": number})
    with pytest.raises(InputError, match="label"):
        open_source(f"tfds:{labels}:train").parts()


def test_damaged_and_removed_files_are_counted(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    parts = open_source(f"tfds:{copy}:train").parts()
    [first, second] = sorted(copy.glob("*tfrecord*"))
    content = bytearray(second.read_bytes())
    second.write_bytes(content[:-10])
    counter = DropCounter()
    assert list(read_part(parts[1], counter, tmp_path / "spool")) == []
    assert counter.bad == {"broken record": 3}
    first.unlink()
    assert list(read_part(parts[0], counter, tmp_path / "spool")) == []
    shutil.rmtree(copy)
    assert list(read_part(parts[1], counter, tmp_path / "spool")) == []
    assert counter.bad == {"broken record": 3, "vanished": 13}
