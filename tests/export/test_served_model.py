"""Outputs of the signatures of an export."""

import numpy as np
import pytest
import tensorflow as tf

from align_keras.evaluation import class_embeddings
from align_keras.export import export_saved_model
from align_keras.export.served_model import ServedModel, apply_in_chunks
from align_keras.models.align import ALIGN
from tests.export.export_inputs import CAPTIONS, TOLERANCE, sample_image_files
from tests.helpers.tensorflow_text_marks import needs_tensorflow_text


@pytest.fixture(scope="module")
def served(folder):
    return tf.saved_model.load(str(folder / "export" / "align" / "1"))


@pytest.mark.ci
def test_malformed_images_are_invalid_and_have_zero_embeddings(model, served):
    good = sample_image_files()
    files = [b"", good[2], b"<html>", good[0][:200], good[3], b"\x89PNG"]
    # These files are more than a chunk.
    files *= 6
    outputs = served.signatures["encode_image"](image_bytes=tf.constant(files))
    valid = outputs["valid"].numpy()
    assert valid.tolist() == [False, True, False, False, True, False] * 6
    embedding = outputs["image_embedding"].numpy()
    expected = np.tile(model.encode_images([good[2], good[3]]), (6, 1))
    np.testing.assert_allclose(embedding[valid], expected, rtol=0, atol=TOLERANCE)
    assert (embedding[~valid] == 0).all()


@pytest.mark.ci
def test_pixels_and_token_ids_have_the_embeddings_of_the_model(model, served):
    rng = np.random.default_rng(2)
    images = rng.integers(0, 256, (3, 70, 50, 3)).astype(np.uint8)
    outputs = served.signatures["encode_image_pixels"](images=tf.constant(images))
    expected = model.encode_images(images)
    np.testing.assert_allclose(outputs["image_embedding"], expected, atol=TOLERANCE)
    empty = served.signatures["encode_image_pixels"](images=tf.constant(images[:0]))
    assert empty["image_embedding"].shape == (0, expected.shape[1])
    tokens = model.tokenizer(CAPTIONS)
    outputs = served.signatures["encode_token_ids"](**tokens)
    expected = model.encode_texts(CAPTIONS)
    np.testing.assert_allclose(outputs["text_embedding"], expected, atol=TOLERANCE)


@pytest.mark.ci
@needs_tensorflow_text
def test_captions_have_the_length_of_the_longest(model, monkeypatch):
    lengths = []
    call = model.text_encoder.call

    def record_length(tokens, **options):
        length = tf.numpy_function(record, [tf.shape(tokens["token_ids"])[1]], tf.int32)
        with tf.control_dependencies([length]):
            ids = tf.identity(tokens["token_ids"])
        return call({**tokens, "token_ids": ids}, **options)

    def record(length):
        lengths.append(int(length))
        return length

    captions = ["a", "a b", ""]
    tokens = model.tokenizer(captions)
    expected = model.normalize_text(model.text_encoder(tokens, training=False))
    monkeypatch.setattr(model.text_encoder, "call", record_length)
    served = ServedModel(model, serves_images=False)
    outputs = served.functions["encode_text"](tf.constant(captions))
    np.testing.assert_allclose(outputs["text_embedding"], expected, atol=TOLERANCE)
    # The second caption has 2 words, [CLS] and [SEP].
    assert lengths == [4]


@pytest.mark.ci
def test_similarity_returns_cosines(model, served):
    files = [*sample_image_files(), b"not an image"]
    # These captions are more than a chunk.
    captions = CAPTIONS * 25
    outputs = served.signatures["similarity"](
        image_bytes=tf.constant(files), captions=tf.constant(captions)
    )
    expected = model.encode_images(files[:-1]) @ model.encode_texts(CAPTIONS).T
    expected = np.tile(expected, 25)
    np.testing.assert_allclose(outputs["cosine"][:-1], expected, atol=TOLERANCE)
    assert outputs["valid"].numpy().tolist() == [True] * 5 + [False]


