"""Tests of `ALIGNPreprocessor`, which `fit`, evaluation and embedding share."""

import json

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf

from align_keras.models import (
    ALIGNImageConverter,
    ALIGNPreprocessor,
    ALIGNTokenizer,
    image_text_batches,
)
from align_keras.utils.errors import InputError
from tests.helpers.small import VOCABULARY, small_align, small_encoders

CAPTIONS = ["a b", "red", "blue"]


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (3, 60, 50, 3)).astype("uint8")


def make_preprocessor(**options):
    return ALIGNPreprocessor(
        ALIGNTokenizer(VOCABULARY, sequence_length=8),
        ALIGNImageConverter(32, **options),
    )


def assert_same_inputs(inputs, expected):
    assert set(inputs) == set(expected) == {"images", "token_ids", "padding_mask"}
    for name, values in expected.items():
        # Graphs of one image and of a batch may round differently.
        np.testing.assert_allclose(inputs[name], values, atol=1e-3, err_msg=name)


def test_evaluation_combines_the_converter_and_the_tokenizer(pixels):
    preprocessor = make_preprocessor()
    assert isinstance(preprocessor, keras_hub.models.Preprocessor)
    expected = {
        "images": preprocessor.image_converter(pixels),
        **preprocessor.tokenizer(CAPTIONS),
    }
    several = [[caption, "z"] for caption in CAPTIONS]
    pairs = tf.data.Dataset.from_tensors((pixels, CAPTIONS))
    singles = pairs.unbatch().map(preprocessor).batch(3)
    for inputs in (
        preprocessor(pixels, CAPTIONS),
        preprocessor({"image": pixels, "caption": CAPTIONS}),
        preprocessor(pixels, several),
        pairs.map(preprocessor).get_single_element(),
        singles.get_single_element(),
    ):
        assert_same_inputs(inputs, expected)


def test_training_draws_one_of_several_captions(pixels):
    preprocessor = make_preprocessor()
    images = np.repeat(pixels[:1], 60, axis=0)
    captions = [["a", "b", "c"]] * 60
    inputs = preprocessor(images, captions, training=True, seed=(0, 1))
    _, counts = np.unique(inputs["token_ids"][:, 1], return_counts=True)
    assert len(counts) == 3 and counts.min() > 10
    assert inputs["images"].dtype == tf.uint8
    repeated = preprocessor(images, captions, training=True, seed=(0, 1))
    assert_same_inputs(inputs, repeated)


def test_fit_and_embedding_use_the_preprocessor_of_the_model(pixels):
    model = small_align()
    inputs = model.preprocessor(pixels, CAPTIONS)
    batches = image_text_batches(
        pixels, CAPTIONS, model.preprocessor, training=False, batch_size=3
    )
    assert_same_inputs(batches.get_single_element(), inputs)
    outputs = model(inputs)
    rows = model.encode_images(pixels)
    np.testing.assert_allclose(outputs["image_embedding"], rows, atol=1e-5)
    rows = model.encode_texts(CAPTIONS)
    np.testing.assert_allclose(outputs["text_embedding"], rows, atol=1e-5)


def test_a_model_without_vocabulary_accepts_only_images(pixels):
    from align_keras.models import ALIGN

    model = ALIGN.from_encoders(*small_encoders())
    assert model.preprocessor.tokenizer is None
    assert model.preprocessor.image_converter(pixels).shape == (3, 32, 32, 3)
    assert model.encode_images(pixels).shape == (3, 16)
    for call in (
        lambda: model.tokenizer,
        lambda: model.encode_texts(CAPTIONS),
        lambda: model.evaluate(pixels, CAPTIONS),
        lambda: model.preprocessor.call(pixels, CAPTIONS),
    ):
        with pytest.raises(InputError, match="vocabulary"):
            call()


def test_the_preprocessor_is_not_a_layer_of_the_model(pixels):
    model = small_align()
    layers = [layer.name for layer in model._flatten_layers()]
    paths = [variable.path for variable in model.variables]
    assert model.preprocessor is model.preprocessor
    assert [layer.name for layer in model._flatten_layers()] == layers
    assert [variable.path for variable in model.variables] == paths


def test_a_copy_from_the_config_returns_the_same_inputs(pixels):
    preprocessor = make_preprocessor(zoom=0.1, value_range=(0, 1))
    serialized = keras.saving.serialize_keras_object(preprocessor)
    assert json.loads(json.dumps(serialized)) == serialized
    copy = keras.saving.deserialize_keras_object(serialized)
    assert type(copy) is ALIGNPreprocessor
    assert copy.get_config() == preprocessor.get_config()
    arguments = {"training": True, "seed": (0, 1)}
    assert_same_inputs(
        copy(pixels / 255, CAPTIONS, **arguments),
        preprocessor(pixels / 255, CAPTIONS, **arguments),
    )
    changed = preprocessor.with_options(zoom=0.0, flip=False)
    assert changed.tokenizer is preprocessor.tokenizer
    assert changed.image_converter.zoom == 0 and not changed.image_converter.flip


def test_unsupported_arguments_are_refused(pixels):
    with pytest.raises(InputError, match="crop='inception'"):
        make_preprocessor(crop="inception")
    with pytest.raises(InputError, match="central_crop=0.875"):
        make_preprocessor(central_crop=0.875)
    with pytest.raises(InputError, match="`sample_weight`"):
        make_preprocessor().call(pixels, CAPTIONS, np.ones(3))
