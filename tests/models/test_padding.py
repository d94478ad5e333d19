"""Test that padding doesn't change the embedding of a caption."""

import keras
import numpy as np
import pytest

from align_keras.models import ALIGN, ALIGNTokenizer, TextEncoder
from align_keras.text.padding import trim_padding
from tests.helpers.small import VOCABULARY, small_encoders


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_padding_does_not_change_the_embedding(pooling):
    encoder = TextEncoder(
        vocabulary_size=20,
        num_layers=2,
        hidden_dim=16,
        num_heads=2,
        intermediate_dim=32,
        projection_dim=8,
        sequence_length=8,
        pooling=pooling,
    )
    random = np.random.default_rng(0)
    for weight in encoder.weights:
        if "float" in weight.dtype:
            weight.assign(random.normal(size=weight.shape))

    def embedding(token_ids, length):
        mask = np.arange(token_ids.shape[1]) < length
        inputs = {"token_ids": token_ids, "padding_mask": mask[None].astype("int32")}
        return np.asarray(encoder(inputs))

    token_ids = random.integers(0, 20, (1, 8)).astype("int32")
    expected = embedding(token_ids[:, :3], 3)
    # Products of other lengths are summed in another order in float32.
    np.testing.assert_allclose(embedding(token_ids, 3), expected, rtol=1e-4, atol=1e-4)
    assert np.abs(embedding(token_ids, 8) - expected).max() > 0.1


def test_trimmed_tokens_end_with_the_longest_caption():
    tokenizer = ALIGNTokenizer(VOCABULARY, sequence_length=20)
    short = tokenizer.tokenize(["a b", "c"])
    trimmed = trim_padding(short)
    assert trimmed["token_ids"].shape == trimmed["padding_mask"].shape == (2, 8)
    for name, values in trimmed.items():
        np.testing.assert_array_equal(values, short[name][:, :8])
    # 6 words and the tokens of the start and of the end fill a length of 8.
    assert trim_padding(tokenizer.tokenize(["a b c d e f"]))["token_ids"].shape[1] == 8
    longer = trim_padding(tokenizer.tokenize(["a b c d e f g", "a"]))
    assert longer["padding_mask"].shape[1] == 16
    # 20 isn't a multiple of 8.
    assert trim_padding(tokenizer.tokenize(["a " * 30]))["token_ids"].shape[1] == 20


def test_texts_keep_their_order_in_batches_of_similar_lengths():
    keras.utils.set_random_seed(0)
    image_encoder, text_encoder = small_encoders(sequence_length=40)
    random = np.random.default_rng(0)
    # With the initial weights, the embeddings of all texts would be almost equal.
    for weight in text_encoder.weights:
        weight.assign(random.normal(size=weight.shape))
    model = ALIGN.from_encoders(image_encoder, text_encoder, vocabulary=VOCABULARY)
    texts = [
        " ".join(random.choice(list("abcdef"), size=length))
        for length in random.integers(0, 38, 50)
    ]
    # A window has 16 batches, so there are two windows.
    embeddings = model.encode_texts(texts, batch_size=2)
    tokens = model.preprocessor.tokenize(texts)
    padded = model.normalize_text(model.text_encoder(tokens, training=False))
    # Products of other lengths are summed in another order in float32.
    np.testing.assert_allclose(embeddings, padded, atol=1e-5)
    # Texts in another order would differ by more than this tolerance.
    assert np.abs(embeddings[1:] - embeddings[:-1]).max(axis=1).min() > 5e-5
    assert model.encode_texts([]).shape == (0, 16)
