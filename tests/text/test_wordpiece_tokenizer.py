"""WordPiece tokenization in comparison with Hugging Face tokenizers."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from tokenizers import BertWordPieceTokenizer

from align_keras.text import WordPieceTokenizer, learn_vocabulary, save_vocabulary
from align_keras.text import wordpiece_tokenizer as module
from align_keras.text.vocabulary import NORMALIZATIONS, SPECIAL_TOKENS
from align_keras.utils.errors import InputError
from tests.helpers.hard_captions import HARD_CASES, VOCABULARY, random_captions
from tests.helpers.oracle_process import call_oracle, needs
from tests.helpers.tensorflow_text_marks import needs_tensorflow_text, tensorflow_text

KNOWN_DIFFERENCES = {"\U0001d400\U0001d7ce \U00010400 \u2c2f \ua7c0"}


def vocabulary_file(tmp_path, captions, normalization, size=8000):
    vocabulary = learn_vocabulary(captions, size, normalization=normalization)
    path = tmp_path / "vocab.txt"
    save_vocabulary(vocabulary, path)
    return vocabulary, str(path)


def hugging_face(path, normalization, captions, length):
    """Returns the ids and masks of the Hugging Face tokenizer."""
    tokenizer = BertWordPieceTokenizer(path, lowercase=normalization == "bert_uncased")
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length)
    encodings = tokenizer.encode_batch(captions)
    ids = np.array([encoding.ids for encoding in encodings])
    return ids, np.array([encoding.attention_mask for encoding in encodings])


def find_differences(captions, actual, expected):
    """Returns the captions with different ids or masks."""
    rows = np.flatnonzero((actual != expected).any(axis=1))
    return [captions[row] for row in rows]


@pytest.mark.ci
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_stamp_captions_match_hugging_face(tmp_path, stamp_captions, normalization):
    captions = stamp_captions[::12]
    vocabulary, path = vocabulary_file(tmp_path, captions, normalization)
    tokens = WordPieceTokenizer(vocabulary, 64, normalization)(captions)
    ids, mask = hugging_face(path, normalization, captions, 64)
    assert find_differences(captions, tokens["token_ids"].numpy(), ids) == []
    assert find_differences(captions, tokens["padding_mask"].numpy(), mask) == []


@pytest.mark.ci
@needs("torch", "transformers")
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_ids_match_the_tokenizers_of_transformers(
    tmp_path, stamp_captions, normalization
):
    captions = stamp_captions[::60]
    vocabulary, path = vocabulary_file(tmp_path, captions, normalization)
    tokenizer = WordPieceTokenizer(vocabulary, 24, normalization)
    lower = normalization == "bert_uncased"
    hard = [case for case in HARD_CASES if case not in KNOWN_DIFFERENCES]
    arguments = (path, captions + hard, 24, lower)
    expected = call_oracle("hugging_face", "bert_token_ids", *arguments)
    ids = tokenizer(captions + hard)["token_ids"].numpy()
    assert find_differences(captions + hard, ids, expected) == []
    # The slow tokenizer in Python is compared for real captions only. It differs from
    # the fast tokenizer in final sigmas and in characters that are not in Unicode 8.0.
    arguments = (path, captions, 24, lower)
    expected = call_oracle("hugging_face", "bert_token_ids", *arguments, slow=True)
    assert find_differences(captions, ids[: len(captions)], expected) == []


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_hard_captions_match_hugging_face(tmp_path, normalization):
    # The vocabulary contains all characters, so that [UNK] can't hide a difference.
    vocabulary, path = vocabulary_file(tmp_path, HARD_CASES, normalization)
    tokens = WordPieceTokenizer(vocabulary, 64, normalization)(HARD_CASES)
    ids, mask = hugging_face(path, normalization, HARD_CASES, 64)
    mismatches = find_differences(HARD_CASES, tokens["token_ids"].numpy(), ids)
    is_different = normalization == "bert_uncased" and tensorflow_text is not None
    assert set(mismatches) == (KNOWN_DIFFERENCES if is_different else set())
    assert find_differences(HARD_CASES, tokens["padding_mask"].numpy(), mask) == []


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_random_captions_match_hugging_face(tmp_path, normalization):
    captions = random_captions(1500)
    vocabulary, path = vocabulary_file(tmp_path, captions, normalization)
    tokens = WordPieceTokenizer(vocabulary, 32, normalization)(captions)
    ids, mask = hugging_face(path, normalization, captions, 32)
    assert find_differences(captions, tokens["token_ids"].numpy(), ids) == []
    assert find_differences(captions, tokens["padding_mask"].numpy(), mask) == []


def test_ids_of_a_small_example_match_the_vocabulary():
    tokens = WordPieceTokenizer(VOCABULARY, 6)(["Redder bikes, a", "", "zzz"])
    assert tokens["token_ids"].numpy().tolist() == [
        [2, 5, 7, 9, 10, 3],  # The word "bikes" is truncated.
        [2, 3, 0, 0, 0, 0],
        [2, 1, 3, 0, 0, 0],
    ]
    assert tokens["padding_mask"].numpy().tolist() == [
        [True] * 6,
        [True] * 2 + [False] * 4,
        [True] * 3 + [False] * 3,
    ]
    assert tokens["token_ids"].dtype == tf.int32
    assert tokens["padding_mask"].dtype == tf.int32


def test_special_tokens_in_captions_have_their_ids():
    # A [PAD] in the caption is not masked.
    tokens = WordPieceTokenizer(VOCABULARY, 8)(["a[MASK] [PAD] [mask]"])
    assert tokens["token_ids"].numpy().tolist() == [[2, 6, 4, 0, 12, 1, 13, 3]]
    assert tokens["padding_mask"].numpy().all()


def test_special_tokens_can_have_any_ids():
    vocabulary = ["red", "[CLS]", "[SEP]", "[MASK]", "[UNK]", "[PAD]"]
    tokens = WordPieceTokenizer(vocabulary, 5)(["red x"])
    assert tokens["token_ids"].numpy().tolist() == [[1, 0, 4, 2, 5]]


def test_captions_can_be_lists_arrays_tensors_or_single_strings():
    tokenizer = WordPieceTokenizer(VOCABULARY, 5)
    expected = [2, 5, 3, 0, 0]
    for captions in (["red"], np.array(["red"]), tf.constant(["red"]), [b"red"]):
        assert tokenizer(captions)["token_ids"].numpy().tolist() == [expected]
    assert tokenizer("red")["token_ids"].numpy().tolist() == expected
    assert tokenizer("red")["padding_mask"].shape == (5,)
    assert tokenizer([])["token_ids"].shape == (0, 5)
    assert tokenizer([])["padding_mask"].shape == (0, 5)


def test_a_dataset_has_static_shapes():
    tokenizer = WordPieceTokenizer(VOCABULARY, 5)
    dataset = tf.data.Dataset.from_tensor_slices(["red", "a", "bike"])
    batched = dataset.batch(2).map(tokenizer)
    assert batched.element_spec["token_ids"].shape.as_list() == [None, 5]
    rows = [row for batch in batched for row in batch["token_ids"].numpy().tolist()]
    assert rows == [[2, 5, 3, 0, 0], [2, 6, 3, 0, 0], [2, 9, 10, 3, 0]]


def test_a_tokenizer_from_a_graph_works_outside_of_the_graph():
    tokenizers = []

    def tokenize(captions):
        tokenizers.append(WordPieceTokenizer(VOCABULARY, 5))
        return tokenizers[0](captions)["token_ids"]

    list(tf.data.Dataset.from_tensors(["red"]).map(tokenize))
    ids = tokenizers[0](["red"])["token_ids"]
    assert ids.numpy().tolist() == [[2, 5, 3, 0, 0]]


def test_a_saved_model_gives_the_same_ids(tmp_path):
    module = tf.Module()
    module.tokenizer = WordPieceTokenizer(VOCABULARY, 16)
    spec = tf.TensorSpec((None,), tf.string)
    module.tokenize = tf.function(module.tokenizer.__call__, input_signature=[spec])
    captions = [*HARD_CASES, "red bikes, [MASK]"]
    expected = module.tokenizer(captions)
    tf.saved_model.save(module, str(tmp_path))
    reloaded = tf.saved_model.load(str(tmp_path)).tokenize(tf.constant(captions))
    for name, values in expected.items():
        np.testing.assert_array_equal(reloaded[name], values)


@pytest.mark.parametrize(
    "caption", ["red " * 25_000, "x" * 100_000, "漢" * 100_000, "[MASK]" * 16_000]
)
@pytest.mark.timeout(60)  # An algorithm that is quadratic in the length takes minutes.
def test_huge_captions_are_truncated(caption):
    tokens = WordPieceTokenizer(VOCABULARY, 64)([caption, caption[:3000]])
    assert tokens["token_ids"].shape == (2, 64)
    # The start of the other captions has the same tokens. A single word is unknown.
    if caption != "x" * 100_000:
        np.testing.assert_array_equal(*tokens["token_ids"].numpy())


def test_invalid_utf8_is_dropped():
    tokens = WordPieceTokenizer(VOCABULARY, 5)([b"r\xffed \xc3", b"\xff"])
    assert tokens["token_ids"].numpy().tolist() == [[2, 5, 3, 0, 0], [2, 3, 0, 0, 0]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vocabulary": ["[PAD]", "[UNK]", "a"]}, r"\[CLS\]"),
        ({"vocabulary": [*VOCABULARY, "red"]}, "'red'"),
        ({"sequence_length": 2}, "sequence_length"),
        ({"normalization": "nfkc"}, "normalization"),
    ],
)
def test_invalid_arguments_are_refused(arguments, message):
    with pytest.raises(InputError, match=message) as error:
        WordPieceTokenizer(**{"vocabulary": VOCABULARY, **arguments})
    assert "\n" not in str(error.value)


def test_tokens_of_the_maximum_length_are_supported():
    word = "x" * 100
    tokens = WordPieceTokenizer([*SPECIAL_TOKENS, word, "y" * 256], 5)([word])
    assert tokens["token_ids"].numpy().tolist() == [[2, 5, 3, 0, 0]]


@needs_tensorflow_text
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_the_ids_are_the_same_without_tensorflow_text(monkeypatch, normalization):
    captions = [case for case in HARD_CASES if case not in KNOWN_DIFFERENCES]
    captions += random_captions(200)
    vocabulary = learn_vocabulary(captions, 8000, normalization=normalization)
    expected = WordPieceTokenizer(vocabulary, 24, normalization)(captions)
    monkeypatch.setattr(module, "tf_text", None)
    tokenizer = WordPieceTokenizer(vocabulary, 24, normalization)
    assert not tokenizer.in_graph
    tokens = tokenizer(captions)
    for name, values in expected.items():
        assert find_differences(captions, tokens[name].numpy(), values.numpy()) == []
    assert tokens["token_ids"].dtype == tf.int32
    for caption, shape in (("red", (24,)), ([], (0, 24)), ([b"r\xffed"], (1, 24))):
        assert tokenizer(caption)["token_ids"].shape == shape


@pytest.mark.ci
@pytest.mark.parametrize(
    "state", ["broken", pytest.param("missing", marks=pytest.mark.release)]
)
def test_a_process_without_tensorflow_text_and_fcntl_tokenizes(state, tmp_path):
    if state == "broken":
        # TensorFlow refuses this file in the same way as the library of a wheel for
        # another version of TensorFlow.
        (tmp_path / "tensorflow_text.py").write_text(
            "import tensorflow; tensorflow.load_op_library(__file__)"
        )
    script = pathlib.Path(__file__).with_name("without_tensorflow_text_script.py")
    captions = [case for case in HARD_CASES if case not in KNOWN_DIFFERENCES]
    vocabulary = learn_vocabulary(captions, 8000)
    paths = [str(tmp_path), *sys.path]
    process = subprocess.run(
        [sys.executable, script, state],
        input=json.dumps([vocabulary, captions]),
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        },
        check=False,
    )
    assert process.returncode == 0, process.stderr[-2000:]
    output = json.loads(process.stdout.splitlines()[-1])
    expected = WordPieceTokenizer(vocabulary, 16)(captions)["token_ids"].numpy()
    assert output["ids"] == expected.tolist()
    assert "pip install tensorflow-text" in output["export_error"]
    assert output["loaded_modules"] == []
