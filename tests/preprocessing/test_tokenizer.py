"""Tests of `ALIGNTokenizer`, its methods, its configuration and its use in Grain."""

import json
import pickle

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf

from align_keras.models import ALIGNTokenizer
from align_keras.text import WordPieceTokenizer
from tests.helpers.hard_captions import HARD_CASES, VOCABULARY
from tests.helpers.oracle_process import needs

CAPTIONS = ["red", "Redder bikes"]


@pytest.mark.parametrize("normalization", ["bert_uncased", "bert_cased"])
def test_the_ids_equal_those_of_the_wordpiece_tokenizer(normalization):
    tokenizer = ALIGNTokenizer(VOCABULARY, 9, normalization)
    assert isinstance(tokenizer, keras_hub.tokenizers.Tokenizer)
    expected = WordPieceTokenizer(VOCABULARY, 9, normalization)(HARD_CASES)
    dataset = tf.data.Dataset.from_tensor_slices(HARD_CASES).batch(len(HARD_CASES))
    for tokens in (
        tokenizer(HARD_CASES),
        tokenizer.tokenize(HARD_CASES),
        dataset.map(tokenizer).get_single_element(),
    ):
        assert set(tokens) == set(expected)
        for name, values in expected.items():
            np.testing.assert_array_equal(tokens[name], values)


def test_lists_arrays_tensors_and_single_captions_are_accepted():
    tokenizer = ALIGNTokenizer(VOCABULARY, 5)
    expected = [2, 5, 3, 0, 0]
    for captions in (["red"], np.array(["red"]), tf.constant(["red"]), [b"red"]):
        assert tokenizer(captions)["token_ids"].numpy().tolist() == [expected]
    assert tokenizer("red")["token_ids"].numpy().tolist() == expected
    assert tokenizer([])["padding_mask"].shape == (0, 5)


def test_vocabulary_methods_convert_between_ids_and_tokens():
    tokenizer = ALIGNTokenizer(VOCABULARY)
    assert tokenizer.get_vocabulary() == tokenizer.vocabulary == VOCABULARY
    assert tokenizer.vocabulary_size() == len(VOCABULARY)
    for number, token in enumerate(VOCABULARY):
        assert tokenizer.token_to_id(token) == number
        assert tokenizer.id_to_token(number) == token
    assert tokenizer.token_to_id("unknown") == VOCABULARY.index("[UNK]")


def test_copies_from_the_config_return_the_same_ids():
    tokenizer = ALIGNTokenizer(VOCABULARY, 7, "bert_cased", name="words")
    config = tokenizer.get_config()
    assert config["vocabulary"] == VOCABULARY
    assert config["sequence_length"] == 7
    assert config["normalization"] == "bert_cased"
    serialized = keras.saving.serialize_keras_object(tokenizer)
    assert json.loads(json.dumps(serialized)) == serialized
    copies = [
        ALIGNTokenizer.from_config(config),
        keras.saving.deserialize_keras_object(serialized),
        pickle.loads(pickle.dumps(tokenizer)),
    ]
    expected = tokenizer(["Red red bikes"])["token_ids"]
    for copy in copies:
        assert copy.get_config() == config
        np.testing.assert_array_equal(copy(["Red red bikes"])["token_ids"], expected)


@pytest.mark.ci
@needs("grain")
@pytest.mark.parametrize(
    "captions",
    [
        tuple(CAPTIONS),
        [caption.encode() for caption in CAPTIONS],
        np.array(CAPTIONS),
        np.array(CAPTIONS, object),
        np.array(CAPTIONS, "S"),
        tf.constant(CAPTIONS),
    ],
    ids=lambda captions: type(captions).__name__,
)
def test_captions_in_a_grain_pipeline_become_numpy_arrays(captions):
    import grain

    tokenizer = ALIGNTokenizer(VOCABULARY, 7)
    expected = tokenizer(CAPTIONS)
    np.testing.assert_array_equal(
        tokenizer(captions)["token_ids"], expected["token_ids"]
    )
    singles = grain.MapDataset.source(list(captions)).map(tokenizer)
    (batch,) = singles.batch(2).to_iter_dataset()
    for name, values in expected.items():
        assert isinstance(singles[0][name], np.ndarray)
        np.testing.assert_array_equal(batch[name], values)
