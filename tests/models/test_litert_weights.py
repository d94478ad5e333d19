"""Tests of presets whose kernels are in LiteRT files."""

import json
import shutil

import keras
import numpy as np
import pytest

from align_keras.config import load_config
from align_keras.models import ALIGN
from align_keras.presets.layout import REST_FILE, TABLE_FILE, TOWER_FILES
from align_keras.runs.model_from_config import build_model
from align_keras.training.interpolation import interpolate_weights, read_weights
from align_keras.utils.errors import InputError
from tests.helpers.drawn_align import calibrated_align, drawn_images
from tests.helpers.small import VOCABULARY
from tools.make_small_model import (
    fold_batch_norms,
    interpolate_encoder,
    save_with_towers,
)

SMALL_MODEL = {
    "task.model.preset": "align_nano",
    "task.model.image_encoder.num_stages": 1,
    "task.model.text_encoder.vocabulary_size": len(VOCABULARY),
}


def test_the_encoder_is_interpolated_without_its_projection():
    config = load_config(params_override=SMALL_MODEL).task.model
    keras.utils.set_random_seed(1)
    model = build_model(config, VOCABULARY)
    initial = read_weights(model)
    changed = {path: weights + 1.0 for path, weights in initial.items()}
    interpolate_weights(model, initial, changed, 1.0)
    # The same seed gives the same initial weights.
    keras.utils.set_random_seed(1)
    interpolate_encoder(model, config, 0.75)
    for path, weights in read_weights(model).items():
        is_encoder = path.startswith("image_encoder/") and "projection" not in path
        expected = initial[path] + (0.75 if is_encoder else 1.0)
        np.testing.assert_allclose(weights, expected, rtol=1e-5, atol=1e-5)


def test_folding_batch_norms_does_not_change_the_outputs():
    align = calibrated_align(True)
    images = drawn_images(range(4))
    expected = np.asarray(align.image_encoder(images))
    norms = [w for w in align.image_encoder.weights if w.path.endswith("moving_mean")]
    before = [np.asarray(norm) for norm in norms]
    fold_batch_norms(align.image_encoder)
    actual = np.asarray(align.image_encoder(images))
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-4)
    assert not any(np.any(np.asarray(norm)) for norm in norms)
    assert all(np.any(mean) for mean in before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Returns a preset folder with 8-bit LiteRT files, and its original model."""
    pytest.importorskip("litert_quantizer", reason="litert-quantizer isn't installed")
    from align_keras.export.litert import image_flatbuffer, text_flatbuffer

    align = calibrated_align(True)
    fold_batch_norms(align.image_encoder)
    path = tmp_path_factory.mktemp("towers")
    calibration = drawn_images(range(100, 112))
    towers = (
        image_flatbuffer(align, "int8", calibration),
        text_flatbuffer(align, "int8"),
    )
    for name, content in zip(TOWER_FILES, towers, strict=True):
        (path / name).write_bytes(content)
    save_with_towers(align, path)
    return path, align


@pytest.mark.ci
def test_keras_loads_the_integers_of_the_litert_files(folder):
    path, align = folder
    loaded = ALIGN.from_preset(path)
    table = json.loads((path / TABLE_FILE).read_text())
    weights = {weight.path: np.asarray(weight) for weight in align.weights}
    num_rounded = 0
    for weight in loaded.weights:
        if not weight.dtype.startswith("float"):
            continue
        expected, actual = weights[weight.path], np.asarray(weight)
        if weight.path in table:
            error = np.linalg.norm(actual - expected) / np.linalg.norm(expected)
            assert 0 < error < 0.02, weight.path
            num_rounded += actual.size
        else:
            np.testing.assert_array_equal(actual, expected)
    assert num_rounded > 0.5 * align.count_params()


@pytest.mark.ci
@pytest.mark.parametrize("name", [TOWER_FILES[1], TABLE_FILE, REST_FILE])
def test_a_damaged_file_is_refused(folder, name, tmp_path):
    path = shutil.copytree(folder[0], tmp_path / "copy")
    (path / name).write_bytes((path / name).read_bytes()[:1000])
    with pytest.raises(InputError, match="is damaged"):
        ALIGN.from_preset(path)


@pytest.mark.ci
def test_towers_of_another_model_are_refused(folder, tmp_path):
    path = shutil.copytree(folder[0], tmp_path / "copy")
    other_model = calibrated_align(True)
    for weight in other_model.weights:
        if weight.path.endswith("kernel"):
            weight.assign(np.random.default_rng(1).normal(size=weight.shape))
    with pytest.raises(InputError, match="towers"):
        save_with_towers(other_model, path)
