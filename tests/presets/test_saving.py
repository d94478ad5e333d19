"""Presets that are saved into the folder of an earlier model."""

import pytest

from align_keras.embedders.locations import locate_model
from align_keras.models import ALIGN
from align_keras.utils.errors import InputError
from tests.helpers.small import small_align

TOWERS = ("image.tflite", "text.tflite", "image.onnx", "text.onnx")


@pytest.mark.parametrize("part", ["task", "backbone"])
def test_a_preset_replaces_the_towers_of_an_earlier_model(tmp_path, part):
    model = small_align()
    for name in TOWERS:
        (tmp_path / name).write_bytes(b"the earlier model")
    saved = model if part == "task" else model.backbone
    saved.save_to_preset(tmp_path)
    assert locate_model(tmp_path).runtimes == ("keras",)
    assert not [name for name in TOWERS if (tmp_path / name).exists()]


@pytest.mark.parametrize("name", ["saved_model.pb", "align/1/saved_model.pb"])
def test_a_folder_with_a_saved_model_is_refused(tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"the earlier model")
    model = small_align()
    for saved in (model, model.backbone):
        with pytest.raises(InputError, match="a SavedModel, because"):
            saved.save_to_preset(tmp_path)
    assert not (tmp_path / "config.json").exists()


@pytest.mark.ci
def test_a_preset_without_a_tokenizer_does_not_adopt_an_earlier_one(tmp_path):
    model = small_align()
    model.save_to_preset(tmp_path)
    assert ALIGN.from_preset(tmp_path).vocabulary == model.vocabulary
    ALIGN(model.backbone).save_to_preset(tmp_path)
    assert ALIGN.from_preset(tmp_path).vocabulary is None
    model.save_to_preset(tmp_path)
    ALIGN.from_encoders(
        model.image_encoder, model.text_encoder, vocabulary=None
    ).save_to_preset(tmp_path)
    assert ALIGN.from_preset(tmp_path).vocabulary is None
    assert not (tmp_path / "tokenizer.json").exists()
