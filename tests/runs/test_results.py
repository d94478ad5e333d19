"""Test of the example query that a run shows."""

import numpy as np
import pytest

from align_keras.data import RetrievalSet
from align_keras.runs.results import choose_example_caption
from align_keras.search import Index, Query

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
    ids=["first caption", "later caption", "no caption"],
)
def test_the_example_is_a_caption_that_finds_its_image(best_images, caption):
    image_embeddings = np.eye(3, 4, dtype="float32")
    index = Index.from_embeddings(image_embeddings, PAIRS.ids, PAIRS.captions)
    text_embeddings = image_embeddings[best_images]
    assert choose_example_caption(index, PAIRS, text_embeddings) == caption


def test_the_example_has_the_highest_relevance():
    random = np.random.default_rng(0)
    images = random.normal(size=(30, 8)).astype("float32")
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    names = [f"image {row}" for row in range(30)]
    pairs = RetrievalSet(
        ids=names, images=[], captions=[[name] for name in names], image_keys=names
    )
    texts = images + random.normal(0, 0.5, images.shape).astype("float32")
    texts[20] = images[20]
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    index = Index.from_embeddings(images, names, pairs.captions)
    best = choose_example_caption(index, pairs, texts)
    hits = [index.search(text, Query("text", k=1))[0] for text in texts]
    is_right = [hit.path == name for hit, name in zip(hits, names, strict=True)]
    relevance = [
        hit.relevance if right else -1
        for hit, right in zip(hits, is_right, strict=True)
    ]
    assert best == names[int(np.argmax(relevance))]
