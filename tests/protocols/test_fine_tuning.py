"""Which results of trials are taken again, and which pictures are other pictures."""

import io
import json
from unittest import mock

import numpy as np
import pytest

from align_keras.config import load_recipe
from align_keras.datasets.benchmarks import LabeledImages
from align_keras.protocols import fine_tuning_protocols, trials
from align_keras.protocols.protocol import Request
from align_keras.utils.errors import InputError
from tests.helpers.drawings import draw


def test_other_pictures_are_other_data(tmp_path):
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
    assert changed[:3] != first[:3] and changed[3:] == first[3:]
    draw(0, 7).save(tmp_path / "test" / "b" / "2.png")
    assert identity()[3:] != first[3:]


def as_bytes(label, seed):
    file = io.BytesIO()
    draw(label, seed).save(file, "png")
    return file.getvalue()


@pytest.mark.parametrize("form", [as_bytes, lambda *own: np.asarray(draw(*own))])
def test_other_pictures_in_memory_are_other_data(form):
    def digest(*seeds):
        images = [form(label, seed) for label, seed in enumerate(seeds)]
        data = LabeledImages(images, np.arange(2), ["a", "b"])
        return fine_tuning_protocols.digest_of(data)

    assert digest(0, 1) == digest(0, 1)
    assert len({digest(0, 1), digest(0, 2), digest(1, 1)}) == 3


def test_another_version_or_split_of_a_tfds_set_is_other_data(monkeypatch):
    """Where all labels are the same: the pictures aren't hashed."""

    def identity(name="food101:2.0.0", **options):
        request = Request(name, **options)
        data = fine_tuning_protocols.ClassificationData(request)
        stream = mock.MagicMock(__len__=lambda _: 2)
        images = LabeledImages(stream, np.arange(2), ["a", "b"])
        monkeypatch.setattr(data, "read", lambda task, split: images)
        return json.dumps(data.identity(""))

    monkeypatch.setattr(
        "align_keras.datasets.benchmarks.labeled_images.prepared_builder",
        lambda name: mock.Mock(info=mock.Mock(full_name=name.replace(":", "/"))),
    )
    assert identity() == identity()
    assert "food101/2.0.0" in identity()
    others = [
        identity("food101:3.0.0"),
        identity(train_split="train[:50%]"),
        identity(train_split="train[50%:]"),
        identity(split="validation[:9]"),
    ]
    assert len({identity(), *others}) == 5


def test_results_of_another_version_are_trained_anew(tmp_path, monkeypatch):
    ran = []

    def run(trial, scratch):
        ran.append(trial)
        return {"ranks": [0]}

    monkeypatch.setattr(trials, "TrialRunner", lambda *_: run)
    chosen = [trials.Trial("", "train", "test", load_recipe("fine_grained"), 0)]
    data = mock.Mock(identity=lambda task: "d")
    model, request = mock.Mock(image_fingerprint="m"), Request(results=str(tmp_path))

    def finished():
        return trials.finished(chosen, data, model, request)

    assert finished() == finished() == [{"ranks": [0]}] and len(ran) == 1
    monkeypatch.setattr(trials, "TRIALS_VERSION", 0)
    assert finished() == [{"ranks": [0]}] and len(ran) == 2


def test_vtab_names_what_is_to_be_prepared(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "tensorflow_datasets.core.constants.DATA_DIR", str(tmp_path / "tfds")
    )

    def told(*tasks):
        with pytest.raises(InputError, match="vtab needs .*vtab/dtd") as caught:
            fine_tuning_protocols.VtabData(Request("vtab")).check(tasks)
        return str(caught.value)

    # dSprites is two tasks and one set.
    message = told("dtd", "dsprites_label_orientation", "dsprites_label_x_position")
    assert "2 of 2 data sets" in message and "tfds build dtd dsprites," in message
    assert "by hand" not in message
    message = told("dtd", "resisc45", "svhn_cropped")
    assert "3 of 3" in message and "the files of resisc45 must be" in message
    # One alone: where it is missing, and where TFDS says to get its files.
    assert str(tmp_path / "tfds") in told("dtd")
    assert "downloads/manual" in told("resisc45")
