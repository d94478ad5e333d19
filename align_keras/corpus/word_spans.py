"""Where the words of many texts stand, found by NumPy for all texts at once."""

import dataclasses
import functools
import unicodedata

import numpy as np

# What a character is, as bits.
WORD, ALONE, DIGIT, AT = 1, 2, 4, 8

# Beyond these planes no character is assigned but tags and variation selectors.
_CODES = 0x40000
# The ideographs that BERT's tokenizer sets apart.
_IDEOGRAPHS = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)
# Of the marks, these belong to emojis.
_EMOJI_MARKS = {*range(0xFE00, 0xFE10), 0x20E3}
# Hashes read eight bytes from any byte on.
PADDING = 8


@dataclasses.dataclass(frozen=True)
class Words:
    """The case-folded texts and their words.

    Attributes:
        data: uint8 array, the texts in UTF-8, a newline after each, `PADDING` zeros.
        text_starts: int64 array `(texts + 1,)`, where each begins in `data`; the last
            is the end of all.
        starts: int64 array `(words,)`, where each word begins in `data`.
        ends: int64 array `(words,)`.
        counts: int64 array `(texts,)`, words a text.
        digits: int64 array `(texts,)`, decimal digits a text.
        has_at: bool array `(texts,)`, whether an `@` stands in it.
    """

    data: np.ndarray
    text_starts: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    counts: np.ndarray
    digits: np.ndarray
    has_at: np.ndarray


def find_words(texts):
    """Finds the words of texts, by the rule of `text_normalization.unigrams`.

    Args:
        texts: list of str without newlines or halves of surrogate pairs, such as
            `normalize_text` returns.

    Returns:
        `Words`.

    Example:

    >>> words = find_words(["A cat", "", "Two Dogs bark"])
    >>> words.counts.tolist(), words.text_starts.tolist()
    ([2, 0, 3], [0, 6, 7, 21])
    """
    joined = "".join(f"{text}\n" for text in texts).casefold()
    content = joined.encode() + bytes(PADDING)
    data = np.frombuffer(content, np.uint8)
    letters = data[:-PADDING]
    newlines = np.flatnonzero(letters == ord("\n"))
    text_starts = np.concatenate([[0], newlines + 1])
    if joined.isascii():
        kinds, places = _kinds(128)[letters], None
    else:
        codes = np.frombuffer(joined.encode("utf-32-le"), "<u4")
        kinds = _kinds(_CODES)[np.minimum(codes, _CODES - 1)]
        places = np.append(np.flatnonzero((letters & 0xC0) != 0x80), len(letters))
    firsts, pasts = _runs(kinds)
    digits = np.flatnonzero(kinds & DIGIT)
    ats = np.flatnonzero(kinds & AT)
    if places is not None:  # From characters to bytes.
        firsts, pasts, digits, ats = (
            places[own] for own in (firsts, pasts, digits, ats)
        )
    return Words(
        data,
        text_starts,
        firsts,
        pasts,
        counts=np.diff(np.searchsorted(firsts, text_starts)),
        digits=np.diff(np.searchsorted(digits, text_starts)),
        has_at=np.diff(np.searchsorted(ats, text_starts)) > 0,
    )


def _runs(kinds):
    """Returns where words begin and where they have ended, in characters."""
    word = (kinds & WORD).view(bool)
    # A word begins after what is none, and on both sides of what stands alone.
    begins, ends = word.copy(), word.copy()
    joins = word[1:] & word[:-1]
    if (kinds & ALONE).any():
        alone = kinds & ALONE != 0
        joins &= ~(alone[1:] | alone[:-1])
    begins[1:] &= ~joins
    ends[:-1] &= ~joins
    return np.flatnonzero(begins), np.flatnonzero(ends) + 1


@functools.cache
def _kinds(codes):
    kinds = np.zeros(codes, np.uint8)
    for code in range(codes):
        category = unicodedata.category(chr(code))
        if category[0] in "LN" or category in ("Mn", "Mc"):
            kinds[code] = WORD
        if category == "Nd":
            kinds[code] |= DIGIT
    kinds[ord("_")] = WORD
    kinds[ord("@")] = AT
    if codes > 128:
        kinds[list(_EMOJI_MARKS)] = 0
        for first, last in _IDEOGRAPHS:
            kinds[first : last + 1] = WORD | ALONE
    return kinds
