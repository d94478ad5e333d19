"""What is asked of an index, and what it answers."""

import dataclasses
import math
import os
import types
from collections.abc import Sequence
from typing import Any

import numpy as np

from align_keras.models.composed_query import encode_query
from align_keras.utils.arguments import check_number
from align_keras.utils.errors import InputError

# Weight of each text next to an image's 1. The paper's 2 is best for its large models,
# but with align_small_en it finds fewer than the image alone. 0.5 finds more: see
# docs/pages/guides/search.md.
TEXT_WEIGHT = 0.5
# Times the height that the best of as many scores at random has; see `relevance`.
_STRONG, _GOOD = 1.5, 1.1
MAX_K = 100_000


@dataclasses.dataclass
class Query:
    """A search: words, an image, words added and taken away, and a condition.

    Args:
        text: str or sequence of str, what to look for.
        image: a path, a file's bytes, uint8 array (h, w, 3), or int, the id of an
            image of the index ("more like this").
        plus: str or sequence of str, added to `text` and `image`.
        minus: str or sequence of str, taken from them.
        where: str, a condition on the images' columns, such as
            `"year >= 2020 and folder like '%Italy%'"`, or None.
        k: int >= 1, images to find.
        duplicates: bool; False folds near-duplicates into the best of them. None
            folds them in an index of files, and not in one of embeddings.
        text_weight: float > 0, the weight of each text beside an image's 1.
        approximate: bool, whether to search the approximate index or all images, or
            None to decide by their number.

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
    text_weight: float = TEXT_WEIGHT
    approximate: bool | None = None

    def __post_init__(self) -> None:
        self.text, self.plus, self.minus = map(
            _several, (self.text, self.plus, self.minus)
        )
        remedy = "say how many hits"
        check_number("`k`", self.k, 1, MAX_K, whole=True, remedy=remedy)

    @property
    def title(self) -> str:
        """The query in one line."""
        parts = [str(name) for name in self.text]
        if isinstance(self.image, int):
            parts.insert(0, f"image {self.image}")
        elif isinstance(self.image, str | os.PathLike):
            parts.insert(0, os.path.basename(os.fspath(self.image)))
        elif self.image is not None:
            parts.insert(0, "an image")
        text = " + ".join([*parts, *self.plus])
        return " ".join([text, *(f"− {words}" for words in self.minus)])

    @property
    def has_content(self) -> bool:
        """True with words or an image, False for a condition alone."""
        return self.image is not None or bool(self.text or self.plus or self.minus)

    def encode(self, model: Any, stored: np.ndarray | None = None) -> np.ndarray:
        """The embedding, float32 (d,), of unit length; `stored` is that of `image`, if
        known.
        """
        if stored is not None:
            model = types.SimpleNamespace(
                encode_images=lambda images: stored[None],
                encode_texts=model.encode_texts,
            )
        return encode_query(
            model,
            self.image,
            [*self.text, *self.plus],
            self.minus,
            text_weight=self.text_weight,
        )[0]


def _several(texts: str | Sequence[str]) -> tuple[str, ...]:
    return (texts,) if isinstance(texts, str) else tuple(texts)


def check_words(
    texts: Sequence, images: Sequence, others: Sequence, text_weight: float | None
) -> None:
    """Raises unless there is something to search for; `others` are plus and minus."""
    words = [*texts, *others]
    if any(not word.strip() for word in words):
        raise InputError(
            f"`text` must not be blank, received {words}; name what to look for."
        )
    if not images and not texts:
        raise InputError(
            "a search needs `text` or `image`, received neither; name what to look "
            "for, and by `plus` and `minus` what to add to it and to take from it."
        )
    if text_weight and not (images and words):
        raise InputError(
            f"`text_weight` weighs words beside an image, received {text_weight:g} "
            "without both; give `image` and words."
        )


@dataclasses.dataclass
class Hit:
    """An image that was found.

    Attributes:
        rank: int, 1 for the best.
        score: float, the cosine of query and image; None without a query.
        id: int, by which the index knows it.
        path: str, path of the image, or the id that `Index.from_embeddings` got. A
            name that isn't UTF-8 is decoded by `os.fsdecode`.
        relevance: `"strong"`, `"good"` or `"weak"`, by the query's scores.
        captions: list of str, of a table.
        columns: dict, its other columns: `folder`, `date`, `width`, `camera` … and
            those of tables; of several rows, the value of the first that has one.
        duplicates: list of str, paths of near-duplicates that it stands for.
        rows: list of dict, the values of each row of a table, if it has several.
        stored_image: str, path of the copy of the image in the folder of the index, or
            None. Indexes that were made from embeddings have copies.
    """

    rank: int
    score: float | None
    id: int
    path: str
    relevance: str | None
    captions: list[str] = dataclasses.field(default_factory=list)
    columns: dict[str, Any] = dataclasses.field(default_factory=dict)
    duplicates: list[str] = dataclasses.field(default_factory=list)
    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    stored_image: str | None = None

    @property
    def file(self) -> str:
        """Path of the file that holds the image."""
        return self.stored_image or self.path


def relevance(scores: np.ndarray, others: np.ndarray, count: int) -> list[str]:
    """Marks scores by how far they stand out of the query's other scores.

    No cosine is high in itself. A score's height is in standard deviations above the
    mean of `others`, scores of images from all over the index, compared with sqrt(2 log
    count), about what the best of `count` normal numbers reaches: 1.5 times that is
    strong, 1.1 good. With align_small_en, of 775 captions the five best of 962 stamps:
    52% of the strong hits have the caption itself, 19% of the good and 3% of the weak
    (`tools/benchmarks/bench_search.py relevance --captioned
    /usr/share/tuxpaint/stamps`).

    >>> relevance(np.array([0.6, 0.1]), np.array([0.0, 0.1, 0.2]), 100)
    ['strong', 'weak']
    """
    mean, deviation = float(others.mean()), max(float(others.std()), 1e-6)
    heights = (scores - mean) / deviation / math.sqrt(2 * math.log(max(count, 3)))
    return [
        "strong" if height >= _STRONG else "good" if height >= _GOOD else "weak"
        for height in heights
    ]
