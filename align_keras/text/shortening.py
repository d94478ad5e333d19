"""Shortening of long texts before tokenization, without TensorFlow.

A tokenizer needs memory for all tokens of a text, even if it keeps only the first ones.
"""

import functools
import itertools
import re
import unicodedata
from collections.abc import Sequence

from align_keras.text.unicode_classes import (
    IDEOGRAPHS,
    MARKS,
    PUNCTUATION,
    REMOVED,
    SPACES,
    complement,
    python_class,
)
from align_keras.text.vocabulary import MAX_CHARACTERS_PER_WORD, SPECIAL_TOKENS

# Characters. Shorter texts and words are not shortened.
_LONG = 256
# Letters that the uncased normalization decomposes into punctuation and a mark.
_DECOMPOSED_PUNCTUATION = "1FEF 2260 226E 226F"


def shorten_texts(
    texts: Sequence[str], sequence_length: int, is_uncased: bool
) -> list[str]:
    """Returns texts with the same first `sequence_length` tokens.

    Lone surrogates become question marks, because UTF-8 cannot encode them.

    Args:
        texts: sequence of str.
        sequence_length: maximum number of tokens of a text.
        is_uncased: True for the normalization `"bert_uncased"`.

    Example:

    >>> [text] = shorten_texts(["ab " * 1_000_000], 32, True)
    >>> len(text)
    95
    """
    valid = [text.encode("utf-8", "replace").decode() for text in texts]
    return [_shorten(text, sequence_length, is_uncased) for text in valid]


def _shorten(text: str, num_words: int, is_uncased: bool) -> str:
    """Returns the first words of a text. Each word has at least one token."""
    if len(text) <= _LONG:
        return text
    words = itertools.islice(_patterns(is_uncased)[0].finditer(text), num_words)
    return " ".join(_shorten_word(match["word"], is_uncased) for match in words)


def _shorten_word(word: str, is_uncased: bool) -> str:
    """Returns a shorter word with the same tokens."""
    if len(word) <= _LONG:
        return word
    if _patterns(is_uncased)[1].match(word):
        # All words of this length have the token [UNK].
        return "x" * (MAX_CHARACTERS_PER_WORD + 1)
    word = re.sub(python_class(REMOVED), "", word)
    if is_uncased:
        # The tokenizer decomposes the word again. A mark between two letters, here a
        # variation selector, keeps their order, and is removed later.
        decomposed = unicodedata.normalize("NFD", word)
        word = re.sub(f"{python_class(MARKS)}+", "\ufe00", decomposed)
    return word


@functools.cache
def _patterns(is_uncased: bool) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Returns the patterns of the next word and of a word with too many letters."""
    # A special token, a punctuation character and an ideograph are words. The group
    # `word` is empty at the end of a text.
    isolated, ignored = PUNCTUATION + IDEOGRAPHS, REMOVED
    if is_uncased:
        isolated += _DECOMPOSED_PUNCTUATION
        ignored += MARKS
    # `re` finds the members of a class faster than other characters.
    letter = python_class(complement(isolated + SPACES + ignored))
    later = python_class(complement(isolated + SPACES))
    special = "|".join(map(re.escape, SPECIAL_TOKENS))
    word = f"{special}|{letter}{later}*+|{python_class(isolated)}|\\Z"
    too_many = MAX_CHARACTERS_PER_WORD + 1
    return (
        re.compile(f"{python_class(SPACES + ignored)}*+(?P<word>{word})"),
        re.compile(f"(?:{letter}{python_class(ignored)}*+){{{too_many}}}"),
    )
