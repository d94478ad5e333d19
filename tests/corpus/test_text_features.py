"""Hashes of unigrams, bigrams and texts."""

import hypothesis
import hypothesis.strategies as st
from filter_reference import hash_ngram, hash_text, words_of

from align_keras.corpus.text_features import text_features


@hypothesis.given(st.lists(st.text("aB c猫-é.", max_size=12), max_size=6))
def test_as_one_at_a_time(texts):
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
