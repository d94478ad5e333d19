"""Tests of the thresholds for copies within the corpus and of evaluation images."""

import numpy as np
import pytest

from align_keras.config import load_corpus_config
from align_keras.corpus.duplicates.near_duplicates import (
    DUPLICATE,
    NEAR_DUPLICATE,
    NEAR_EVALUATION,
    ImageSet,
)
from align_keras.runs.corpus_copies import search_copies

EMBEDDING = "duplicates.mode=embedding,duplicates.encoder=m,"
REASONS = {"near": NEAR_DUPLICATE, "copy": NEAR_EVALUATION, "equal": DUPLICATE}


def embeddings():
    """Returns a corpus and an evaluation set as embeddings.

    "near" is near "best", "equal" has the same pixels, "copied" is near the evaluation
    image, and "copy" has the cosine 0.95 with it.
    """
    angles = np.arccos([1, 0.99, -0.2, -0.2]) + [0, 0, 0, np.arccos(0.95)]
    rows = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    rows = np.concatenate([rows, rows[:1]])
    keys = ["best", "near", "copied", "copy", "equal"]
    pixels = [9, 1, 9, 1, 1]
    corpus = ImageSet(keys, rows, pixels, ["p", "q", "r", "s", "p"])
    return corpus, [ImageSet(["x"], rows[2:3], name="coco")]


def hashes():
    """Returns the same sets as hashes. Near images differ by 8 or by 12 bits."""
    numbers = [0xFFFFFFFF, 0xFFFFFF00, 0xFFFFFFFF << 32, 0xFFFFF000 << 32, 0xFFFFFFFF]
    array = np.array([[[number, 0]] for number in numbers], np.uint64)
    corpus, _ = embeddings()
    corpus = ImageSet(corpus.keys, array, corpus.pixels, corpus.pixel_keys)
    return corpus, [ImageSet(["x"], array[2:3], name="coco")]


@pytest.mark.parametrize(
    ("make_sets", "override", "expected"),
    [
        # The paper only drops images that are near an evaluation image.
        (hashes, "", {"copied", "copy", "equal"}),
        (hashes, "duplicates.max_distance_against=8", {"copied", "equal"}),
        (hashes, "duplicates.inside_corpus=true", {"near", "copied", "copy", "equal"}),
        (
            hashes,
            "duplicates.inside_corpus=true,duplicates.max_distance=7",
            {"copied", "copy", "equal"},
        ),
        *(
            # These cases need faiss, which the default tests don't install.
            pytest.param(
                embeddings, EMBEDDING + override, expected, marks=pytest.mark.ci
            )
            for override, expected in (
                ("", {"copied", "equal"}),
                (
                    "duplicates.min_cosine_against=0.94",
                    {"copied", "copy", "equal"},
                ),
                ("duplicates.inside_corpus=true", {"near", "copied", "equal"}),
                (
                    "duplicates.inside_corpus=true,duplicates.min_cosine=0.995,"
                    "duplicates.min_cosine_against=0.94",
                    {"copied", "copy", "equal"},
                ),
            )
        ),
    ],
)
def test_copies_are_dropped_by_their_threshold(make_sets, override, expected):
    config = load_corpus_config(params_override=[override.rstrip(",")]).duplicates
    corpus, evaluation_sets = make_sets()
    dropped_images = search_copies(corpus, evaluation_sets, config)
    assert {dropped.image_key for dropped in dropped_images} == expected
    for dropped in dropped_images:
        assert dropped.reason == REASONS.get(dropped.image_key, NEAR_EVALUATION)