@pytest.mark.ci
def test_classify_computes_zero_shot_scores(model, served):
    # Special characters of regular expressions in a name must have no effect.
    names = ["cat", "red dog", "x\\1 $0"]
    templates = ["a {}.", "{}", "{} i"]
    outputs = served.signatures["classify"](
        image_bytes=tf.constant(sample_image_files()),
        class_names=tf.constant(names),
        templates=tf.constant(templates),
    )
    classes = class_embeddings(model.encode_texts, names, templates)
    cosines = model.encode_images(sample_image_files()) @ classes.T
    logits = cosines / float(model.temperature)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(outputs["scores"], expected, atol=TOLERANCE)
    for invalid_templates, message in (
        (["a cat"], "must contain {}"),
        ([], "`templates` must not"),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            served.signatures["classify"](
                image_bytes=tf.constant(sample_image_files()),
                class_names=tf.constant(names),
                templates=tf.constant(invalid_templates, tf.string),
            )


@pytest.mark.parametrize("count", [0, 1, 4, 5])
def test_outputs_of_chunks_are_concatenated(count):
    offset = tf.constant(10)

    def compute(rows, float_rows):
        chunk_sizes = tf.fill(tf.shape(float_rows), tf.size(float_rows))
        return rows + offset, {"chunk_sizes": chunk_sizes}

    rows = tf.range(count)
    sums, details = apply_in_chunks(compute, 2, rows, tf.cast(rows, tf.float32))
    assert sums.numpy().tolist() == [10, 11, 12, 13, 14][:count]
    chunk_sizes = {0: [], 1: [1], 4: [2, 2, 2, 2], 5: [2, 2, 2, 2, 1]}
    assert details["chunk_sizes"].numpy().tolist() == chunk_sizes[count]


@pytest.mark.parametrize(
    "weights",
    [
        pytest.param("bfloat16", marks=pytest.mark.release),
        pytest.param("float16", marks=pytest.mark.release),
    ],
)
def test_half_precision_halves_the_size_of_weights(model, folder, tmp_path, weights):
    card_arguments = {
        "data": {"icons": ["3 pairs"]},
        "evaluation": {"t2i/recall_at_1": 0.25},
    }
    export_saved_model(
        model, tmp_path / "half", weights=weights, card_arguments=card_arguments
    )
    card = (tmp_path / "half" / "README.md").read_text()
    assert "- icons\n  - 3 pairs" in card and "| t2i/recall_at_1 | 0.25 |" in card
    sizes = [
        sum(file.stat().st_size for file in (root / "align/1/variables").iterdir())
        for root in (folder / "export", tmp_path / "half")
    ]
    assert sizes[1] < 0.6 * sizes[0]
    # The embeddings must be those of a model with rounded kernels.
    rounded = ALIGN.from_config(model.get_config())
    for target, source in zip(rounded.variables, model.variables, strict=True):
        value = source.value
        if len(source.shape) > 1:
            value = tf.cast(tf.cast(value, weights), value.dtype)
        target.assign(value)
    half = tf.saved_model.load(str(tmp_path / "half" / "align" / "1")).signatures
    images = half["encode_image"](image_bytes=tf.constant(sample_image_files()))
    expected = rounded.encode_images(sample_image_files())
    np.testing.assert_allclose(images["image_embedding"], expected, atol=TOLERANCE)
    assert np.abs(expected - model.encode_images(sample_image_files())).max() > 1e-4
    texts = half["encode_text"](captions=tf.constant(CAPTIONS))["text_embedding"]
    np.testing.assert_allclose(texts, rounded.encode_texts(CAPTIONS), atol=TOLERANCE)


@pytest.mark.ci
def test_the_model_card_states_facts_and_limits(folder):
    card = (folder / "export" / "README.md").read_text()
    for text in ("were not recorded", "Surveillance", "64 × 64 pixels"):
        assert text in card
