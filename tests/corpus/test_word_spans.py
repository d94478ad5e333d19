"""Words of many texts at once, against a regular expression on one at a time."""

import hypothesis
import hypothesis.strategies as st
import pytest

from align_keras.corpus.word_spans import PADDING, find_words

LETTERS = "aZ09_ .,'@-é\u0301ßİ猫熊ア한हि्न🧀️٣½"


def split(words):
    content = words.data.tobytes()
    found = [
        content[own:end].decode()
        for own, end in zip(words.starts, words.ends, strict=True)
    ]
    rest = iter(found)
    return [[next(rest) for _ in range(count)] for count in words.counts]


@hypothesis.given(st.lists(st.text(LETTERS, max_size=15), max_size=6))
def test_as_a_regular_expression(texts):
    regex = pytest.importorskip("regex")
    word = regex.compile(
        r"\p{Han}|(?:(?![\p{Han}\N{VARIATION SELECTOR-16}])[\p{L}\p{N}\p{Mn}\p{Mc}_])+"
    )
    words = find_words(texts)
    assert split(words) == [word.findall(own.casefold()) for own in texts]
    assert words.digits.tolist() == [
        sum(letter.isdecimal() for letter in own) for own in texts
    ]
    assert words.has_at.tolist() == ["@" in own for own in texts]
    content = words.data.tobytes()
    assert [
        content[start : end - 1].decode()
        for start, end in zip(words.text_starts, words.text_starts[1:], strict=False)
    ] == [own.casefold() for own in texts]
    assert content.endswith(bytes(PADDING))


def test_words_end_with_their_text():
    assert split(find_words(["ab", "cd", "", "猫", "é"])) == (
        [["ab"], ["cd"], [], ["猫"], ["é"]]
    )
