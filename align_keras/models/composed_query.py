"""Search queries that combine an image with words to add or to subtract."""

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from align_keras.utils.errors import InputError

# A text may end in `^` and its weight, as in the query syntax of Lucene.
_WEIGHTED = re.compile(
    r"(?P<text>.*)\^(?P<weight>[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))\s*", re.DOTALL
)
MAX_WEIGHT = 1e6


def encode_query(
    model: Any,
    image: Any = None,
    plus: str | Sequence[str] = (),
    minus: str | Sequence[str] = (),
    *,
    text_weight: float = 2.0,
    image_weight: float = 1.0,
) -> np.ndarray:
    """Returns the embedding of a query made of an image, words, or both.

    The query is `image_weight` · (mean of the images) + `text_weight` · (sum of plus),
    computed from embeddings of unit length and normalized to unit length. Each text of
    `minus` then removes the part of the query that points toward it. A text that ends
    in `^` and a number, such as `"snow^2"`, is multiplied by this weight, and
    `"snow^2"` in `minus` removes twice this part.

    Args:
        model: `ALIGN`, `Embedder`, or another object with `encode_images` and
            `encode_texts`.
        image: one image that `encode_images` accepts, a list or tuple of such images,
            or None.
        plus: texts to add.
        minus: texts to subtract.
        text_weight: > 0, the weight of each text of `plus`.
        image_weight: > 0, the weight of the image.

    Returns:
        float32 array (1, d), a row of unit length. `Index.query` accepts this row.

    Raises:
        InputError: if there is neither an image nor a text in `plus`, if a text is
            blank, if a weight isn't positive, or if the image and the texts cancel
            out, or if a weight after `^` isn't a number > 0.

    References:
        Jia et al. 2021, section 7 and figure 5. The default weights 2 and 1 gave the
        best results in the paper, which also subtracts with the weight 2. The search
        removes words instead (Widdows 2003, "Orthogonal negation in vector spaces"),
        because this finds more images (see `how/scores.md`).
    """
    plus = _texts("plus", plus)
    minus = _texts("minus", minus)
    if image is None:
        images = []
    else:
        images = list(image) if isinstance(image, list | tuple) else [image]
    if not images and not plus:
        raise InputError(
            "A query must have an `image` or words in `plus`. Received: neither. Pass "
            "one of them. Words in `minus` are subtracted from it."
        )
    for name, weight in (("text_weight", text_weight), ("image_weight", image_weight)):
        if not (isinstance(weight, (int, float)) and 0 < weight < math.inf):
            raise InputError(
                f"`{name}` must be a number > 0. Received: {name}={weight!r}. Leave it "
                "out to use the weights of the paper, 2 for a text and 1 for the image."
            )
    # The scalar broadcasts to the width of the embeddings.
    query = np.zeros(())
    if images:
        embeddings = np.asarray(model.encode_images(images), float)
        query = query + image_weight * embeddings.mean(axis=0)
    if plus or minus:
        texts, weights = zip(*map(split_weight, [*plus, *minus]), strict=True)
        embeddings = np.asarray(model.encode_texts(list(texts)), float)
        if plus:
            added = np.array(weights[: len(plus)]) @ embeddings[: len(plus)]
            query = query + text_weight * added
        for embedding, weight in zip(
            embeddings[len(plus) :], weights[len(plus) :], strict=True
        ):
            query = query - weight * max(query @ embedding, 0.0) * embedding
    length = np.linalg.norm(query)
    # Equal embeddings differ by rounding errors of float32, so the threshold isn't 0.
    if not length > 1e-6 * (image_weight + text_weight):
        raise InputError(
            "`image`, `plus` and `minus` must not cancel out. Received: "
            f"plus={plus}, minus={minus}. Remove the words that are in both."
        )
    return (query / length).astype("float32")[None]


def split_weight(text: str) -> tuple[str, float]:
    """Splits a text of a query into its words and its weight, by default 1.

    Only the last `^` counts, so `"x^2^1"` is the text `"x^2"` with weight 1.

    Raises:
        InputError: if the weight isn't a number > 0 and of at most 1e6, or there are no
            words before it.

    Example:

    >>> split_weight("red car^2"), split_weight("a red car"), split_weight("x^2^1")
    (('red car', 2.0), ('a red car', 1.0), ('x^2', 1.0))
    """
    match = _WEIGHTED.fullmatch(text)
    if match is None:
        return text, 1.0
    weight = float(match["weight"])
    if not match["text"].strip() or not 0 < weight <= MAX_WEIGHT:
        raise InputError(
            f"A text with a weight must be words, ^ and a number > 0. Received: "
            f"{text!r:.80}. Write, for example, 'red car^2'. To subtract words, use "
            "`minus`."
        )
    return match["text"], weight


def _texts(name: str, texts: str | Sequence[str]) -> list[str]:
    """Returns a list of texts from one or several texts."""
    texts = [texts] if isinstance(texts, str) else list(texts)
    for text in texts:
        if not isinstance(text, str) or not text.strip():
            raise InputError(
                f"`{name}` must be one or more words. Received: {name}={text!r}. "
                "Remove blank texts."
            )
    return texts
