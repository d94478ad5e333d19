"""A few queries and what they find, to be looked at."""

import dataclasses

import numpy as np

from align_keras.evaluation.recall_at_k import rank_of_best_positive
from align_keras.evaluation.retrieval import (
    flatten_captions,
    normalized_caption,
    shared_positives,
)
from align_keras.utils.errors import InputError


@dataclasses.dataclass(frozen=True)
class Hit:
    """An image or a caption that a query found.

    Attributes:
        caption: str; an image's first caption.
        score: float, the cosine.
        correct: bool, whether it is a right answer.
        image: the image as `thumbnail_uri` takes it; None for a caption.
    """

    caption: str
    score: float
    correct: bool
    image: object = None


@dataclasses.dataclass(frozen=True)
class TextQuery:
    """A caption and the images nearest to it.

    Attributes:
        text: str.
        hits: tuple of `Hit`, the best first.
        rank: int >= 1, the place of the first right image, or None.
        total: int, the number of images, or None.
        answer: `Hit` or None, the best right image, to be shown where no hit is
            right.
    """

    text: str
    hits: tuple
    rank: int | None = None
    total: int | None = None
    answer: Hit | None = None


@dataclasses.dataclass(frozen=True)
class ImageQuery:
    """An image, the captions nearest to it, and the images nearest to it.

    Attributes:
        image: the image as `thumbnail_uri` takes it.
        caption: str, its own caption.
        hits: tuple of `Hit`, captions, the best first.
        neighbours: tuple of `Hit`, images, the nearest first; those that
            share a caption with it are correct.
        rank: int >= 1, the place of the first right caption, or None.
        total: int, the number of captions, or None.
        answer: `Hit` or None, the best right caption, to be shown where no hit is
            right.
    """

    image: object
    caption: str
    hits: tuple
    neighbours: tuple = ()
    rank: int | None = None
    total: int | None = None
    answer: Hit | None = None


def _best_distinct(scores, names, k):
    """The k best rows, of rows with equal names the first alone."""
    rows, seen = [], set()
    for row in np.argsort(-scores, kind="stable"):
        if names[row] not in seen:
            seen.add(names[row])
            rows.append(int(row))
        if len(rows) == k:
            break
    return rows


def contact_sheet(
    image_embeddings,
    text_embeddings,
    images,
    captions,
    image_keys=None,
    *,
    text_count=12,
    image_count=4,
    k=5,
    seed=0,
):
    """Draws queries at random and collects what each finds.

    They are drawn, not picked, so that the sheet shows the model as it is.
    Of pixel-identical images, and of equal captions, one is shown.

    Args:
        image_embeddings: real array (images, dimension), unit length.
        text_embeddings: real array (captions, dimension), unit length, in the
            order of `captions`, image by image.
        images: sequence of images as `thumbnail_uri` takes them: arrays,
            bytes of files, or paths.
        captions: sequence with, for each image, its captions: a sequence of
            str, or one str.
        image_keys: optional sequence of hashable, one an image; equal keys
            mean the same image.
        text_count: int, number of text queries.
        image_count: int, number of image queries.
        k: int, hits a query.
        seed: int, of the draw.

    Returns:
        List of `TextQuery` and list of `ImageQuery`.

    Raises:
        InputError: when the numbers of rows don't fit.

    Example:
    >>> import numpy as np
    >>> images = [np.zeros((8, 8, 3), np.uint8)] * 2
    >>> texts, _ = contact_sheet(
    ...     np.eye(2), np.eye(2), images, ["a dot", "a dash"], k=1
    ... )
    >>> [(query.text, query.hits[0].caption, query.rank) for query in texts]
    [('a dot', 'a dot', 1), ('a dash', 'a dash', 1)]
    """
    sheet = _Sheet(image_embeddings, text_embeddings, images, captions, image_keys, k)
    rng = np.random.default_rng(seed)
    # Of equal captions one is enough.
    texts = np.unique(sheet.names, return_index=True)[1]
    texts = rng.permutation(texts)[:text_count]
    rows = rng.permutation(len(images))[:image_count]
    return (
        sheet.text_queries(np.sort(texts)) if len(texts) else [],
        sheet.image_queries(np.sort(rows)) if len(rows) else [],
    )


class _Sheet:
    """Images, captions and their embeddings, checked to fit together."""

    def __init__(
        self, image_embeddings, text_embeddings, images, captions, image_keys, k
    ):
        self.texts, self.index = flatten_captions(captions)
        self.keys = list(range(len(images)) if image_keys is None else image_keys)
        rows = (len(image_embeddings), len(images), len(captions), len(self.keys))
        if len(set(rows)) > 1 or len(text_embeddings) != len(self.texts):
            raise InputError(
                "`image_embeddings`, `images`, `captions` and `image_keys` must have "
                f"one entry an image, got {', '.join(map(str, rows))}, and "
                f"`text_embeddings` one a caption, got {len(text_embeddings)} for "
                f"{len(self.texts)}."
            )
        self.image_embeddings = np.asarray(image_embeddings, float)
        self.text_embeddings = np.asarray(text_embeddings, float)
        self.images, self.captions, self.k = images, captions, k
        self.names = [normalized_caption(text) for text in self.texts]
        self.positives = shared_positives(self.keys, self.texts, self.index)

    def caption(self, image):
        of_image = self.captions[image]
        return of_image if isinstance(of_image, str) else next(iter(of_image), "")

    def image_hits(self, scores, right):
        return tuple(
            Hit(self.caption(row), float(scores[row]), row in right, self.images[row])
            for row in _best_distinct(scores, self.keys, self.k)
        )

    def text_queries(self, chosen):
        right = [self.positives.text_to_image[row] for row in chosen]
        ranks = rank_of_best_positive(
            self.text_embeddings[chosen], self.image_embeddings, right
        )
        queries = []
        for row, right_rows, rank in zip(chosen, right, ranks, strict=True):
            scores = self.image_embeddings @ self.text_embeddings[row]
            hits = self.image_hits(scores, set(right_rows.tolist()))
            queries.append(
                TextQuery(self.texts[row], hits, int(rank) + 1, len(self.images))
            )
        return queries

    def image_queries(self, chosen):
        right = [self.positives.image_to_text[row] for row in chosen]
        ranks = rank_of_best_positive(
            self.image_embeddings[chosen], self.text_embeddings, right
        )
        return [
            self.image_query(row, set(right_rows.tolist()), int(rank))
            for row, right_rows, rank in zip(chosen, right, ranks, strict=True)
        ]

    def image_query(self, image, right, rank):
        embedding = self.image_embeddings[image]
        scores = self.text_embeddings @ embedding
        hits = tuple(
            Hit(self.texts[row], float(scores[row]), row in right)
            for row in _best_distinct(scores, self.names, self.k)
        )
        # The image itself, and its twins, would take the first places.
        others = self.image_embeddings @ embedding
        others[[key == self.keys[image] for key in self.keys]] = -np.inf
        same_caption = {
            int(self.index[row])
            for row in right
            if self.names[row] in self.captions_of(image)
        }
        neighbours = [
            hit
            for hit in self.image_hits(others, same_caption)
            if np.isfinite(hit.score)
        ]
        return ImageQuery(
            self.images[image],
            self.caption(image),
            hits,
            tuple(neighbours),
            rank + 1 if rank >= 0 else None,
            len(self.texts),
        )

    def captions_of(self, image):
        """Normalised captions of an image."""
        return {self.names[row] for row in np.flatnonzero(self.index == image)}
