"""The page's tokenizer, run by node, against the Python one and Hugging Face's."""

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
const plain = rows.map((row) => Object.values(row).map((ids) => [...ids]));
console.log(JSON.stringify(plain));
"""
# As JavaScript holds what isn't Unicode, and JSON spells it.
LONE_SURROGATES = ["a\ud83db", "\udc00", "[MA\udfffSK] red"]


@pytest.fixture
def in_node(tmp_path):
    """A function from a tokenizer and captions to lists of ids and of masks."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node isn't installed")
    web = pathlib.Path(align_keras.export.__file__).parent / "web"
    shutil.copyfile(web / "tokenizer.js", tmp_path / "tokenizer.mjs")
    (tmp_path / "script.mjs").write_text(SCRIPT)

    def encode(tokenizer, captions):
        save_vocabulary(tokenizer.vocabulary, tmp_path / "vocabulary.txt")
        options = json.dumps(tokenizer_options(tokenizer))
        (tmp_path / "options.json").write_text(options)
        (tmp_path / "captions.json").write_text(json.dumps(captions))
        command = [node, "script.mjs"]
        run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        rows = json.loads(run.stdout)
        return [row[0] for row in rows], [row[1] for row in rows]

    return encode


def in_python(tokenizer, captions):
    tokens = tokenizer([caption.encode("utf-8", "replace") for caption in captions])
    return [tokens[name].numpy().tolist() for name in ("token_ids", "padding_mask")]


def different(captions, left, right):
    return [
        caption
        for caption, *pair in zip(captions, left, right, strict=True)
        if pair[0] != pair[1]
    ]


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_hard_and_random_captions(in_node, normalization):
    captions = [*HARD_CASES, *random_captions(3000, seed=1)]
    # Every character known, so that a wrong one can't hide behind [UNK].
    vocabulary = learn_vocabulary(captions, 8000, normalization=normalization)
    tokenizer = WordPieceTokenizer(vocabulary, 32, normalization)
    ids, mask = in_node(tokenizer, captions)
    expected_ids, expected_mask = in_python(tokenizer, captions)
    wrong = different(captions, ids, expected_ids)
    known = {chr(point) for point in NEW_LETTERS[normalization]}
    assert [caption for caption in wrong if not known & set(caption)] == []
    assert different(captions, mask, expected_mask) == []


def test_hugging_face(in_node, tmp_path):
    # Here the letters are right that TensorFlow's Unicode doesn't know yet.
    captions = [*HARD_CASES, *random_captions(1000, seed=2)]
    vocabulary = learn_vocabulary(captions, 8000)
    ids, _ = in_node(WordPieceTokenizer(vocabulary, 24), captions)
    reference = BertWordPieceTokenizer(str(tmp_path / "vocabulary.txt"))
    reference.enable_truncation(24)
    reference.enable_padding(length=24)
    expected = [encoding.ids for encoding in reference.encode_batch(captions)]
    assert different(captions, ids, expected) == []


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_every_character(in_node, normalization):
    """Each character between letters: kept, dropped, folded, isolated or a space."""
    points = [p for p in range(0x30000) if not 0xD800 <= p < 0xE000]
    captions = [f"a{chr(point)}b" for point in points]
    known = {chr(point) for point in NEW_LETTERS[normalization]}
    captions = [caption for caption in captions if caption[1] not in known]
    tokenizer = WordPieceTokenizer(
        ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters(normalization)],
        6,
        normalization,
    )
    ids, _ = in_node(tokenizer, captions)
    assert different(captions, ids, in_python(tokenizer, captions)[0]) == []


def letters(normalization):
    """Alphabets in which most characters of Unicode's scripts are written."""
    learned = learn_vocabulary(
        (f"a{chr(p)}b" for p in range(0x3000) if not chr(p).isspace()),
        8000,
        normalization=normalization,
    )
    return learned[5:]


def test_lone_surrogates_are_dropped(in_node):
    tokenizer = WordPieceTokenizer(VOCABULARY, 8)
    ids, _ = in_node(tokenizer, LONE_SURROGATES)
    replaced = [
        "".join("\ufffd" if "\ud800" <= c < "\ue000" else c for c in caption)
        for caption in LONE_SURROGATES
    ]
    assert ids == in_python(tokenizer, replaced)[0]


@pytest.mark.parametrize("caption", ["red " * 25_000, "x" * 100_000, "漢" * 100_000])
def test_huge_captions(in_node, caption):
    tokenizer = WordPieceTokenizer(VOCABULARY, 64)
    ids, _ = in_node(tokenizer, [caption])
    assert ids == in_python(tokenizer, [caption])[0]
