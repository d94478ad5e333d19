"""Image embeddings of a Keras model with OpenVINO and exported LiteRT files."""

import keras
import numpy as np
import pytest

from align_keras import load_model
from align_keras.models import ALIGN
from align_keras.utils.errors import InputError
from tests.helpers.oracle_process import needs
from tests.helpers.small import VOCABULARY, small_align, small_encoders

OPENVINO = pytest.param("openvino", marks=[pytest.mark.ci, needs("openvino")])
needs_litert = needs("ai_edge_litert")


def pixels(count=7):
    random = np.random.default_rng(0)
    return random.integers(0, 256, (count, 32, 32, 3)).astype("float32")


def calibrated_align(**arguments):
    """Returns a random model whose batch statistics fit random images.

    With the initial statistics, all images would have almost the same embedding.
    """
    model = ALIGN.from_encoders(*small_encoders(**arguments), vocabulary=VOCABULARY)
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


def check_image_fingerprint_differs_from_keras(embedder, model):
    """Checks that caches and indexes do not mix embeddings of Keras and a runtime."""
    keras_embedder = load_model(model)
    assert embedder.fingerprint != keras_embedder.fingerprint
    assert embedder.image_fingerprint != keras_embedder.image_fingerprint
    assert embedder.text_fingerprint == keras_embedder.text_fingerprint


@pytest.mark.parametrize("runtime", ["keras", OPENVINO])
@pytest.mark.parametrize("name", ["model", "lite_model"])
def test_image_embeddings_equal_those_of_keras(request, runtime, name):
    model = request.getfixturevalue(name)
    embedder = load_model(model, runtime)
    for count in (0, 1, 4, 7):
        check_image_embeddings(embedder, model, count)


def check_image_embeddings(embedder, model, count):
    images = pixels(count).astype("uint8")
    resized = [np.pad(image, [(3, 2), (2, 3), (0, 0)]) for image in images]
    for actual in (
        embedder.encode_images(list(images)),
        embedder.encode_resized(resized)[:0],
    ):
        assert actual.dtype == np.float32 and actual.shape[1] == 16
    actual = embedder.encode_images(list(images))
    expected = model.encode_images(list(images))
    assert actual.shape == expected.shape == (count, 16)
    if count:
        tower = embedder.image_tower()(pixels(count))
        exact = np.asarray(model.normalize_image(model.image_encoder(pixels(count))))
        # The docstring of `load_model` states this cosine.
        assert (tower * exact).sum(axis=1).min() > 0.99999
        np.testing.assert_allclose(tower, exact, rtol=0, atol=1e-5)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)
        # The comparison would prove nothing if all embeddings were equal.
        assert count == 1 or np.abs(expected - expected[:1]).max() > 0.01


@pytest.mark.ci
@needs("openvino")
def test_bfloat16_embeddings_are_close_to_float32(model):
    exact = load_model(model).image_tower()(pixels(32))
    rounded = load_model(model, "openvino_bfloat16").image_tower()(pixels(32))
    assert (exact * rounded).sum(axis=1).min() > 0.99


def test_keras_uses_changed_weights_and_pixel_scaling():
    model = calibrated_align()
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


@pytest.mark.release
@needs("openvino")
def test_a_converted_tower_is_refused_after_further_training():
    model = calibrated_align()
    embedder = load_model(model, "openvino")
    embedder.encode_images([pixels(1)[0].astype("uint8")])
    projection = model.image_encoder.get_layer("projection")
    projection.kernel.assign(projection.kernel[:, ::-1])
    with pytest.raises(InputError, match="trained after load_model. Call load_model"):
        embedder.encode_images([pixels(1)[0].astype("uint8")])
    reopened = load_model(model, "openvino")
    expected = np.asarray(model.normalize_image(model.image_encoder(pixels())))
    np.testing.assert_allclose(reopened.image_tower()(pixels()), expected, atol=1e-5)
    assert reopened.image_fingerprint != embedder.image_fingerprint


@pytest.mark.ci
@needs("openvino")
def test_openvino_embeds_images_in_order_and_keras_embeds_texts(model):
    random = np.random.default_rng(1)
    images = [
        random.integers(0, 256, (height, 50, 3)).astype("uint8")
        for height in range(33, 44)
    ]
    expected = model.encode_images(images)
    single_embeddings = [model.encode_images([image])[0] for image in images]
    np.testing.assert_allclose(expected, single_embeddings, atol=1e-5)
    embedder = load_model(model, "openvino")
    actual = embedder.encode_images(images)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)
    check_image_fingerprint_differs_from_keras(embedder, model)
    texts = ["a red cat", "a dog"]
    np.testing.assert_array_equal(
        embedder.encode_texts(texts), model.encode_texts(texts)
    )
    with pytest.raises(InputError, match="uint8"):
        embedder.encode_images([*images[:4], images[0] / 255])


@pytest.fixture(scope="module")
def tower_file(model, tmp_path_factory):
    """Returns the path of the exported image tower of `model`."""
    from align_keras.export.litert import image_flatbuffer

    path = tmp_path_factory.mktemp("export") / "image.tflite"
    path.write_bytes(image_flatbuffer(model))
    return path


@pytest.mark.ci
@needs_litert
@pytest.mark.parametrize("count", [0, 1, 7])
def test_an_exported_tower_embeds_images(model, tower_file, count):
    images = list(pixels(count).astype("uint8"))
    embedder = load_model(model, tower_file)
    check_image_fingerprint_differs_from_keras(embedder, model)
    actual = embedder.encode_images(images)
    assert actual.shape == (count, 16) and actual.dtype == np.float32
    expected = model.encode_images(images)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)


@pytest.mark.ci
@needs_litert
def test_a_tower_of_a_different_model_is_refused(model, tower_file, tmp_path):
    from align_keras.export.litert import text_flatbuffer

    message = "exported from this model.*the weights of another model"
    second_model = small_align()
    with pytest.raises(InputError, match=message):
        load_model(second_model, tower_file)
    second_model.set_weights(model.get_weights())
    assert load_model(second_model, tower_file).runtime == str(tower_file)
    # Training after the export changes the weights, which the next lines simulate.
    bias = second_model.image_encoder.get_layer("projection").bias
    bias.assign_add(np.full(bias.shape, 1e-3))
    with pytest.raises(InputError, match=message):
        load_model(second_model, tower_file)
    (tmp_path / "text.tflite").write_bytes(text_flatbuffer(model))
    (tmp_path / "bare.tflite").write_bytes(b"TFL3")
    for name in ("text", "bare"):
        with pytest.raises(InputError, match=f"from this model.*{name}.tflite"):
            load_model(model, tmp_path / f"{name}.tflite")
