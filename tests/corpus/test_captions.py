"""Cleaning and refusing one caption."""

import hypothesis
import hypothesis.strategies as strategies
import pytest

from align_keras.corpus.captions import caption_fault, clean_caption


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("a cat", "a cat"),
        ("  a\t\tcat\r\n", "a cat"),
        ("a\x00cat\x1b[0m", "a cat [0m"),
        ("a\u2003cat\u00a0", "a cat"),
        ("Käse 🧀 奶酪", "Käse 🧀 奶酪"),
        ("half \ud83e pair", "half pair"),
        ("\x00\x01 \n", ""),
    ],
)
def test_control_characters_and_spaces_collapse(text, cleaned):
    assert clean_caption(text) == cleaned


@hypothesis.given(strategies.text(strategies.characters(exclude_categories=())))
def test_any_text_becomes_one_storable_line(text):
    cleaned = clean_caption(text)
    cleaned.encode("utf-8")
    assert len(cleaned.splitlines()) <= 1
    assert "  " not in cleaned and clean_caption(cleaned) == cleaned


def test_limits():
    assert caption_fault("") == ("empty caption", "")
    assert caption_fault("a" * 2_000) is None
    assert caption_fault("a" * 2_001) == ("long caption", "2,001 characters")
    assert caption_fault("a" * 10_000)[0] == "long caption"
