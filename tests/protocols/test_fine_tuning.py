"""Tests of the identity of fine-tuning data, and of the reuse of results."""

import io
import json
import shutil
from unittest import mock

import numpy as np
import pytest

from align_keras.config import load_recipe
from align_keras.datasets.benchmarks import LabeledImages, read_shard_classes
from align_keras.protocols import fine_tuning_protocols
from align_keras.protocols.protocol import Request
from align_keras.utils.errors import InputError
from tests.helpers.drawings import draw
from tests.helpers.public_benchmarks import write_class_shards


def test_changed_images_change_the_identity_of_the_data(tmp_path):
    def identity():
        request = Request(str(tmp_path))
        return fine_tuning_protocols.ClassificationData(request).identity("")

    for split in ("train", "test"):
        for label, name in enumerate("ab"):
            (tmp_path / split / name).mkdir(parents=True)
            draw(label, 0).save(tmp_path / split / name / "1.png")
    first = identity()
    assert identity() == first
    draw(0, 7).save(tmp_path / "train" / "a" / "1.png")
    changed = identity()
    assert changed[:3] != first[:3]
    assert changed[3:] == first[3:]
    draw(0, 7).save(tmp_path / "test" / "b" / "2.png")
    assert identity()[3:] != first[3:]


def test_a_folder_of_clip_benchmark_has_an_identity(tmp_path):
    """Writes the shards again with another training image."""

    def write(split, *seeds):
        images = [draw(label, seed) for label, seed in enumerate(seeds)]
        shutil.rmtree(tmp_path / split, ignore_errors=True)
        write_class_shards(tmp_path, images, [0, 1], ["a", "b"], ["{c}"], split=split)

    def identity():
        request = Request(str(tmp_path))
        return fine_tuning_protocols.ClassificationData(request).identity("")

    write("train", 0, 1)
    write("test", 2, 3)
    first = identity()
    assert identity() == first
    write("train", 0, 7)
    changed = identity()
    assert changed[:3] != first[:3]
    assert changed[3:] == first[3:]


@pytest.mark.ci
def test_damaged_images_of_shards_are_counted(tmp_path, capsys):
    images = [draw(label, 0) for label in range(2)]
    for split in ("train", "test"):
        write_class_shards(tmp_path, images, [0, 1], ["a", "b"], ["{c}"], split=split)
    [span, _] = read_shard_classes(tmp_path, "train").images.spans
    with open(span.path, "r+b") as file:
        file.seek(span.offset)
        file.write(b"no image")
    data = fine_tuning_protocols.ClassificationData(Request(str(tmp_path)))
    assert data.check() == 1
    assert "1 of 2 training images can't be decoded" in capsys.readouterr().err


def draw_png(label, seed):
    file = io.BytesIO()
    draw(label, seed).save(file, "png")
    return file.getvalue()


def draw_pixels(label, seed):
    return np.asarray(draw(label, seed))


@pytest.mark.parametrize("draw_image", [draw_png, draw_pixels])
def test_changed_images_in_memory_change_the_digest_of_the_data(draw_image):
    def digest(*seeds):
        images = [draw_image(label, seed) for label, seed in enumerate(seeds)]
        data = LabeledImages(images, np.arange(2), ["a", "b"])
        return fine_tuning_protocols.digest_of(data)

    assert digest(0, 1) == digest(0, 1)
    assert len({digest(0, 1), digest(0, 2), digest(1, 1)}) == 3


def test_the_identity_of_tfds_data_includes_version_and_split(monkeypatch):
    """Images of TFDS aren't hashed, and all labels are equal in this test."""

    def identity(name="food101:2.0.0", **options):
        request = Request(name, **options)
        data = fine_tuning_protocols.ClassificationData(request)
        stream = mock.MagicMock(__len__=lambda _: 2)
        images = LabeledImages(stream, np.arange(2), ["a", "b"])
        monkeypatch.setattr(data, "read", lambda task, split: images)
        return json.dumps(data.identity(""))

    monkeypatch.setattr(
        "align_keras.datasets.benchmarks.tfds_images.prepared_builder",
        lambda name: mock.Mock(info=mock.Mock(full_name=name.replace(":", "/"))),
    )
    assert identity() == identity()
    assert "food101/2.0.0" in identity()
    changed_identities = [
        identity("food101:3.0.0"),
        identity(train_split="train[:50%]"),
        identity(train_split="train[50%:]"),
        identity(split="validation[:9]"),
    ]
    assert len({identity(), *changed_identities}) == 5


def test_trials_run_again_for_another_version(tmp_path, monkeypatch):
    from align_keras.protocols import trials

    completed_runs = []

    def run(trial, scratch):
        completed_runs.append(trial)
        return {"ranks": [0]}

    monkeypatch.setattr(trials, "TrialRunner", lambda *_: run)
    one_trial = [trials.Trial("", "train", "test", load_recipe("fine_grained"), 0)]
    data = mock.Mock(identity=lambda task: "d")
    model = mock.Mock(image_fingerprint="m")
    request = Request(results=str(tmp_path))

    def finished():
        return trials.finished(one_trial, data, model, request)

    assert finished() == finished() == [{"ranks": [0]}]
    assert len(completed_runs) == 1
    monkeypatch.setattr(trials, "TRIALS_VERSION", 0)
    assert finished() == [{"ranks": [0]}]
    assert len(completed_runs) == 2


def test_vtab_lists_the_data_sets_to_prepare(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "tensorflow_datasets.core.constants.DATA_DIR", str(tmp_path / "tfds")
    )

    def check_error(*tasks):
        with pytest.raises(InputError, match="vtab needs .*vtab/dtd") as caught:
            fine_tuning_protocols.VtabData(Request("vtab")).check(tasks)
        return str(caught.value)

    # Two tasks use the data set dSprites.
    message = check_error(
        "dtd", "dsprites_label_orientation", "dsprites_label_x_position"
    )
    assert "2 of 2 data sets" in message
    assert "tfds build dtd dsprites," in message
    assert "by hand" not in message
    message = check_error("dtd", "resisc45", "svhn_cropped")
    assert "3 of 3" in message
    assert "First download the files of resisc45 by hand" in message
    # The message about a single data set has its folder, or the instructions of TFDS.
    assert str(tmp_path / "tfds") in check_error("dtd")
    assert "downloads/manual" in check_error("resisc45")
