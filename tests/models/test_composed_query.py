"""Composed queries by hand-made cases and against the evaluation's ranks."""

from types import SimpleNamespace

import numpy as np
import pytest

from align_keras.evaluation import rank_composed_queries
from align_keras.models.composed_query import encode_query
from align_keras.search import Index
from align_keras.utils.errors import InputError


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


RANDOM = np.random.default_rng(0)
IMAGES = unit(RANDOM.normal(size=(50, 8)))
WORDS = dict(zip("abc", unit(RANDOM.normal(size=(3, 8))), strict=True))
# Images by their rows, as `encode_images` takes a list.
MODEL = SimpleNamespace(
    encode_images=lambda images: IMAGES[list(images)].astype("float32"),
    encode_texts=lambda texts: np.stack([WORDS[text] for text in texts]),
)


def test_weights_are_the_papers():
    expected = unit(IMAGES[3] + 2 * WORDS["a"] + 2 * WORDS["b"] - 2 * WORDS["c"])
    found = encode_query(MODEL, 3, plus=["a", "b"], minus="c")
    assert found.dtype == "float32" and found.shape == (1, 8)
    np.testing.assert_allclose(found[0], expected, atol=1e-6)
    found = encode_query(MODEL, 3, minus="c", text_weight=0.5, image_weight=3)
    expected = unit(3 * IMAGES[3] - 0.5 * WORDS["c"])
    np.testing.assert_allclose(found[0], expected, atol=1e-6)


def test_halves_alone_are_their_embeddings():
    np.testing.assert_allclose(encode_query(MODEL, 3)[0], IMAGES[3], atol=1e-6)
    found = encode_query(MODEL, plus="a")
    np.testing.assert_allclose(found[0], WORDS["a"], atol=1e-6)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_search_ranks_as_the_evaluation_does(sign):
    words = {"plus" if sign == 1 else "minus": "b"}
    index = Index.from_embeddings(IMAGES, ids=range(50))
    hits = index.query(encode_query(MODEL, 7, **words)[0], 50)
    # The evaluation leaves the query's own image out.
    order = [hit.id - 1 for hit in hits if hit.id - 1 != 7]
    for rank in (0, 9, 30):
        query = SimpleNamespace(image=7, words="b", sign=sign, targets=[order[rank]])
        ranks = rank_composed_queries(MODEL.encode_texts, IMAGES, [query])
        assert ranks[""].tolist() == [rank]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "needs `image` or words in `plus`, received neither"),
        ({"minus": "a"}, "needs `image` or words in `plus`"),
        ({"plus": ["a", " "]}, "`plus` must be words, received ' '"),
        ({"image": 3, "minus": [7]}, "`minus` must be words, received 7"),
        ({"plus": "a", "text_weight": 0}, "`text_weight` must be a number > 0"),
        ({"image": 3, "image_weight": float("nan")}, "`image_weight` must be"),
        ({"plus": "a", "minus": "a"}, "`minus` must leave a direction .* cancel out"),
    ],
)
def test_what_is_no_query(arguments, words):
    with pytest.raises(InputError, match=words):
        encode_query(MODEL, **arguments)
