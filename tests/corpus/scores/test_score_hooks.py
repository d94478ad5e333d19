"""Tests of columns that functions of the user compute."""

import fractions

import numpy as np
import pytest

from align_keras.corpus.scores.score_hooks import call_score_hook
from align_keras.utils.errors import InputError

IMAGES = [b"first", b"second"]
CAPTIONS = ["a cat", "a dog"]


def test_a_hook_gets_lists_of_bytes_and_str():
    calls = []

    def hook(images, captions):
        calls.append((images, captions))
        return [0, 0.5]

    assert call_score_hook("safety", hook, IMAGES, CAPTIONS) == [0.0, 0.5]
    assert calls == [(IMAGES, CAPTIONS)]


@pytest.mark.parametrize(
    "scores",
    [
        [1, 2.5],
        (1, 2.5),
        np.array([1, 2.5], np.float32),
        [np.float32(1), np.float64(2.5)],
        [fractions.Fraction(1), fractions.Fraction(5, 2)],
    ],
)
def test_numbers_of_all_kinds_are_accepted(scores):
    result = call_score_hook("safety", lambda *_: scores, IMAGES, CAPTIONS)
    assert result == [1.0, 2.5]
    assert all(type(score) is float for score in result)


@pytest.mark.parametrize(
    "scores", [None, [0.5], [0.5, "a"], [0.5, None], [float("inf"), 0.5]]
)
def test_invalid_scores_are_refused(scores):
    with pytest.raises(InputError, match="safety"):
        call_score_hook("safety", lambda *_: scores, IMAGES, CAPTIONS)


def test_an_error_of_a_hook_is_reported_in_one_line():
    def hook(images, captions):
        raise KeyError("no\nweights")

    with pytest.raises(InputError, match="safety") as caught:
        call_score_hook("safety", hook, IMAGES, CAPTIONS)
    assert "\n" not in str(caught.value)
