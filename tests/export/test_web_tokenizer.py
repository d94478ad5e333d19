"""JavaScript tokenizer of the page, compared with two Python tokenizers."""

import json
import pathlib
import shutil
import subprocess

import pytest
from tokenizers import BertWordPieceTokenizer

import align_keras.export
from align_keras.export.web_page import tokenizer_options
from align_keras.text import WordPieceTokenizer, learn_vocabulary, save_vocabulary
from align_keras.text.vocabulary import NORMALIZATIONS
from tests.helpers.hard_captions import (
    HARD_CASES,
    NEW_LETTERS,
    VOCABULARY,
    random_captions,
)

pytestmark = pytest.mark.ci

SCRIPT = """
import { readFileSync } from "node:fs";
import { WordPieceTokenizer, readVocabulary } from "./tokenizer.mjs";
const read = (name) => readFileSync(name, "utf8");
const vocabulary = readVocabulary(read("vocabulary.txt"));
const tokenizer = new WordPieceTokenizer(vocabulary, JSON.parse(read("options.json")));
const rows = JSON.parse(read("captions.json")).map((text) => tokenizer.encode(text));
console.log(JSON.stringify(rows.map(Object.values)));
"""
# Strings of JavaScript and JSON may contain lone surrogates.
LONE_SURROGATES = ["a\ud83db", "\udc00", "[MA\udfffSK] red"]


@pytest.fixture
def tokenize_in_node(tmp_path):
    """Returns a function from a tokenizer and captions to lists of ids and masks."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    web = pathlib.Path(align_keras.export.__file__).parent / "web"
    shutil.copyfile(web / "tokenizer.js", tmp_path / "tokenizer.mjs")
    (tmp_path / "script.mjs").write_text(SCRIPT)

    def encode(tokenizer, captions):
        save_vocabulary(tokenizer.vocabulary, tmp_path / "vocabulary.txt")
        options = json.dumps(tokenizer_options(tokenizer))
        (tmp_path / "options.json").write_text(options)
        (tmp_path / "captions.json").write_text(json.dumps(captions))
        command = [node, "script.mjs"]
        process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert process.returncode == 0, process.stderr
        rows = json.loads(process.stdout)
        return [row[0] for row in rows], [row[1] for row in rows]

    return encode


def tokenize_in_python(tokenizer, captions):
    """Returns lists of ids and masks without padding."""
    tokens = tokenizer([caption.encode("utf-8", "replace") for caption in captions])
    lengths = tokens["padding_mask"].numpy().sum(axis=1)
    return [
        [
            row[:length].tolist()
            for row, length in zip(tokens[name].numpy(), lengths, strict=True)
        ]
        for name in ("token_ids", "padding_mask")
    ]


def find_differences(captions, actual, expected):
    """Returns the captions for which two lists of rows differ."""
    return [
        caption
        for caption, actual_row, expected_row in zip(
            captions, actual, expected, strict=True
        )
        if actual_row != expected_row
    ]


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_hard_and_random_captions_have_the_ids_of_python(
    tokenize_in_node, normalization
):
    captions = [*HARD_CASES, *random_captions(1000, seed=1)]
    # The vocabulary contains all characters, since [UNK] would hide differences.
    vocabulary = learn_vocabulary(captions, 8000, normalization=normalization)
    tokenizer = WordPieceTokenizer(vocabulary, 32, normalization)
    ids, mask = tokenize_in_node(tokenizer, captions)
    expected_ids, expected_mask = tokenize_in_python(tokenizer, captions)
    differences = find_differences(captions, ids, expected_ids)
    # The Unicode version of TensorFlow does not include these letters.
    new_letters = {chr(point) for point in NEW_LETTERS[normalization]}
    assert [text for text in differences if not new_letters & set(text)] == []
    assert find_differences(captions, mask, expected_mask) == []


def test_captions_have_the_ids_of_hugging_face(tokenize_in_node, tmp_path):
    # The Unicode version of Hugging Face includes all letters.
    captions = [*HARD_CASES, *random_captions(1000, seed=2)]
    vocabulary = learn_vocabulary(captions, 8000)
    ids, _ = tokenize_in_node(WordPieceTokenizer(vocabulary, 24), captions)
    reference = BertWordPieceTokenizer(str(tmp_path / "vocabulary.txt"))
    reference.enable_truncation(24)
    expected = [encoding.ids for encoding in reference.encode_batch(captions)]
    assert find_differences(captions, ids, expected) == []


@pytest.mark.parametrize("step", [17, pytest.param(1, marks=pytest.mark.release)])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_all_characters_are_normalized_as_in_python(
    tokenize_in_node, normalization, step
):
    # A character between two letters is kept, removed, folded, isolated or a space.
    points = [*range(0x3000), *range(0x3000, 0x30000, step)]
    points = [p for p in points if not 0xD800 <= p < 0xE000]
    captions = [f"a{chr(point)}b" for point in points]
    new_letters = {chr(point) for point in NEW_LETTERS[normalization]}
    captions = [caption for caption in captions if caption[1] not in new_letters]
    tokenizer = WordPieceTokenizer(
        ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters(normalization)],
        6,
        normalization,
    )
    ids, _ = tokenize_in_node(tokenizer, captions)
    expected_ids, _ = tokenize_in_python(tokenizer, captions)
    assert find_differences(captions, ids, expected_ids) == []


def letters(normalization):
    """Returns tokens for the characters up to U+3000, which cover most alphabets."""
    learned = learn_vocabulary(
        (f"a{chr(p)}b" for p in range(0x3000) if not chr(p).isspace()),
        8000,
        normalization=normalization,
    )
    return learned[5:]


def test_lone_surrogates_are_removed(tokenize_in_node):
    tokenizer = WordPieceTokenizer(VOCABULARY, 8)
    ids, _ = tokenize_in_node(tokenizer, LONE_SURROGATES)
    replaced = [
        "".join("\ufffd" if "\ud800" <= c < "\ue000" else c for c in caption)
        for caption in LONE_SURROGATES
    ]
    assert ids == tokenize_in_python(tokenizer, replaced)[0]


@pytest.mark.parametrize("caption", ["red " * 25_000, "漢" * 100_000])
def test_huge_captions_have_the_ids_of_python(tokenize_in_node, caption):
    tokenizer = WordPieceTokenizer(VOCABULARY, 64)
    ids, _ = tokenize_in_node(tokenizer, [caption])
    assert ids == tokenize_in_python(tokenizer, [caption])[0]
