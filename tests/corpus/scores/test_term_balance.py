"""Tests of balancing, against plain substring matching and simulated draws."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from align_keras.corpus.scores.term_balance import (
    TermMatcher,
    keep_probability,
    read_terms,
    term_probabilities,
    uniform_draw,
)
from align_keras.utils.errors import InputError

TEXTS = st.text("ab,. \t", max_size=12)


def spaced(text):
    """Returns a text as MetaCLIP's code spaces captions before it searches for terms.

    This function is written with `str.replace`, unlike the code that it tests.
    """
    text = f" {text} "
    for sign in ",.;:?!`":
        text = text.replace(sign, f" {sign} ")
    for space in "\t\n\r":
        text = text.replace(space, " ")
    return text


@given(TEXTS, st.lists(TEXTS.filter(str.strip), max_size=6))
def test_terms_match_as_substrings_between_spaces(caption, texts):
    terms = list({spaced(text).strip(" "): text for text in texts}.values())
    expected = {
        number
        for number, term in enumerate(terms)
        if f" {spaced(term).strip(' ')} " in spaced(caption)
    }
    assert TermMatcher(terms).match(caption) == expected


def test_upper_and_lower_case_differ():
    matcher = TermMatcher(["cat", "Cat", "black cat"])
    assert matcher.match("Cat!") == {1}
    assert matcher.match("a black cat, and Cat?") == {0, 1, 2}
    assert matcher.match("concatenate") == set()


def test_a_caption_counts_once_for_each_term():
    matcher = TermMatcher(["cat", "dog"])
    counts = matcher.count(["cat cat", "a cat and a dog", "bird"])
    assert counts.tolist() == [2, 1]


def test_terms_of_the_same_form_are_merged(tmp_path):
    path = tmp_path / "terms.txt"
    path.write_text("black cat\nblack\tcat\nbird\nblack cat\n")
    assert read_terms(path) == ["black cat", "bird"]
    matcher = TermMatcher(["black cat", "black\tcat", "bird"])
    assert matcher.count(["a black cat", "a bird"]).tolist() == [1, 0, 1]


def test_the_expected_number_of_captions_of_a_frequent_term_is_the_threshold():
    captions = ["cat"] * 400 + ["cat dog"] * 100 + ["dog"] * 10 + ["bird"] * 5
    matcher = TermMatcher(["cat", "dog", "fish"])
    counts = matcher.count(captions)
    assert counts.tolist() == [500, 110, 0]
    probabilities = term_probabilities(counts, 50)
    np.testing.assert_allclose(probabilities, [50 / 500, 50 / 110, 1])
    # MetaCLIP draws for each term of a caption and keeps it if one draw succeeds.
    generator = np.random.default_rng(0)
    draws = generator.random((200_000, 2)) < probabilities[:2]
    for caption, terms in (("cat", [0]), ("dog", [1]), ("cat dog", [0, 1])):
        numbers = list(matcher.match(caption))
        simulated = draws[:, terms].any(axis=1).mean()
        probability = keep_probability(probabilities[numbers])
        assert probability == pytest.approx(simulated, abs=0.005)
    assert keep_probability(probabilities[list(matcher.match("bird"))]) == 0


def test_draws_are_uniform_and_depend_on_each_argument():
    draws = np.array([uniform_draw(str(n), "a cat", 0) for n in range(4000)])
    assert 0 <= draws.min() and draws.max() < 1
    counts = np.histogram(draws, 10, (0, 1))[0]
    # Chi-squared statistic with 9 degrees of freedom. A value above 28 has p < 0.001.
    assert ((counts - 400) ** 2 / 400).sum() < 28
    values = {uniform_draw("1", "a", 0), uniform_draw("1", "b", 0)}
    assert len(values | {uniform_draw("2", "a", 0), uniform_draw("1", "a", 1)}) == 4


def test_terms_are_read_from_lines(tmp_path):
    path = tmp_path / "terms.txt"
    path.write_text("\ufeffcat\n\n  black cat \r\ncat\nBär\n", encoding="utf-8")
    assert read_terms(path) == ["cat", "black cat", "Bär"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "score.terms must be a readable file.*No such file"),
        (b"\n \n", "at least one term"),
        (b"caf\xe9\n", "must be a text file in UTF-8"),
    ],
)
def test_invalid_lists_of_terms_are_reported(tmp_path, content, message):
    path = tmp_path / "terms.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_terms(path)
