"""Tests of caption cleaning and of the detection of unusable captions."""

import hypothesis
import hypothesis.strategies as strategies
import pytest

from align_keras.corpus.caption_cleaning import clean_caption, is_usable, names_file
from align_keras.corpus.drop_counter import DropCounter


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
def test_control_characters_and_spaces_become_single_spaces(text, cleaned):
    assert clean_caption(text) == cleaned


@hypothesis.given(strategies.text(strategies.characters(exclude_categories=())))
def test_any_text_becomes_a_line_that_utf8_can_encode(text):
    cleaned = clean_caption(text)
    cleaned.encode("utf-8")
    assert len(cleaned.splitlines()) <= 1
    assert "  " not in cleaned and clean_caption(cleaned) == cleaned


def test_empty_and_long_captions_are_dropped():
    counter = DropCounter()
    assert not is_usable("", counter, "line 1")
    assert is_usable("a" * 2_000, counter, "line 2")
    assert not is_usable("a" * 2_001, counter, "line 3")
    assert not is_usable("x" * 9_996 + ".png", counter, "line 4", "")
    assert counter.bad == {"empty caption": 1, "long caption": 2}
    assert counter.examples["long caption"] == "line 3: 2,001 characters"


URL = "https://example.org/up/a%20b/IMG_2041-300x200.jpg?w=300"


FILE_NAMES = [
    ("../../_images/foo_bar.png", ""),
    ("foo.PNG", ""),
    ("foo.jpg?itok=4", ""),
    ("https://example.org/a", ""),
    ("//example.org/a", ""),
    ("www.example.org", ""),
    (r"C:\pictures\cat", ""),
    ("/home/me/cat", ""),
    ("File:Map of Graz.svg", ""),
    ("IMG_2041", URL),
    ("img_2041.jpg", URL),
    ("20190304", "/photos/20190304-scaled.jpg"),
    ("Screenshot 2024-01-02 at 10.png", "/Screenshot%202024-01-02%20at%2010.png"),
    ("Foo bar.jpg", "https://e.org/thumb/a/220px-Foo_bar.jpg"),
    ("plushie_2", "/assets/plushie_2-" + "0f" * 16 + ".png"),
]


def test_file_names_are_detected():
    for caption, image_url in FILE_NAMES:
        assert names_file(caption, image_url), caption


OTHER_CAPTIONS = [
    ("", ""),
    ("cat", "/cat.png"),
    ("forget-me-not", "/forget-me-not.jpg"),
    ("A red bicycle", "/a_red_bicycle.png"),
    ("Saving as logo.png", "/save.png"),
    ("The .svg format", ""),
    ("Node.js", "/nodejs.png"),
    ("and/or", ""),
    ("IMG_2041", "/IMG_2042.jpg"),
    ("Open http://localhost in a browser", ""),
    ("IMG_2041", "http://[::1/IMG_2041.jpg"),
    ("image_1", "data:image/png;base64,image_1"),
]


def test_other_captions_are_not_file_names():
    for caption, image_url in OTHER_CAPTIONS:
        assert not names_file(caption, image_url), caption


@hypothesis.given(strategies.text(), strategies.text())
def test_any_text_and_address_can_be_checked(caption, image_url):
    names_file(clean_caption(caption), image_url)
