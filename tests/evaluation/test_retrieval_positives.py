"""Positives of retrieval with and without shared captions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from align_keras.evaluation.retrieval import (
    flatten_captions,
    normalized_caption,
    shared_positives,
    unshared_positives,
)
from align_keras.utils.errors import InputError


def as_lists(rows):
    return [np.asarray(item_rows).tolist() for item_rows in rows]


def test_normalized_captions_are_casefolded_with_collapsed_white_space():
    assert normalized_caption("  Große\tKatze \n") == normalized_caption("GROSSE katze")
    assert normalized_caption("a b") != normalized_caption("ab")


def test_shared_positives_of_a_small_example_match_a_calculation():
    # Images 0 and 2 have the same key. Captions 1 and 4 have the same text.
    positives = shared_positives(
        ["twin", "cat", "twin", "alone"],
        ["red bird", "A bird", "a cat", "robin", "a  BIRD", "lone"],
        [0, 0, 1, 2, 1, 3],
    )
    assert as_lists(positives.image_to_text) == [
        # Captions of image 0, caption 3 of its twin, and caption 4 with an equal text.
        [0, 1, 3, 4],
        [1, 2, 4],
        [0, 1, 3, 4],
        [5],
    ]
    assert as_lists(positives.text_to_image) == [
        [0, 2],
        [0, 1, 2],
        [1],
        [0, 2],
        [0, 1, 2],
        [3],
    ]


def test_an_image_without_captions_has_no_positives():
    positives = shared_positives(["a", "b"], ["x"], [1])
    assert as_lists(positives.image_to_text) == [[], [0]]
    assert as_lists(positives.text_to_image) == [[1]]


@given(
    st.lists(st.sampled_from("abcd"), min_size=1, max_size=8).flatmap(
        lambda keys: st.tuples(
            st.just(keys),
            st.lists(
                st.tuples(
                    st.sampled_from(["x", "X ", "y", "z"]),
                    st.integers(0, len(keys) - 1),
                ),
                max_size=12,
            ),
        )
    )
)
def test_shared_positives_match_their_definition(case):
    keys, pairs = case
    captions, index = [text for text, _ in pairs], [row for _, row in pairs]
    index = np.array(index, int)
    positives = shared_positives(keys, captions, index)
    key_text_pairs = {
        (keys[row], caption.strip().lower())
        for caption, row in zip(captions, index, strict=True)
    }
    matrix = np.array(
        [
            [(key, caption.strip().lower()) in key_text_pairs for caption in captions]
            for key in keys
        ]
    ).reshape(len(keys), len(captions))
    assert as_lists(positives.image_to_text) == as_lists(map(np.flatnonzero, matrix))
    assert as_lists(positives.text_to_image) == as_lists(map(np.flatnonzero, matrix.T))


def test_equal_captions_share_one_array():
    rows = 1375
    positives = shared_positives(range(rows), ["the same title"] * rows)
    assert len(positives.text_to_image[7]) == rows
    # With separate arrays, the memory would grow with the square of the rows.
    assert positives.text_to_image[0] is positives.text_to_image[1]


def test_unshared_positives_of_a_small_example_match_a_calculation():
    positives = unshared_positives(4, np.array([2, 0, 2, 3]))
    assert as_lists(positives.image_to_text) == [[1], [], [0, 2], [3]]
    assert as_lists(positives.text_to_image) == [[2], [0], [2], [3]]


def test_unshared_positives_distinguish_equal_captions():
    unshared = unshared_positives(2, [0, 1])
    shared = shared_positives(["a", "b"], ["the same", "the same"], [0, 1])
    assert as_lists(unshared.text_to_image) == [[0], [1]]
    assert as_lists(shared.text_to_image) == [[0, 1], [0, 1]]


def test_flatten_captions_returns_the_image_of_each_caption():
    texts, rows = flatten_captions([["a", "b"], "c", []])
    assert texts == ["a", "b", "c"]
    assert rows.tolist() == [0, 0, 1]


@pytest.mark.parametrize("index", [None, [0, 2], [0, 0, 1]])
def test_invalid_images_of_captions_are_refused(index):
    with pytest.raises(InputError, match="caption_image_index"):
        shared_positives(["a"], ["x", "y"], index)
