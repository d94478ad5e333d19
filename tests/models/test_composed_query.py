"""Tests of queries that combine an image with words."""

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
# Model with fixed embeddings. Each image is represented by its row number in IMAGES.
MODEL = SimpleNamespace(
    encode_images=lambda images: IMAGES[list(images)].astype("float32"),
    encode_texts=lambda texts: np.stack([WORDS[text] for text in texts]),
)


def test_default_weights_are_those_of_the_paper():
    expected = unit(IMAGES[3] + 2 * WORDS["a"] + 2 * WORDS["b"])
    query = encode_query(MODEL, 3, plus=["a", "b"])
    assert query.dtype == "float32" and query.shape == (1, 8)
    np.testing.assert_allclose(query[0], expected, atol=1e-6)
    query = encode_query(MODEL, 3, plus="c", text_weight=0.5, image_weight=3)
    expected = unit(3 * IMAGES[3] + 0.5 * WORDS["c"])
    np.testing.assert_allclose(query[0], expected, atol=1e-6)


def test_minus_removes_only_the_part_that_points_toward_the_words():
    images = unit(IMAGES[3] + WORDS["a"])
    model = SimpleNamespace(
        encode_images=lambda _: images[None], encode_texts=MODEL.encode_texts
    )
    [query] = encode_query(model, 0, minus="a")
    assert query @ WORDS["a"] == pytest.approx(0, abs=1e-6)
    # A weight removes a part of it, and words that point away have no effect.
    [half] = encode_query(model, 0, minus="a^0.5")
    assert 0 < half @ WORDS["a"] < images @ WORDS["a"]
    model.encode_texts = lambda texts: -images[None].repeat(len(texts), axis=0)
    np.testing.assert_allclose(encode_query(model, 0, minus="a")[0], images, atol=1e-6)


def test_an_image_or_a_text_alone_keeps_its_embedding():
    np.testing.assert_allclose(encode_query(MODEL, 3)[0], IMAGES[3], atol=1e-6)
    query = encode_query(MODEL, plus="a")
    np.testing.assert_allclose(query[0], WORDS["a"], atol=1e-6)


@pytest.mark.parametrize("sign", [1, -1])
def test_search_and_evaluation_return_the_same_ranks(sign):
    words = {"plus" if sign == 1 else "minus": "b"}
    index = Index.from_embeddings(IMAGES, ids=range(50))
    hits = index.query(encode_query(MODEL, 7, **words)[0], 50)
    # The evaluation excludes the image of the query.
    order = [hit.id - 1 for hit in hits if hit.id - 1 != 7]
    for rank in (0, 9, 30):
        query = SimpleNamespace(image=7, words="b", sign=sign, targets=[order[rank]])
        ranks = rank_composed_queries(MODEL.encode_texts, IMAGES, [query])
        assert ranks[""].tolist() == [rank]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "`image` .*`plus`. Received: neither"),
        ({"minus": "a"}, "`image` .*`plus`. Received: neither"),
        ({"plus": ["a", " "]}, "`plus` .* plus=' '"),
        ({"image": 3, "minus": [7]}, "`minus` .* minus=7"),
        ({"plus": "a", "text_weight": 0}, "`text_weight` .* > 0"),
        ({"image": 3, "image_weight": float("nan")}, "`image_weight` .*=nan"),
        ({"plus": "a", "minus": "a"}, "cancel out.* plus="),
    ],
)
def test_invalid_queries_are_refused(arguments, words):
    with pytest.raises(InputError, match=words):
        encode_query(MODEL, **arguments)


def test_weights_of_texts_and_several_images():
    vectors = np.eye(4)
    mean = vectors[:2].mean(axis=0)
    model = SimpleNamespace(
        encode_images=lambda images: vectors[list(images)],
        encode_texts=lambda texts: vectors[
            [["snow", "red car"].index(t) + 2 for t in texts]
        ],
    )
    query = encode_query(model, [0, 1], ["snow^3", "red car^.5"], text_weight=2)
    expected = mean + 6 * vectors[2] + vectors[3]
    np.testing.assert_allclose(query[0], expected / np.linalg.norm(expected), rtol=1e-6)
    for text in ("snow^0", "snow^-1", "^2"):
        with pytest.raises(ValueError, match="\\^"):
            encode_query(model, plus=text)
