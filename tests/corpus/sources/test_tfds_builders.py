"""Data sets of TensorFlow Datasets, prepared here."""

import io
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from align_keras.corpus.drop_counter import DropCounter
from align_keras.corpus.sources import open_source, read_location, read_part
from align_keras.utils.errors import InputError
from tests.helpers.source_reading import read_source

tfds = pytest.importorskip("tensorflow_datasets")


def png(number):
    file = io.BytesIO()
    pixels = np.full((4, 6, 3), number % 256, np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def prepare(folder, count, captions, example):
    """Writes a data set of `count` examples by TFDS itself, in two files."""
    features = {"image": tfds.features.Image(shape=(None, None, 3)), **captions}
    writer = tfds.core.SequentialWriter(
        tfds.core.DatasetInfo(
            builder=tfds.core.DatasetIdentity(
                name="pairs", version=tfds.core.Version("1.0.0"),
                data_dir=str(folder), module_name="",
            ),
            features=tfds.features.FeaturesDict(features),
        ),
        max_examples_per_shard=-(-count // 2),
    )  # fmt: skip
    writer.initialize_splits(["train"])
    rows = [{"image": io.BytesIO(png(own)), **example(own)} for own in range(count)]
    writer.add_examples({"train": rows})
    writer.close_all()
    return folder


TEXT = {"caption": tfds.features.Text(), "language": tfds.features.Text()}


def text(number):
    return {"caption": f"Käse {number}", "language": "DE"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("tfds") / "strange #1, 木"
    place.mkdir()
    return prepare(place, 1003, TEXT, text)


@pytest.mark.ci
def test_pictures_are_copied_as_they_are_stored(folder, tmp_path):
    source = open_source(f"tfds:{folder}:train")
    assert [(own.start, own.stop) for own in source.parts()] == [
        (0, 1000),
        (1000, 1003),
    ]
    pairs, counter = read_source(f"tfds:{folder}:train", tmp_path)
    assert [pair[1:4] for pair in pairs] == [
        (f"Käse {own}", "caption", "de") for own in range(1003)
    ]
    for own in (0, 511, 1002):
        assert read_location(pairs[own].image) == png(own)
    assert not counter.bad
    stored = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(stored) == 2
    again = tmp_path / "again"
    for part in reversed(source.parts()):
        list(read_part(part, DropCounter(), again))
    assert {path.name: path.read_bytes() for path in again.iterdir()} == stored
    import tarfile

    with tarfile.open(tmp_path / max(stored)) as tar:
        contents = [tar.extractfile(own).read() for own in tar]
    assert contents == [read_location(pair.image) for pair in pairs[1000:]]


def test_several_captions_in_several_forms(tmp_path):
    sequence = tfds.features.Sequence
    for captions, example in (
        ({"captions": sequence(tfds.features.Text())}, ["A", "B"]),
        ({"captions": sequence({"id": np.int64, "text": tfds.features.Text()})},
         [{"id": 1, "text": "A"}, {"id": 2, "text": "B"}]),
    ):  # fmt: skip
        place = tmp_path / str(len(os.listdir(tmp_path)))
        place.mkdir()
        prepare(place, 2, captions, lambda own, e=example: {"captions": e})
        pairs, _ = read_source(f"tfds:{place}:train", tmp_path / "spool")
        assert [pair.caption for pair in pairs] == ["A", "B", "A", "B"]
        assert pairs[0].image == pairs[1].image != pairs[2].image


def test_what_is_asked_wrongly(folder, tmp_path):
    with pytest.raises(InputError, match="must be one of train. Received: 'test'"):
        open_source(f"tfds:{folder}:test").parts()
    with pytest.raises(InputError, match="features.json"):
        open_source(f"tfds:{tmp_path}:train").parts()
    with pytest.raises(InputError, match="no_such_set"):
        open_source("tfds:no_such_set:train")
    part = open_source(f"tfds:{folder}:train").parts()[1]
    with pytest.raises(InputError, match="spool"):
        list(read_part(part, DropCounter()))
    place = tmp_path / "labels"
    place.mkdir()
    label = {"label": tfds.features.ClassLabel(num_classes=2)}
    prepare(place, 2, label, lambda own: {"label": own})
    with pytest.raises(InputError, match="received image, label"):
        open_source(f"tfds:{place}:train").parts()


def test_files_that_vanish_or_break(folder, tmp_path):
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
    assert counter.bad == {"broken record": 3, "vanished": 1003}
