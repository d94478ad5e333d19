"""What the signatures answer, in this process."""

import numpy as np
import pytest
import tensorflow as tf

from align_keras.evaluation import class_embeddings
from align_keras.export import export_saved_model
from align_keras.export.served_model import in_parts
from align_keras.models.align import ALIGN
from tests.export.exported import CAPTIONS, TOLERANCE, pictures


@pytest.fixture(scope="module")
def served(folder):
    return tf.saved_model.load(str(folder / "export" / "align" / "1"))


@pytest.mark.ci
def test_a_bad_picture_fails_nothing(model, served):
    good = pictures()
    files = [b"", good[2], b"<html>", good[0][:200], good[3], b"\x89PNG"]
    files *= 6  # More than are embedded at once.
    found = served.signatures["encode_image"](image_bytes=tf.constant(files))
    valid = found["valid"].numpy()
    assert valid.tolist() == [False, True, False, False, True, False] * 6
    embedding = found["image_embedding"].numpy()
    expected = np.tile(model.encode_images([good[2], good[3]]), (6, 1))
    np.testing.assert_allclose(embedding[valid], expected, rtol=0, atol=TOLERANCE)
    assert (embedding[~valid] == 0).all()


@pytest.mark.ci
def test_pixels_and_token_ids(model, served):
    source = np.random.default_rng(2)
    images = source.integers(0, 256, (3, 70, 50, 3)).astype(np.uint8)
    found = served.signatures["encode_image_pixels"](images=tf.constant(images))
    expected = model.encode_images(images)
    np.testing.assert_allclose(found["image_embedding"], expected, atol=TOLERANCE)
    none = served.signatures["encode_image_pixels"](images=tf.constant(images[:0]))
    assert none["image_embedding"].shape == (0, expected.shape[1])
    tokens = model.tokenizer(CAPTIONS)
    found = served.signatures["encode_token_ids"](**tokens)
    expected = model.encode_texts(CAPTIONS)
    np.testing.assert_allclose(found["text_embedding"], expected, atol=TOLERANCE)


@pytest.mark.ci
def test_similarity_is_the_cosine(model, served):
    files = [*pictures(), b"no picture"]
    captions = CAPTIONS * 25  # More than are embedded at once.
    found = served.signatures["similarity"](
        image_bytes=tf.constant(files), captions=tf.constant(captions)
    )
    expected = model.encode_images(files[:-1]) @ model.encode_texts(CAPTIONS).T
    expected = np.tile(expected, 25)
    np.testing.assert_allclose(found["cosine"][:-1], expected, atol=TOLERANCE)
    assert found["valid"].numpy().tolist() == [True] * 5 + [False]


@pytest.mark.ci
def test_classify_is_the_zero_shot_protocol(model, served):
    names = ["cat", "red dog", "x\\1 $0"]  # Nothing of a name is a pattern.
    templates = ["a {}.", "{}", "{} i"]
    found = served.signatures["classify"](
        image_bytes=tf.constant(pictures()),
        class_names=tf.constant(names),
        templates=tf.constant(templates),
    )
    classes = class_embeddings(model.encode_texts, names, templates)
    logits = model.encode_images(pictures()) @ classes.T / float(model.temperature)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found["scores"], expected, atol=TOLERANCE)
    for wrong, message in ((["a cat"], "must have {}"), ([], "not be empty")):
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            served.signatures["classify"](
                image_bytes=tf.constant(pictures()),
                class_names=tf.constant(names),
                templates=tf.constant(wrong, tf.string),
            )


@pytest.mark.parametrize("count", [0, 1, 4, 5])
def test_rows_in_parts_are_joined(count):
    offset = tf.constant(10)

    def compute(rows, others):
        return rows + offset, {"sizes": tf.fill(tf.shape(others), tf.size(others))}

    rows = tf.range(count)
    found, others = in_parts(compute, 2, rows, tf.cast(rows, tf.float32))
    assert found.numpy().tolist() == [10, 11, 12, 13, 14][:count]
    sizes = {0: [], 1: [1], 4: [2, 2, 2, 2], 5: [2, 2, 2, 2, 1]}
    assert others["sizes"].numpy().tolist() == sizes[count]


@pytest.mark.parametrize(
    "weights",
    [
        pytest.param("bfloat16", marks=pytest.mark.release),
        pytest.param("float16", marks=pytest.mark.release),
    ],
)
def test_half_the_room(model, folder, tmp_path, weights):
    about = {"data": {"icons": ["3 pairs"]}, "evaluation": {"t2i/recall_at_1": 0.25}}
    export_saved_model(model, tmp_path / "half", weights=weights, card_arguments=about)
    card = (tmp_path / "half" / "README.md").read_text()
    assert "- icons\n  - 3 pairs" in card and "| t2i/recall_at_1 | 0.25 |" in card
    sizes = [
        sum(file.stat().st_size for file in (root / "align/1/variables").iterdir())
        for root in (folder / "export", tmp_path / "half")
    ]
    assert sizes[1] < 0.6 * sizes[0]
    # The same model, with rounded kernels.
    rounded = ALIGN.from_config(model.get_config())
    for ours, theirs in zip(rounded.variables, model.variables, strict=True):
        value = theirs.value
        if len(theirs.shape) > 1:
            value = tf.cast(tf.cast(value, weights), value.dtype)
        ours.assign(value)
    half = tf.saved_model.load(str(tmp_path / "half" / "align" / "1")).signatures
    images = half["encode_image"](image_bytes=tf.constant(pictures()))
    expected = rounded.encode_images(pictures())
    np.testing.assert_allclose(images["image_embedding"], expected, atol=TOLERANCE)
    assert np.abs(expected - model.encode_images(pictures())).max() > 1e-4
    texts = half["encode_text"](captions=tf.constant(CAPTIONS))["text_embedding"]
    np.testing.assert_allclose(texts, rounded.encode_texts(CAPTIONS), atol=TOLERANCE)


@pytest.mark.ci
def test_the_card_tells_limits_and_what_is_known(folder):
    card = (folder / "export" / "README.md").read_text()
    for text in ("Not recorded", "Surveillance", "64 × 64 pixels"):
        assert text in card
