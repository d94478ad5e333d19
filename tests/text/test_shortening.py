"""Shortened texts have the same first tokens as the complete texts."""

import random
import tracemalloc
import unicodedata

import pytest
from tokenizers import BertWordPieceTokenizer

from align_keras.text import shortening
from align_keras.text.shortening import shorten_texts
from align_keras.text.vocabulary import SPECIAL_TOKENS
from tests.helpers.hard_captions import HARD_CASES, random_captions

# A letter, ignored characters, and marks that are letters. Their order may change.
COMBINING = "a\u200b\u0301\ufe00\u0323\u302e\U0001d165\U0001d16d"
# Characters that words contain without a token, in an order that the decomposition
# changes, or that it turns into punctuation.
HARD_CHARACTERS = f"É≠\u1fef한日![] \n{COMBINING}"


def random_texts(count, seed):
    rng = random.Random(seed)
    hard = [*HARD_CHARACTERS, *SPECIAL_TOKENS, "[MA", "SK]"]
    captions = [*HARD_CASES, *random_captions(200)]
    texts = []
    for _ in range(count):
        frequent = [1, 4, 4, 1, 4, 1, 1, 1]
        parts = rng.choices(COMBINING, frequent, k=rng.choice([0, 20, 300]))
        for _ in range(rng.randint(1, 12)):
            parts.append(rng.choice(captions))
            parts.append(rng.choice(hard) * rng.choice([1, 2, 99, 100, 101, 300]))
            parts += rng.choices(hard, k=rng.randint(0, 200))
        texts.append("".join(parts))
    return texts


def character_tokenizer(texts, is_uncased, length):
    """Returns a tokenizer with a token for each character."""
    text = "".join(texts)
    characters = {*text, *unicodedata.normalize("NFD", text)}
    characters |= {*"".join(characters).lower()}
    tokens = [*sorted(characters), *(f"##{letter}" for letter in sorted(characters))]
    vocabulary = {token: row for row, token in enumerate([*SPECIAL_TOKENS, *tokens])}
    tokenizer = BertWordPieceTokenizer(
        vocabulary, lowercase=is_uncased, strip_accents=is_uncased
    )
    tokenizer.enable_truncation(length)
    return tokenizer


@pytest.mark.parametrize("is_uncased", [True, False])
@pytest.mark.parametrize("long", [0, 256])
def test_tokens_do_not_change(monkeypatch, is_uncased, long):
    monkeypatch.setattr(shortening, "_LONG", long)
    texts = random_texts(25, seed=long)
    for length in (3, 32):
        tokenizer = character_tokenizer(texts, is_uncased, length)
        short = shorten_texts(texts, length - 2, is_uncased)
        for text, expected, actual in zip(
            texts,
            tokenizer.encode_batch(texts),
            tokenizer.encode_batch(short),
            strict=True,
        ):
            assert actual.ids == expected.ids, ascii(text)


@pytest.mark.parametrize("part", ["ab ", "a", "日", "[MASK]"])
def test_a_long_text_becomes_short(part):
    text = part * 100_000
    tracemalloc.start()
    try:
        [short] = shorten_texts([text], 32, True)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(short) < 32 * 100 and peak < 8 * len(text.encode())


def test_lone_surrogates_become_question_marks():
    assert shorten_texts(["red \ud800"], 32, True) == ["red ?"]
    assert "\ud800" not in shorten_texts(["red \ud800" * 100], 32, True)[0]
