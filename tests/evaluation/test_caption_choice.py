"""Choices between captions that differ in few words."""

import numpy as np
import pytest

from align_keras.evaluation import caption_choice_outcomes, winoground_outcomes
from align_keras.utils.errors import InputError
from tests.helpers.oracle_process import call_oracle, needs


def unit_rows(random, *shape):
    values = random.normal(size=shape)
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def test_a_tie_is_a_wrong_choice():
    images = np.eye(3)
    captions = np.eye(3)[[0, 1, 0]]
    negatives = np.eye(3)[[1, 1, 2]]
    outcomes = caption_choice_outcomes(images, captions, negatives)
    assert outcomes.tolist() == [1.0, 0.0, 0.0]


def test_scores_of_winoground_follow_their_definitions():
    # Cosines of two images (rows) and two captions (columns) of each example.
    cosines = [
        [[0.9, 0.1], [0.1, 0.9]],  # All are correct.
        [[0.5, 0.4], [0.6, 0.7]],  # The first caption is nearer to the second image.
        [[0.5, 0.6], [0.4, 0.7]],  # The first image is nearer to the second caption.
        [[0.1, 0.9], [0.9, 0.1]],  # All are wrong.
        [[0.5, 0.5], [0.5, 0.5]],  # A tie.
    ]
    # With captions along the axes, the cosines are the coordinates of the images.
    images = np.array(cosines)
    captions = np.broadcast_to(np.eye(2), images.shape)
    outcomes = winoground_outcomes(images, captions)
    assert outcomes["text_score"].tolist() == [1, 1, 0, 0, 0]
    assert outcomes["image_score"].tolist() == [1, 0, 1, 0, 0]
    assert outcomes["group_score"].tolist() == [1, 0, 0, 0, 0]


@pytest.mark.parametrize("position", [0, 1, 2])
def test_embeddings_that_are_not_finite_are_refused(position):
    arguments = [np.eye(4) for _ in range(3)]
    arguments[position][2, 1] = np.nan
    with pytest.raises(InputError, match="must be finite.* in 1 row: 2"):
        caption_choice_outcomes(*arguments)
    if position < 2:
        pairs = [array.reshape(2, 2, 4) for array in arguments[:2]]
        with pytest.raises(InputError, match="must be finite.* in 1 row: 2"):
            winoground_outcomes(*pairs)


@pytest.mark.ci
@needs("torch", "clip_benchmark")
def test_scores_match_clip_benchmark():
    random = np.random.default_rng(3)
    images = unit_rows(random, 60, 2, 6)
    captions = unit_rows(random, 60, 2, 6) + images
    captions /= np.linalg.norm(captions, axis=-1, keepdims=True)
    expected = call_oracle(
        "clip_benchmark_metrics", "image_caption_selection", images, captions
    )
    outcomes = winoground_outcomes(images, captions)
    for name, key in (
        ("text_score", "text_acc"),
        ("image_score", "image_acc"),
        ("group_score", "acc"),
    ):
        assert outcomes[name].mean() == pytest.approx(expected[key])
        assert 0 < expected[key] < 1
    one_image = call_oracle(
        "clip_benchmark_metrics", "image_caption_selection", images[:, :1], captions
    )
    choices = caption_choice_outcomes(images[:, 0], captions[:, 0], captions[:, 1])
    assert choices.mean() == pytest.approx(one_image["text_acc"])
    assert 0 < one_image["text_acc"] < 1
