"""Queries of an image index."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from align_keras.models.composed_query import encode_query, split_weight
from align_keras.utils.arguments import check_number
from align_keras.utils.errors import InputError

MAX_K = 100_000
# Limits of a request to a server: number of texts of a parameter, and characters of a
# text. The models read about a hundred characters.
MAX_TEXTS = 32
MAX_TEXT_LENGTH = 10_000


@dataclasses.dataclass
class Query:
    """Search request: texts, an image, a condition and options.

    Args:
        text: texts to search for. Each text of `text`, `plus`
            and `minus` may end in `^` and a weight, as in `"red car^2"`. The default
            weight is 1.
        image: path or address of an image, bytes of an image file, uint8 array
            (height, width, 3), or int, the id of an image in the index ("more like
            this"). A list of images searches for the mean of their embeddings.
        plus: texts whose embeddings are added to the query.
        minus: texts whose embeddings are subtracted.
        where: condition on the columns of the images, such as
            `"year >= 2020 and folder like '%Italy%'"`, or None.
        k: maximum number of hits.
        duplicates: bool. False merges near-duplicates into the best hit among them,
            and True returns them as separate hits. By default they are merged, unless
            the index was made from embeddings.
        text_weight: > 0, weight of each text relative to the image, which has
            weight 1. The default is `Embedder.text_weight` of the model.

    Example:

    >>> Query("a red bicycle", minus="people", k=3).title
    'a red bicycle − people'
    """

    text: str | Sequence[str] = ()
    image: Any = None
    plus: str | Sequence[str] = ()
    minus: str | Sequence[str] = ()
    where: str | None = None
    k: int = 10
    duplicates: bool | None = None
    text_weight: float | None = None

    def __post_init__(self) -> None:
        self.text, self.plus, self.minus = map(
            _as_tuple, (self.text, self.plus, self.minus)
        )
        for text in self.all_texts:
            split_weight(text)  # This call raises InputError for a wrong weight.
        remedy = "Pass the number of hits."
        check_number("`k`", self.k, 1, MAX_K, whole=True, remedy=remedy)

    @property
    def title(self) -> str:
        """The query as a line of text."""
        parts = [_title_of(image) for image in self.images]
        parts += [str(name) for name in self.text]
        text = " + ".join([*parts, *self.plus])
        return " ".join([text, *(f"− {words}" for words in self.minus)])

    @property
    def images(self) -> list[Any]:
        """Images of the query."""
        if self.image is None:
            return []
        return (
            list(self.image) if isinstance(self.image, list | tuple) else [self.image]
        )

    @property
    def all_texts(self) -> tuple[str, ...]:
        """Texts to search for, to add and to subtract, with their weights."""
        return (*self.text, *self.plus, *self.minus)

    @property
    def words(self) -> list[str]:
        """Texts to search for, to add and to subtract, without their weights."""
        return [split_weight(text)[0] for text in self.all_texts]

    @property
    def has_content(self) -> bool:
        """True if the query has a text or an image, and not only a condition."""
        return bool(self.images or self.all_texts)

    @property
    def has_relevance(self) -> bool:
        """True for queries of words only, for which `relevance` was fitted."""
        return bool(self.all_texts) and not self.images

    def encode(
        self,
        model: Any,
        stored: Sequence[np.ndarray] | None = None,
        texts: Any = None,
    ) -> np.ndarray:
        """Returns the embedding of the query, float32 (d,), with unit length.

        Args:
            model: `Embedder` of the index.
            stored: sequence of float32 (d,), embeddings of the images if they are
                already computed.
            texts: object with `encode_texts` to use instead of the model, or None.
        """
        weight = self.text_weight
        return encode_query(
            _Encoders(model, stored, texts),
            self.images,
            [*self.text, *self.plus],
            self.minus,
            text_weight=model.text_weight if weight is None else weight,
        )[0]


class _Encoders:
    """Encoders of a model, or embeddings and a text encoder that replace them.

    The arguments are those of `Query.encode`.
    """

    def __init__(
        self, model: Any, stored: Sequence[np.ndarray] | None, texts: Any
    ) -> None:
        self._model = model
        self._stored = stored
        self._texts = model if texts is None else texts

    def encode_images(self, images: Sequence[Any]) -> np.ndarray:
        if self._stored is not None:
            return np.stack(self._stored)
        embeddings: np.ndarray = self._model.encode_images(images)
        return embeddings

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        embeddings: np.ndarray = self._texts.encode_texts(texts)
        return embeddings


def _title_of(image: Any) -> str:
    if isinstance(image, int):
        return f"image {image}"
    if isinstance(image, str | os.PathLike):
        return os.path.basename(os.fspath(image))
    return "an image"


def _as_tuple(texts: str | Sequence[str]) -> tuple[str, ...]:
    return (texts,) if isinstance(texts, str) else tuple(texts)


def check_words(texts: Sequence, images: Sequence, modifiers: Sequence) -> None:
    """Raises InputError unless a search has a text or an image, and no blank text.

    Args:
        texts: texts to search for.
        images: images to search for.
        modifiers: texts of `plus` and `minus`.
    """
    words = [*texts, *modifiers]
    if not (images or texts) or any(not word.strip() for word in words):
        raise InputError(
            "A search must have `image` or a `text` that is not blank, which `plus` "
            f"and `minus` modify. Received: {words}. Enter what to search for."
        )


def check_request_texts(name: str, texts: Sequence[str], most: int = MAX_TEXTS) -> None:
    """Raises `InputError` if a request has too many or too long texts.

    Args:
        name: name of the parameter of the request.
        texts: texts of the parameter.
        most: maximum number of texts.
    """
    longest = max(map(len, texts), default=0)
    if len(texts) > most or longest > MAX_TEXT_LENGTH:
        raise InputError(
            f"`{name}` must have at most {most:,} texts of at most "
            f"{MAX_TEXT_LENGTH:,} characters. Received: {len(texts):,} texts of at "
            f"most {longest:,} characters. Leave texts out, or shorten them."
        )
