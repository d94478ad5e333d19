"""Tests of the embeddings of a teacher in the batches of a student."""

import numpy as np
import pytest
import tensorflow as tf

import align_keras
from align_keras.data import training_batches
from align_keras.embedders.litert_embedder import LiteRTEmbedder
from align_keras.models import image_text_batches
from align_keras.runs.distillation import embed_training_pairs
from align_keras.utils.errors import InputError
from tests.data.noise_corpus import build_noise, preprocessor
from tests.helpers.small_run import COLORS, draw

CAPTIONS = [f"a {color} ring" for color in COLORS]


@pytest.fixture(scope="module")
def model():
    return align_keras.load_model("align_small_en")


@pytest.fixture(scope="module")
def images():
    return [np.asarray(draw(color, "ring")) for color in COLORS]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def teacher(model, images, cache):
    return align_keras.teacher_embeddings(model, images, CAPTIONS, cache_dir=cache)


def batch_of(images, captions, teacher, **options):
    """Returns one augmented and shuffled batch of all pairs."""
    arguments = {"training": True, "batch_size": len(images), "seed": 3, **options}
    batches = image_text_batches(
        images,
        captions,
        preprocessor(zoom=0.3, recolor=1.0),
        teacher=teacher,
        **arguments,
    )
    return next(batches.as_numpy_iterator())


def test_augmented_batches_have_the_embeddings_of_the_whole_images(
    model, images, teacher
):
    batch = batch_of(images, CAPTIONS, teacher)
    tokens = preprocessor().tokenize(CAPTIONS)["token_ids"].numpy()
    order = [
        int(np.flatnonzero((tokens == row).all(axis=1)).item())
        for row in batch["token_ids"]
    ]
    assert sorted(order) == list(range(8)) != order
    expected_images = model.encode_images(images)
    expected_texts = model.encode_texts(CAPTIONS)
    np.testing.assert_allclose(
        batch["teacher_image_embeddings"], expected_images[order], atol=1e-5
    )
    np.testing.assert_allclose(
        batch["teacher_text_embeddings"], expected_texts[order], atol=1e-5
    )
    assert "image_ids" not in batch
    assert "image_ids" in batch_of(images, CAPTIONS, teacher, with_image_ids=True)


def test_embeddings_are_computed_once_and_read_from_the_cache(
    images, teacher, cache, monkeypatch
):
    def refuse(self, items):
        raise AssertionError("an embedding is computed again")

    for name in ("encode_images", "encode_texts"):
        monkeypatch.setattr(LiteRTEmbedder, name, refuse)
    order = [5, 2]
    # Another order and another form of the captions.
    again = align_keras.teacher_embeddings(
        "align_small_en",
        np.stack([images[row] for row in order]),
        [[CAPTIONS[row], CAPTIONS[0]] for row in order],
        cache_dir=cache,
    )
    chosen = [images[row] for row in order], [CAPTIONS[row] for row in order]
    expected = batch_of(*chosen, teacher, training=False)
    actual = batch_of(*chosen, again, training=False)
    for name in ("teacher_image_embeddings", "teacher_text_embeddings"):
        np.testing.assert_array_equal(actual[name], expected[name])


def test_the_cosines_of_several_teachers_are_the_weighted_means(model, images, cache):
    # The second teacher has embeddings of another width.
    truncated = align_keras.load_model(model, dimensions=64)
    teachers = align_keras.teacher_embeddings(
        [model, truncated], images, CAPTIONS, weights=[3.0, 1.0], cache_dir=cache
    )
    batch = batch_of(images, CAPTIONS, teachers, training=False)
    image_rows = batch["teacher_image_embeddings"]
    text_rows = batch["teacher_text_embeddings"]
    assert image_rows.shape == (8, teachers.dimension) == (8, 384 + 64)
    cosines = [
        one.encode_images(images) @ one.encode_texts(CAPTIONS).T
        for one in (model, truncated)
    ]
    expected = 0.75 * cosines[0] + 0.25 * cosines[1]
    np.testing.assert_allclose(image_rows @ text_rows.T, expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(image_rows, axis=1), 1, atol=1e-5)


def test_each_teacher_needs_a_weight(images):
    with pytest.raises(InputError, match="weights"):
        align_keras.teacher_embeddings(
            ["align_small_en"], images, CAPTIONS, weights=[1.0, 2.0]
        )


@pytest.mark.ci
def test_a_pair_without_an_embedding_is_refused(images, teacher):
    with pytest.raises(tf.errors.OpError, match="each caption"):
        batch_of(images, ["another caption"] * 8, teacher)
    other = [np.full((40, 40, 3), 9, "uint8")]
    with pytest.raises(tf.errors.OpError, match="each image"):
        batch_of(other, CAPTIONS[:1], teacher)
    with pytest.raises(InputError, match="each image"):
        teacher.lookup(tf.constant([1], tf.int64), tf.constant(CAPTIONS[:1]))


@pytest.mark.ci
def test_batches_of_a_corpus_have_the_embeddings_of_their_captions(
    model, cache, tmp_path
):
    builder = build_noise(tmp_path)
    split = "train[:6]"
    embeddings = embed_training_pairs([model], builder, split, cache_dir=cache)
    options = {"batch_size": 6, "cache": True, "teacher": embeddings}
    batches = training_batches(builder, split, preprocessor(), **options)
    batch = next(batches.as_numpy_iterator())
    # The captions of an image begin with its letter, and end with x, y or z.
    letters = "abcdefghijklmnopqrstuvwx"
    captions = [f"{letter} {end}" for letter in letters for end in "xyz"]
    tokens = preprocessor().tokenize(captions)["token_ids"].numpy()
    rows = [
        int(np.flatnonzero((tokens == row).all(axis=1)).item())
        for row in batch["token_ids"]
    ]
    expected = model.encode_texts([captions[row] for row in rows])
    np.testing.assert_allclose(batch["teacher_text_embeddings"], expected, atol=1e-5)
    noise = np.random.default_rng(0).integers(0, 256, (24, 30, 40, 3)).astype("uint8")
    expected = model.encode_images([noise[row // 3] for row in rows])
    np.testing.assert_allclose(batch["teacher_image_embeddings"], expected, atol=1e-5)
