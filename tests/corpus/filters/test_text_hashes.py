"""Compares words and hashes of a batch of texts with those of single texts."""

import hashlib
import itertools

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
def test_batch_hashes_equal_the_hashes_of_single_texts(texts):
    assert hash_strings(texts).tolist() == [hash_text(text) for text in texts]


def test_hashes_equal_recorded_values():
    # Hashes are stored between stages and must not change between releases.
    assert hash_strings(["cat", "a bicycle on a wall"]).tolist() == (
        [0x649B90C556484855, 0xF764F1B647C769C1]
    )


def test_the_hash_does_not_depend_on_the_position():
    data = np.frombuffer(b"xxcatxcatxx" + bytes(8), np.uint8)
    first, second = hash_spans(data, np.array([2, 6]), np.array([5, 9]))
    assert first == second == hash_strings(["cat"])[0]


def test_mixing_is_a_bijection_that_spreads_every_bit():
    values = np.arange(10_000, dtype=np.uint64)
    mixed = mix(values.copy())
    assert len(np.unique(mixed)) == len(values)
    assert mixed[1234] == mix_one(1234)
    for bit in range(64):
        flipped = mix(values ^ np.uint64(1 << bit)) ^ mixed
        fraction = np.unpackbits(flipped.view(np.uint8)).mean()
        assert 0.47 < fraction < 0.53


def test_similar_strings_collide_no_more_often_than_random_numbers():
    # Among 20,000 random 32-bit numbers, 0.05 pairs are expected to be equal.
    texts = [
        f"{kind} number {number}" for kind in ("a", "b") for number in range(10_000)
    ]
    hashes = hash_strings(texts)
    assert len(np.unique(hashes)) == len(texts)
    for half in (hashes >> np.uint64(32), hashes & np.uint64(2**32 - 1)):
        assert len(texts) - len(np.unique(half)) < 3


def test_hashes_are_spread_evenly_over_the_partitions():
    words = [
        hashlib.md5(bytes([number % 256, number // 256])).hexdigest()[: number % 12 + 1]
        for number in range(30_000)
    ]
    hashes = hash_strings(sorted(set(words)))
    sizes = np.bincount((hashes >> np.uint64(60)).astype(int), minlength=16)
    assert sizes.min() > 0.9 * len(hashes) / 16


def test_the_hash_of_a_pair_depends_on_its_order():
    one, two = hash_strings(["one"]), hash_strings(["two"])
    assert hash_pairs(one, two) != hash_pairs(two, one)
    assert hash_pairs(one, one) != hash_pairs(two, two)
    # The arguments were not modified.
    assert one == hash_strings(["one"])


LETTERS = "aZ09_ .,'@-é\u0301ßİ猫熊ア한हि्न🧀️٣½"


def words_by_text(words):
    content = words.data.tobytes()
    strings = (
        content[start:end].decode()
        for start, end in zip(words.starts, words.ends, strict=True)
    )
    return [list(itertools.islice(strings, count)) for count in words.counts]


@hypothesis.given(st.lists(st.text(LETTERS, max_size=15), max_size=6))
def test_words_equal_the_matches_of_a_regular_expression(texts):
    regex = pytest.importorskip("regex")
    word = regex.compile(
        r"\p{Han}|(?:(?![\p{Han}\N{VARIATION SELECTOR-16}])[\p{L}\p{N}\p{Mn}\p{Mc}_])+"
    )
    words = find_words(texts)
    assert words_by_text(words) == [word.findall(text.casefold()) for text in texts]
    assert words.digits.tolist() == [
        sum(letter.isdecimal() for letter in text) for text in texts
    ]
    assert words.has_at.tolist() == ["@" in text for text in texts]
    content = words.data.tobytes()
    assert [
        content[start : end - 1].decode()
        for start, end in zip(words.text_starts, words.text_starts[1:], strict=False)
    ] == [text.casefold() for text in texts]
    assert content.endswith(bytes(PADDING))


def test_a_word_never_spans_two_texts():
    assert words_by_text(find_words(["ab", "cd", "", "猫", "é"])) == (
        [["ab"], ["cd"], [], ["猫"], ["é"]]
    )


@hypothesis.given(st.lists(st.text("aB c猫-é.", max_size=12), max_size=6))
def test_batch_features_equal_the_features_of_single_texts(texts):
    features = text_features(texts)
    words = [words_of(text) for text in texts]
    assert features.unigram_counts.tolist() == list(map(len, words))
    assert features.unigrams.tolist() == [
        hash_ngram((word,)) for text_words in words for word in text_words
    ]
    assert features.bigrams.tolist() == [
        hash_ngram(pair)
        for text_words in words
        for pair in zip(text_words, text_words[1:], strict=False)
    ]
    assert features.text_hashes.tolist() == [
        hash_text(text.casefold()) for text in texts
    ]
    all_words = sum(words, [])
    for position, bigram in zip(
        features.bigram_positions, features.bigrams, strict=True
    ):
        first, second = all_words[position : position + 2]
        assert position in range(len(features.unigrams))
        assert bigram == hash_ngram((first, second))


def test_a_bigram_never_spans_two_texts():
    assert len(text_features(["a", "b", "", "c d"]).bigrams) == 1
    assert len(text_features([]).bigrams) == len(text_features([""]).unigrams) == 0


def test_texts_with_an_at_sign_or_seven_digits_may_be_personal():
    texts = ["a@b", "123 456", "123 4567", "١٢٣٤٥٦٧", "²³⁴⁵⁶⁷⁸⁹", "none"]
    assert text_features(texts).may_be_personal.tolist() == (
        [True, False, True, True, False, False]
    )
