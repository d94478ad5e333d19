"""Tests of `ALIGN.similarity` and of zero-shot classification."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from align_keras.utils.errors import InputError
from tests.helpers.small import small_align

NAMES, TEMPLATES = ["cat", "red dog", "b"], ["a {}", "{} on {x}"]


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return small_align(initial_temperature=0.25)


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (2, 40, 60, 3)).astype("uint8")


def test_similarity_compares_each_image_with_each_text(model, pixels):
    texts = ["a cat", "red", "blue dog"]
    cosines = model.similarity(pixels, texts)
    assert cosines.shape == (2, 3) and cosines.dtype == np.float32
    expected = model.encode_images(pixels) @ model.encode_texts(texts).T
    np.testing.assert_array_equal(cosines, expected)
    floats = (pixels / 255).astype("float32")
    np.testing.assert_array_equal(
        model.similarity(floats, texts, value_range=(0, 1)), expected
    )


def test_class_scores_are_the_softmax_over_mean_prompt_embeddings(model, pixels):
    scores = model.classify(pixels, NAMES, TEMPLATES)
    prompts = [f"a {name}" for name in NAMES], [f"{name} on {{x}}" for name in NAMES]
    classes = np.mean([model.encode_texts(texts) for texts in prompts], axis=0)
    classes /= np.linalg.norm(classes, axis=1, keepdims=True)
    logits = model.encode_images(pixels) @ classes.T / 0.25
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(scores, expected, rtol=1e-5)
    assert scores.shape == (2, 3) and scores.dtype == np.float32
    # Without templates, the prompts are the names of the classes.
    np.testing.assert_array_equal(
        model.classify(pixels, NAMES), model.classify(pixels, NAMES, ["{}"])
    )
    assert model.classify([], NAMES).shape == (0, 3)


@pytest.mark.ci
def test_similarity_and_classify_equal_those_of_the_export(model, pixels):
    from align_keras.export.served_model import ServedModel

    functions = ServedModel(model).functions
    files = [tf.io.encode_png(image) for image in pixels]
    exported = functions["similarity"](tf.stack(files), tf.constant(["a cat", "red"]))
    cosines = model.similarity(pixels, ["a cat", "red"])
    np.testing.assert_allclose(cosines, exported["cosine"], atol=1e-5)
    names, templates = tf.constant(NAMES), tf.constant(TEMPLATES)
    exported = functions["classify"](tf.stack(files), names, templates)
    scores = model.classify(pixels, NAMES, TEMPLATES)
    np.testing.assert_allclose(scores, exported["scores"], atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("cat",), "class_names .*'cat'"),
        ((NAMES, "a {}"), "templates .*'a {}'"),
        ((NAMES, ["a cat"]), "`templates` .*'a cat'"),
    ],
)
def test_invalid_classes_raise_a_one_line_error(model, pixels, arguments, words):
    with pytest.raises(InputError, match=words) as caught:
        model.classify(pixels, *arguments)
    assert "\n" not in str(caught.value)
