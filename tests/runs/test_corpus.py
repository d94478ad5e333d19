"""Which thresholds `dedup` takes: inside the corpus, and to evaluation sets."""

import numpy as np
import pytest

from align_keras.config import load_corpus_config
from align_keras.corpus.duplicates.near_duplicates import (
    DUPLICATE,
    NEAR_DUPLICATE,
    NEAR_EVALUATION,
    ImageSet,
)
from align_keras.runs.corpus import CopySearch

EMBEDDING = "duplicates.mode=embedding,duplicates.encoder=m,"
REASONS = {"near": NEAR_DUPLICATE, "copy": NEAR_EVALUATION, "equal": DUPLICATE}


def embeddings():
    """Two near each other, two at the cosine 0.95, an equal, and an evaluation set."""
    angles = np.arccos([1, 0.99, -0.2, -0.2]) + [0, 0, 0, np.arccos(0.95)]
    rows = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    rows = np.concatenate([rows, rows[:1]])
    keys = ["best", "near", "copied", "copy", "equal"]
    pixels = [9, 1, 9, 1, 1]
    corpus = ImageSet(keys, rows, pixels, ["p", "q", "r", "s", "p"])
    return corpus, [ImageSet(["x"], rows[2:3], name="coco")]


def hashes():
    """The same, as hashes that differ by 8 and by 12 bits."""
    own = [0xFFFFFFFF, 0xFFFFFF00, 0xFFFFFFFF << 32, 0xFFFFF000 << 32, 0xFFFFFFFF]
    array = np.array([[[number, 0]] for number in own], np.uint64)
    corpus, _ = embeddings()
    corpus = ImageSet(corpus.keys, array, corpus.pixels, corpus.pixel_keys)
    return corpus, [ImageSet(["x"], array[2:3], name="coco")]


@pytest.mark.parametrize(
    ("pictures", "override", "expected"),
    [
        # The paper's: only what is near to an evaluation image.
        (hashes, "", {"copied", "copy", "equal"}),
        (hashes, "duplicates.max_distance_against=8", {"copied", "equal"}),
        (hashes, "duplicates.inside_corpus=true", {"near", "copied", "copy", "equal"}),
        (
            hashes,
            "duplicates.inside_corpus=true,duplicates.max_distance=7",
            {"copied", "copy", "equal"},
        ),
        *(
            # By faiss, which the default run hasn't got.
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
def test_copies_leave_by_the_threshold_of_their_place(pictures, override, expected):
    config = load_corpus_config(params_override=[override.rstrip(",")]).duplicates
    corpus, references = pictures()
    dropped = CopySearch(corpus, config).find(references)
    assert {own.image_key for own in dropped} == expected
    for own in dropped:
        assert own.reason == REASONS.get(own.image_key, NEAR_EVALUATION)
