"""The image tower as a function of pixels, by TensorFlow, OpenVINO and LiteRT."""

import sys

import keras
import numpy as np
import pytest

from align_keras.models import ALIGN, image_embedder
from align_keras.utils.errors import InputError
from tests.helpers.oracle_process import needs
from tests.helpers.small import VOCABULARY, small_align, small_encoders

OPENVINO = pytest.param("openvino", marks=[pytest.mark.ci, needs("openvino")])
needs_litert = needs("ai_edge_litert")


def pixels(count=7):
    random = np.random.default_rng(0)
    return random.integers(0, 256, (count, 32, 32, 3)).astype("float32")


def calibrated_align(**arguments):
    """Random weights whose batch statistics let the signal through."""
    model = ALIGN(*small_encoders(**arguments), vocabulary=VOCABULARY)
    for layer in model.image_encoder._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    model.image_encoder(pixels(32), training=True)
    return model


@pytest.fixture(scope="module")
def model():
    return calibrated_align()


@pytest.fixture(scope="module")
def lite_model():
    return calibrated_align(lite=True)


@pytest.mark.parametrize("engine", [None, OPENVINO])
@pytest.mark.parametrize("name", ["model", "lite_model"])
@pytest.mark.parametrize("count", [0, 1, 4, 7])
def test_equals_keras(request, engine, name, count):
    model = request.getfixturevalue(name)
    actual = image_embedder(model, engine)(pixels(count))
    assert actual.shape == (count, 16) and actual.dtype == np.float32
    if count:
        expected = np.asarray(model.normalize_image(model.image_encoder(pixels(count))))
        # As the docstring of `image_embedder` has them.
        assert (actual * expected).sum(axis=1).min() > 0.99999
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)
        # Random towers would agree on one constant vector too.
        assert count == 1 or np.abs(expected - expected[:1]).max() > 0.01


@pytest.mark.ci
@needs("openvino")
def test_bfloat16_is_near(model):
    exact = image_embedder(model)(pixels(32))
    rounded = image_embedder(model, "openvino_bfloat16")(pixels(32))
    assert (exact * rounded).sum(axis=1).min() > 0.99


@pytest.mark.parametrize(
    "engine",
    [None, pytest.param("openvino", marks=[pytest.mark.release, needs("openvino")])],
)
def test_answers_with_the_present_weights_and_scaling(engine):
    model = calibrated_align()
    first = image_embedder(model, engine)
    before = first(pixels())
    assert model._image_embedders[engine][1] is not None
    kept = model._image_embedders[engine][1]
    image_embedder(model, engine)
    assert model._image_embedders[engine][1] is kept

    projection = model.image_encoder.get_layer("projection")
    projection.kernel.assign(projection.kernel[:, ::-1])
    after = image_embedder(model, engine)(pixels())
    np.testing.assert_allclose(after, before[:, ::-1], atol=1e-5)

    model.image_encoder.set_pixel_scaling(110.0, 120.0)
    expected = np.asarray(model.normalize_image(model.image_encoder(pixels())))
    actual = image_embedder(model, engine)(pixels())
    assert np.abs(expected - after).max() > 1e-3
    np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.mark.ci
@needs("openvino")
def test_encode_images_takes_an_engine_and_reads_in_order(model):
    random = np.random.default_rng(1)
    images = [
        random.integers(0, 256, (height, 50, 3)).astype("uint8")
        for height in range(33, 44)
    ]
    expected = model.encode_images(images)
    one_by_one = [model.encode_images([image])[0] for image in images]
    np.testing.assert_allclose(expected, one_by_one, atol=1e-5)
    actual = model.encode_images(images, batch_size=3, engine="openvino")
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)
    with pytest.raises(InputError, match="images\\[4\\]: pixels must be uint8"):
        model.encode_images([*images[:4], images[0] / 255], batch_size=3)


@pytest.fixture(scope="module")
def file(model, tmp_path_factory):
    """The model's exported image tower."""
    from align_keras.export.litert import image_flatbuffer

    path = tmp_path_factory.mktemp("export") / "image.tflite"
    path.write_bytes(image_flatbuffer(model))
    return path


@pytest.mark.ci
@needs_litert
@pytest.mark.parametrize("count", [0, 1, 7])
def test_an_exported_file_embeds(model, file, count):
    actual = image_embedder(model, file)(pixels(count))
    assert actual.shape == (count, 16) and actual.dtype == np.float32
    expected = image_embedder(model)(pixels(count))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)


@pytest.mark.ci
@needs_litert
def test_encode_images_takes_a_file_that_is_made_once(model, file):
    images = pixels(5).astype("uint8")
    expected = model.encode_images(images)
    actual = model.encode_images(images, batch_size=2, engine=str(file))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)
    kept = model._image_embedders[str(file)][1]
    image_embedder(model, file)
    assert model._image_embedders[str(file)][1] is kept


@pytest.mark.ci
@needs_litert
def test_a_file_is_of_just_this_model(model, file, tmp_path):
    from align_keras.export.litert import text_flatbuffer

    other, path = small_align(), file
    with pytest.raises(InputError, match="of just this model.*of other weights"):
        other.encode_images([], engine=path)
    # Trained on, after the export.
    other.set_weights(model.get_weights())
    other.encode_images([], engine=path)
    bias = other.image_encoder.get_layer("projection").bias
    bias.assign_add(np.full(bias.shape, 1e-3))
    with pytest.raises(InputError, match="of just this model.*of other weights"):
        other.encode_images([], engine=path)
    (tmp_path / "text.tflite").write_bytes(text_flatbuffer(model))
    (tmp_path / "bare.tflite").write_bytes(b"TFL3")
    for name in ("text", "bare"):
        with pytest.raises(InputError, match=f"just this model.*{name}.tflite"):
            model.encode_images([], engine=tmp_path / f"{name}.tflite")
    with pytest.raises(InputError, match="that is there, received 'no.tflite'"):
        model.encode_images([], engine="no.tflite")


def test_errors_name_the_remedy(model, monkeypatch):
    with pytest.raises(InputError, match="None, openvino.*received 'onnx'"):
        model.encode_images([], engine="onnx")
    monkeypatch.setitem(sys.modules, "openvino", None)
    fresh = small_align()
    with pytest.raises(InputError, match="pip install openvino"):
        fresh.encode_images([], engine="openvino")
