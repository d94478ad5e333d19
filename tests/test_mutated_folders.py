"""Damaged files in folders of users raise a short error or are still readable.

The default tests are short. The release tests repeat each for about a minute.
"""

import json
import os
import shutil

import numpy as np
import pytest

from align_keras.config import experiments, load_config
from align_keras.search import Index
from tests.helpers.mutated import check_folder


def counts(few, many):
    """Returns a mark that sets `count`, the number of damaged copies, for each tier."""
    return pytest.mark.parametrize(
        "count", [few, pytest.param(many, marks=pytest.mark.release)]
    )


@counts(60, 10_000)
def test_damaged_configurations_raise_input_errors(tmp_path, count):
    path = tmp_path / "params.yaml"
    shutil.copy(experiments()["quickstart_icons"], path)
    num_read, num_refused = check_folder(
        tmp_path, [path.name], lambda: load_config(config_files=[path]), count
    )
    assert num_read and num_refused > count / 3


@counts(100, 10_000)
def test_damaged_indexes_raise_input_errors(tmp_path, count):
    folder = tmp_path / "index"
    embeddings = np.random.default_rng(0).normal(size=(5, 8))
    Index.from_embeddings(
        embeddings,
        ids=["a", "b", "c", "d", "e"],
        captions=[["a cat", "a red cat"]] * 5,
        images=[b"\x89PNG and more"] * 5,
        folder=folder,
    )

    def read():
        index = Index.open(folder)
        index.check()
        assert [hit.file for hit in index.query(embeddings[0], 3)]

    names = ["index.json", "vectors.0.f32", "images.sqlite"]
    num_read, num_refused = check_folder(folder, names, read, count)
    assert num_read and num_refused > count / 3


@pytest.mark.release
def test_damaged_presets_raise_input_errors(tmp_path):
    from align_keras.models import ALIGN
    from tests.helpers.small import small_align

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
    from align_keras.models import ALIGN
    from tests.helpers.align_folders import tiny_align

    folder = tmp_path / "align"
    shutil.copytree(tiny_align(), folder)
    config = {"do_lower_case": True, "tokenize_chinese_chars": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    names = sorted(os.listdir(folder))
    outcomes = check_folder(folder, names, lambda: ALIGN.from_preset(folder), 300)
    assert min(outcomes) > 20
