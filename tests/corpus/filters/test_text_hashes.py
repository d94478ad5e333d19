"""Words and hashes of many texts at once, against one at a time."""

import hashlib

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from align_keras.corpus.filters.text_hashes import (
    PADDING,
    find_words,
    hash_pairs,
    hash_spans,
    hash_strings,
    mix,
    text_features,
)
from tests.helpers.filter_reference import hash_ngram, hash_text, words_of
from tests.helpers.filter_reference import mix as mix_one


@hypothesis.given(st.lists(st.text(max_size=40), max_size=8))
def test_as_one_at_a_time(texts):
    assert hash_strings(texts).tolist() == [hash_text(own) for own in texts]


def test_known_values():
    # What is stored between stages must mean the same in the next release.
    assert hash_strings(["cat", "a bicycle on a wall"]).tolist() == (
        [0x649B90C556484855, 0xF764F1B647C769C1]
    )


def test_where_a_string_stands_makes_no_difference():
    data = np.frombuffer(b"xxcatxcatxx" + bytes(8), np.uint8)
    first, second = hash_spans(data, np.array([2, 6]), np.array([5, 9]))
    assert first == second == hash_strings(["cat"])[0]


def test_mixing_is_a_bijection_that_spreads_every_bit():
    values = np.arange(100_000, dtype=np.uint64)
    mixed = mix(values.copy())
    assert len(np.unique(mixed)) == len(values)
    assert mixed[12345] == mix_one(12345)
    for bit in range(64):
        flipped = mix(values ^ np.uint64(1 << bit)) ^ mixed
        share = np.unpackbits(flipped.view(np.uint8)).mean()
        assert 0.48 < share < 0.52


def test_like_strings_collide_no_more_than_random_numbers_do():
    # In 32 bits, of 200,000 random numbers 4.7 pairs are expected to be equal.
    texts = [f"{kind} number {own}" for kind in ("a", "b") for own in range(100_000)]
    hashes = hash_strings(texts)
    assert len(np.unique(hashes)) == len(texts)
    for half in (hashes >> np.uint64(32), hashes & np.uint64(2**32 - 1)):
        assert len(texts) - len(np.unique(half)) < 20


def test_spread_over_ranges_is_even():
    # Partitions are ranges of the hashes.
    words = [
        hashlib.md5(bytes([own % 256, own // 256])).hexdigest()[: own % 12 + 1]
        for own in range(60_000)
    ]
    hashes = hash_strings(sorted(set(words)))
    sizes = np.bincount((hashes >> np.uint64(60)).astype(int), minlength=16)
    assert sizes.min() > 0.93 * len(hashes) / 16


def test_pairs_are_ordered():
    one, two = hash_strings(["one"]), hash_strings(["two"])
    assert hash_pairs(one, two) != hash_pairs(two, one)
    assert hash_pairs(one, one) != hash_pairs(two, two)
    assert one == hash_strings(["one"])  # The arguments stay.


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


@hypothesis.given(st.lists(st.text("aB c猫-é.", max_size=12), max_size=6))
def test_features_are_those_of_one_at_a_time(texts):
    features = text_features(texts)
    words = [words_of(own) for own in texts]
    assert features.unigram_counts.tolist() == [len(own) for own in words]
    assert features.unigrams.tolist() == [
        hash_ngram((word,)) for own in words for word in own
    ]
    assert features.bigrams.tolist() == [
        hash_ngram(pair) for own in words for pair in zip(own, own[1:], strict=False)
    ]
    assert features.text_hashes.tolist() == [hash_text(own.casefold()) for own in texts]
    for place, bigram in zip(features.bigram_places, features.bigrams, strict=True):
        places = range(len(features.unigrams))
        first, second = (words and sum(words, []))[place : place + 2]
        assert place in places and bigram == hash_ngram((first, second))


def test_a_bigram_never_spans_two_texts():
    assert len(text_features(["a", "b", "", "c d"]).bigrams) == 1
    assert len(text_features([]).bigrams) == len(text_features([""]).unigrams) == 0


def test_suspects_have_an_at_or_seven_digits():
    texts = ["a@b", "123 456", "123 4567", "١٢٣٤٥٦٧", "²³⁴⁵⁶⁷⁸⁹", "none"]
    assert text_features(texts).may_be_personal.tolist() == (
        [True, False, True, True, False, False]
    )
