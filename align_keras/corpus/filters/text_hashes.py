"""Captions as arrays of 64-bit hashes, equal on every machine: texts, words, pairs of
words. NumPy reads eight bytes at a time, in a tenth of the time of a call a word. Among
D strings the expected number of equal hashes is below D²/2^65.
"""

import dataclasses
import functools
import unicodedata

import numpy as np

# Digits. Personal data has at least this many, apart from email addresses.
MIN_DIGITS = 7
# Kinds of characters, as bits.
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
# These combining marks belong to emojis.
_EMOJI_MARKS = {*range(0xFE00, 0xFE10), 0x20E3}
# Hashes read eight bytes from any byte on.
PADDING = 8


@dataclasses.dataclass(frozen=True)
class Words:
    """Case-folded texts in UTF-8, a newline after each and `PADDING` zeros, and their
    words' spans; of each text how many words and digits, and whether it has "@".
    """

    data: np.ndarray
    text_starts: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    counts: np.ndarray
    digits: np.ndarray
    has_at: np.ndarray


def find_words(texts: list[str]) -> Words:
    """Finds the words of texts without newlines, by the rule of `unigrams`."""
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
    firsts, pasts = _runs(kinds)
    digits = np.flatnonzero(kinds & DIGIT)
    ats = np.flatnonzero(kinds & AT)
    # Converts positions of characters to positions of bytes.
    if byte_positions is not None:
        firsts, pasts, digits, ats = (
            byte_positions[characters] for characters in (firsts, pasts, digits, ats)
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


def _runs(kinds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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
def _kinds(codes: int) -> np.ndarray:
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


# The golden ratio's bits, and the multipliers of the "moremur" mixer.
_STEP = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLIERS = np.array([0x3C79AC492BA7B653, 0x1C69B3F74AC4AE35], np.uint64)
# The bytes that count of a read that the string ends in.
_MASKS = np.array([(1 << 8 * count) - 1 for count in range(9)], np.uint64)


def mix(values: np.ndarray) -> np.ndarray:
    """Mixes the bits of uint64 values in place: Pelle Evensen's "moremur", 2019."""
    values ^= values >> np.uint64(27)
    values *= _MULTIPLIERS[0]
    values ^= values >> np.uint64(33)
    values *= _MULTIPLIERS[1]
    values ^= values >> np.uint64(27)
    return values


def hash_spans(data: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Hashes spans of a uint8 array with at least `PADDING` bytes behind the last."""
    # Eight bytes from any byte on.
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
    """Hashes strings by their UTF-8, uint64."""
    contents = [text.encode("utf-8", "surrogatepass") for text in strings]
    ends = np.cumsum([0, *map(len, contents)])
    data = np.frombuffer(b"".join(contents) + bytes(PADDING), np.uint8)
    return hash_spans(data, ends[:-1], ends[1:])


def hash_pairs(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Hashes pairs of hashes; the order counts."""
    return mix(mix(first * _STEP) + second)


@dataclasses.dataclass(frozen=True)
class TextFeatures:
    """Texts as hashes; case doesn't count. `unigrams` are of all texts in order,
    `bigrams` of each two in succession in one, whose first stand at `bigram_places`.
    """

    text_hashes: np.ndarray
    unigram_counts: np.ndarray
    unigrams: np.ndarray
    bigrams: np.ndarray
    bigram_places: np.ndarray
    may_be_personal: np.ndarray


def text_features(texts: list[str]) -> TextFeatures:
    """Computes the features of normalized texts."""
    words = find_words(texts)
    unigrams = hash_spans(words.data, words.starts, words.ends)
    is_last = np.zeros(len(unigrams), bool)
    is_last[np.cumsum(words.counts)[words.counts > 0] - 1] = True
    first_words = np.flatnonzero(~is_last)
    return TextFeatures(
        # Without the newline.
        hash_spans(words.data, words.text_starts[:-1], words.text_starts[1:] - 1),
        words.counts,
        unigrams,
        hash_pairs(unigrams[first_words], unigrams[first_words + 1]),
        first_words,
        words.has_at | (words.digits >= MIN_DIGITS),
    )


def is_member(keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Tells which values are among the keys; only the keys are sorted."""
    is_found = np.zeros(len(values), bool)
    if len(keys) and len(values):
        # In order, so that neighbors are looked up in the same pages.
        order = np.argsort(values)
        ordered = values[order]
        positions = np.searchsorted(keys, ordered)
        is_found[order] = keys[np.minimum(positions, len(keys) - 1)] == ordered
    return is_found
