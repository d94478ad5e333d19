"""Queries of an image plus or minus words."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from align_keras.utils.errors import InputError


def encode_query(
    model: Any,
    image: Any = None,
    plus: str | Sequence[str] = (),
    minus: str | Sequence[str] = (),
    *,
    text_weight: float = 2.0,
    image_weight: float = 1.0,
) -> np.ndarray:
    """Embeds an image, words, or an image plus and minus words, as one query.

    The query is `image_weight` · image + `text_weight` · (sum of plus − sum of
    minus), of embeddings of unit length, brought to unit length.

    Args:
        model: `ALIGN`, `Embedder`, or another object with `encode_images` and
            `encode_texts`.
        image: one image that `encode_images` accepts, or None.
        plus: str or sequence of str, texts to add.
        minus: str or sequence of str, texts to subtract.
        text_weight: float > 0, the weight of each text.
        image_weight: float > 0, the weight of the image.

    Returns:
        float32 array (1, d), a row of unit length. `Index.query` takes the row.

    Raises:
        InputError: without an image and without words to add, for blank words and
            other weights, and where image and words cancel out.

    References:
        Jia et al. 2021, section 7 and figure 5; the weights of 2 and 1 are its best.
    """
    plus = _texts("plus", plus)
    minus = _texts("minus", minus)
    if image is None and not plus:
        raise InputError(
            "a query needs `image` or words in `plus`, received neither; give one of "
            "them, and in `minus` what to take from it."
        )
    for name, weight in (("text_weight", text_weight), ("image_weight", image_weight)):
        if not (isinstance(weight, (int, float)) and 0 < weight < math.inf):
            raise InputError(
                f"`{name}` must be a number > 0, received {weight!r}; leave it out for "
                "the paper's 2 of a text and 1 of the image."
            )
    # Broadcasts to the width of the embeddings.
    query = np.zeros(())
    if image is not None:
        embedding = np.asarray(model.encode_images([image]), float)[0]
        query = query + image_weight * embedding
    if plus or minus:
        texts = np.asarray(model.encode_texts([*plus, *minus]), float)
        signs = np.repeat([1.0, -1.0], [len(plus), len(minus)])
        query = query + text_weight * signs @ texts
    length = np.linalg.norm(query)
    # The difference of equal embeddings is the rounding error of float32.
    if not length > 1e-6 * (image_weight + text_weight):
        raise InputError(
            "`image`, `plus` and `minus` must leave a direction to search in, but "
            f"cancel out: plus {plus}, minus {minus}; leave out what is in both."
        )
    return (query / length).astype("float32")[None]


def _texts(name: str, texts: str | Sequence[str]) -> list[str]:
    """Returns a str or several as a list, or raises if one is blank."""
    texts = [texts] if isinstance(texts, str) else list(texts)
    for text in texts:
        if not isinstance(text, str) or not text.strip():
            raise InputError(
                f"`{name}` must be words, received {text!r}; name what to look for."
            )
    return texts
