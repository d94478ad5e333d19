"""Damaged files of a preset raise a short error or are still readable."""

import json
import os
import shutil

import pytest

from align_keras.models import ALIGN
from tests.helpers.align_folders import tiny_align
from tests.helpers.mutated import check_folder
from tests.helpers.small import small_align


@pytest.mark.release
def test_damaged_presets_raise_input_errors(tmp_path):
    small_align().save_to_preset(tmp_path)
    names = [
        "config.json",
        "task.json",
        "preprocessor.json",
        "tokenizer.json",
        "image_converter.json",
        "model.weights.h5",
        "assets/tokenizer/vocabulary.txt",
    ]
    num_read, num_refused = check_folder(
        tmp_path, names, lambda: ALIGN.from_preset(tmp_path), 200
    )
    # Digests of the weights and the vocabulary detect nearly all damage.
    assert num_read and num_refused > 150


@pytest.mark.release
def test_damaged_hugging_face_models_raise_input_errors(tmp_path):
    folder = tmp_path / "align"
    shutil.copytree(tiny_align(), folder)
    config = {"do_lower_case": True, "tokenize_chinese_chars": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    names = sorted(os.listdir(folder))
    outcomes = check_folder(folder, names, lambda: ALIGN.from_preset(folder), 300)
    assert min(outcomes) > 20
