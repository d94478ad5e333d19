"""64-bit hashes of captions, words and word pairs.

The hashes are the same on every machine. NumPy hashes all words of a batch together,
eight bytes at a time, which takes a tenth of the time of one function call for each
word. The expected number of collisions among D strings is below D²/2^65.
"""

import dataclasses
import functools
import unicodedata

import numpy as np

# Personal data other than email addresses has at least this number of digits.
MIN_DIGITS = 7
# Bits of the kinds of characters: part of a word, a whole word, decimal digit, "@".
WORD, ALONE, DIGIT, AT = 1, 2, 4, 8

# Code point. Above it, only tags and variation selectors are assigned.
_CODES = 0x40000
# Ranges of the ideographs that BERT's tokenizer treats as separate words.
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
# Combining marks that belong to emojis.
_EMOJI_MARKS = {*range(0xFE00, 0xFE10), 0x20E3}
# Number of zero bytes after the last text. Hashing reads eight bytes at once, and may
# read beyond the end of the text.
PADDING = 8


@dataclasses.dataclass(frozen=True)
class Words:
    """Positions of the words in a batch of texts.

    Attributes:
        data: uint8 array, the case-folded texts in UTF-8. Each text ends with a
            newline, and the last is followed by `PADDING` zeros.
        text_starts: int array (texts + 1,), byte at which each text begins, and the end
            of the last text.
        starts: int array (words,), byte at which each word begins.
        ends: int array (words,), byte after the end of each word.
        counts: int array (texts,), number of words in each text.
        digits: int array (texts,), number of decimal digits in each text.
        has_at: bool array (texts,), whether each text contains "@".
    """

    data: np.ndarray
    text_starts: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    counts: np.ndarray
    digits: np.ndarray
    has_at: np.ndarray


def find_words(texts: list[str]) -> Words:
    """Finds the words of texts.

    Words are defined in `align_keras.corpus.filters.texts.unigrams`.

    Args:
        texts: list of str without newlines.
    """
    joined = "".join(f"{text}\n" for text in texts).casefold()
    content = joined.encode() + bytes(PADDING)
    data = np.frombuffer(content, np.uint8)
    letters = data[:-PADDING]
    newlines = np.flatnonzero(letters == ord("\n"))
    text_starts = np.concatenate([[0], newlines + 1])
    if joined.isascii():
        kinds, byte_positions = _kinds(128)[letters], None
    else:
        codes = np.frombuffer(joined.encode("utf-32-le"), "<u4")
        kinds = _kinds(_CODES)[np.minimum(codes, _CODES - 1)]
        byte_positions = np.append(
            np.flatnonzero((letters & 0xC0) != 0x80), len(letters)
        )
    starts, ends = _word_spans(kinds)
    digits = np.flatnonzero(kinds & DIGIT)
    ats = np.flatnonzero(kinds & AT)
    # Converts positions of characters to positions of bytes.
    if byte_positions is not None:
        starts, ends, digits, ats = (
            byte_positions[characters] for characters in (starts, ends, digits, ats)
        )
    return Words(
        data,
        text_starts,
        starts,
        ends,
        counts=np.diff(np.searchsorted(starts, text_starts)),
        digits=np.diff(np.searchsorted(digits, text_starts)),
        has_at=np.diff(np.searchsorted(ats, text_starts)) > 0,
    )


