"""Results of a run: the query that the next commands show."""

import numpy as np
import pytest

from align_keras.data import RetrievalSet
from align_keras.runs.results import choose_example_caption
from align_keras.search import Index

PAIRS = RetrievalSet(
    ids=["a", "b", "c"],
    images=[],
    captions=[["one"], ["two", "three"], ["four"]],
    image_keys=["a", "b", "c"],
)


@pytest.mark.parametrize(
    "best_images, caption",
    [
        ([0, 1, 1, 2], "one"),
        ([1, 0, 1, 2], "three"),
        ([1, 0, 0, 1], "one"),
    ],
    ids=["first", "a later caption", "none"],
)
def test_the_example_is_a_caption_that_finds_its_image(best_images, caption):
    image_embeddings = np.eye(3, 4, dtype="float32")
    index = Index.from_embeddings(image_embeddings, PAIRS.ids, PAIRS.captions)
    text_embeddings = image_embeddings[best_images]
    assert choose_example_caption(index, PAIRS, text_embeddings) == caption
