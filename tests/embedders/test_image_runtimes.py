"""Converted image towers of a model whose weights change."""

import numpy as np
import pytest

from align_keras import load_model
from align_keras.utils.errors import InputError
from tests.helpers.drawn_align import calibrated_align
from tests.helpers.exports import export_folder, exported_align
from tests.helpers.oracle_process import needs


def pixels(count=4):
    random = np.random.default_rng(0)
    return random.integers(0, 256, (count, 32, 32, 3)).astype("float32")


def test_keras_uses_changed_weights_and_pixel_scaling():
    model = calibrated_align(True)
    embedder = load_model(model)
    before = embedder.image_tower()(pixels())

    projection = model.image_encoder.get_layer("projection")
    projection.kernel.assign(projection.kernel[:, ::-1])
    after = embedder.image_tower()(pixels())
    np.testing.assert_allclose(after, before[:, ::-1], atol=1e-5)

    model.image_encoder.set_pixel_scaling(110.0, 120.0)
    expected = np.asarray(model.normalize_image(model.image_encoder(pixels())))
    actual = embedder.image_tower()(pixels())
    assert np.abs(expected - after).max() > 1e-3
    np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.mark.ci
@needs("openvino")
def test_a_converted_tower_is_refused_after_further_training():
    model = calibrated_align(True)
    embedder = load_model(model, "openvino")
    image = pixels(1)[0].astype("uint8")
    embedder.encode_images([image])
    projection = model.image_encoder.get_layer("projection")
    projection.kernel.assign(projection.kernel[:, ::-1])
    with pytest.raises(InputError, match="trained"):
        embedder.encode_images([image])


@pytest.mark.ci
@needs("ai_edge_litert")
def test_a_tower_of_a_different_model_is_refused(tmp_path):
    towers = export_folder("litert")
    model = exported_align()
    assert load_model(model, towers / "image.tflite").runtime.endswith("image.tflite")
    (tmp_path / "bare.tflite").write_bytes(b"TFL3")
    for path in (towers / "text.tflite", tmp_path / "bare.tflite"):
        with pytest.raises(InputError, match=path.name):
            load_model(model, path)
    # Training after the export changes the weights, which the next lines simulate.
    trained = calibrated_align(True)
    trained.set_weights(model.get_weights())
    bias = trained.image_encoder.get_layer("projection").bias
    bias.assign_add(np.full(bias.shape, 1e-3))
    with pytest.raises(InputError, match="weights"):
        load_model(trained, towers / "image.tflite")