def _word_spans(kinds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the start and the end of each word, as positions of characters."""
    # The end is the position after the last character of the word.
    word = (kinds & WORD).view(bool)
    # A character continues the word before it, unless one of the two is an ideograph.
    begins, ends = word.copy(), word.copy()
    joins = word[1:] & word[:-1]
    if (kinds & ALONE).any():
        alone = kinds & ALONE != 0
        joins &= ~(alone[1:] | alone[:-1])
    begins[1:] &= ~joins
    ends[:-1] &= ~joins
    return np.flatnonzero(begins), np.flatnonzero(ends) + 1


@functools.cache
def _kinds(codes: int) -> np.ndarray:
    """Returns the kind bits of the characters below code point `codes`, uint8."""
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


# The bits of the golden ratio, and the multipliers of the "moremur" mixer.
_STEP = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLIERS = np.array([0x3C79AC492BA7B653, 0x1C69B3F74AC4AE35], np.uint64)
# Masks that select the first 0 to 8 bytes of a read, for the end of a string.
_MASKS = np.array([(1 << 8 * count) - 1 for count in range(9)], np.uint64)


def mix(values: np.ndarray) -> np.ndarray:
    """Mixes the bits of uint64 values in place and returns the array.

    The mixer is "moremur" (Pelle Evensen, 2019).
    """
    values ^= values >> np.uint64(27)
    values *= _MULTIPLIERS[0]
    values ^= values >> np.uint64(33)
    values *= _MULTIPLIERS[1]
    values ^= values >> np.uint64(27)
    return values


def hash_spans(data: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Hashes spans of bytes.

    Args:
        data: uint8 array with at least `PADDING` bytes after the last span.
        starts: int array (spans,), first byte of each span.
        ends: int array (spans,), byte after the last of each span.

    Returns:
        uint64 array (spans,). Equal bytes have equal hashes at any position.
    """
    # Entry i of this view is the integer that the eight bytes from position i encode.
    reads = np.ndarray((len(data) - 7,), "<u8", data, strides=(1,))
    lengths = (ends - starts).astype(np.int64)
    hashes = mix((lengths + 1).astype(np.uint64) * _STEP)
    hashes ^= reads[starts] & _MASKS[np.minimum(lengths, 8)]
    mix(hashes)
    rows = np.flatnonzero(lengths > 8)
    offset = 8
    while rows.size:
        remaining = np.minimum(lengths[rows] - offset, 8)
        hashes[rows] = mix(
            hashes[rows] ^ (reads[starts[rows] + offset] & _MASKS[remaining])
        )
        offset += 8
        rows = rows[lengths[rows] > offset]
    return hashes


def hash_strings(strings: list[str]) -> np.ndarray:
    """Hashes the UTF-8 bytes of each string. Returns a uint64 array (strings,)."""
    contents = [text.encode("utf-8", "surrogatepass") for text in strings]
    ends = np.cumsum([0, *map(len, contents)])
    data = np.frombuffer(b"".join(contents) + bytes(PADDING), np.uint8)
    return hash_spans(data, ends[:-1], ends[1:])


def hash_pairs(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Combines two arrays of hashes elementwise. The order of the arrays matters."""
    return mix(mix(first * _STEP) + second)


@dataclasses.dataclass(frozen=True)
class TextFeatures:
    """Hashes of a batch of texts, independent of case.

    Attributes:
        text_hashes: uint64 array (texts,).
        unigram_counts: int array (texts,), number of unigrams in each text.
        unigrams: uint64 array, hashes of the words of all texts, in order.
        bigrams: uint64 array, hashes of each two consecutive words of a text.
        bigram_positions: int array, index in `unigrams` of the first word of each
            bigram.
        may_be_personal: bool array (texts,), false for texts that cannot contain
            personal data.
    """

    text_hashes: np.ndarray
    unigram_counts: np.ndarray
    unigrams: np.ndarray
    bigrams: np.ndarray
    bigram_positions: np.ndarray
    may_be_personal: np.ndarray


def text_features(texts: list[str]) -> TextFeatures:
    """Computes the features of normalized texts."""
    words = find_words(texts)
    unigrams = hash_spans(words.data, words.starts, words.ends)
    is_last = np.zeros(len(unigrams), bool)
    is_last[np.cumsum(words.counts)[words.counts > 0] - 1] = True
    first_words = np.flatnonzero(~is_last)
    return TextFeatures(
        # The newline at the end of each text isn't part of its hash.
        hash_spans(words.data, words.text_starts[:-1], words.text_starts[1:] - 1),
        words.counts,
        unigrams,
        hash_pairs(unigrams[first_words], unigrams[first_words + 1]),
        first_words,
        words.has_at | (words.digits >= MIN_DIGITS),
    )


def is_member(keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Returns which values are among the keys.

    Args:
        keys: uint64 array, sorted. It may be memory-mapped.
        values: uint64 array (n,), in any order.

    Returns:
        bool array (n,).
    """
    is_match = np.zeros(len(values), bool)
    if len(keys) and len(values):
        # Looking up sorted values reads each page of a memory-mapped array only once.
        order = np.argsort(values)
        ordered = values[order]
        positions = np.searchsorted(keys, ordered)
        is_match[order] = keys[np.minimum(positions, len(keys) - 1)] == ordered
    return is_match
