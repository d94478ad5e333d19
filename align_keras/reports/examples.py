"""Queries and what they find, to be looked at: drawn, found and missed ones."""

import dataclasses
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from align_keras.evaluation.recall_at_k import rank_of_best_positive
from align_keras.evaluation.retrieval import (
    RetrievalPositives,
    flatten_captions,
    normalized_caption,
    shared_positives,
)
from align_keras.utils.errors import InputError

# Gallery rows that are scored at once.
_BLOCK = 4096
# Scores that agree to this many digits are ties, as they are for the ranks.
_DIGITS = 7


@dataclasses.dataclass(frozen=True)
class Hit:
    """An image or a caption that a query found, with its cosine. An image's caption is
    its first; the image is as `thumbnail_uri` takes it, None of a caption.
    """

    caption: str
    score: float
    correct: bool
    image: object = None


@dataclasses.dataclass(frozen=True)
class TextQuery:
    """A caption and the images nearest to it. `rank` is the place of the first right
    image, from 1, of `total`; `answer` is the best right one, shown where no hit is
    right.
    """

    text: str
    hits: tuple
    rank: int | None = None
    total: int | None = None
    answer: Hit | None = None


@dataclasses.dataclass(frozen=True)
class ImageQuery:
    """An image, the captions nearest to it, and the images nearest to it. Neighbors
    that share a caption with it are correct; else as `TextQuery`.
    """

    image: object
    caption: str
    hits: tuple
    neighbors: tuple = ()
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
    image_embeddings: np.ndarray,
    text_embeddings: np.ndarray,
    images: Sequence,
    captions: Sequence[str | Sequence[str]],
    image_keys: Iterable[Hashable] | None = None,
    *,
    text_count: int = 12,
    image_count: int = 4,
    k: int = 5,
    seed: int = 0,
) -> tuple[list[TextQuery], list[ImageQuery]]:
    """Draws queries at random and collects what each finds: text and image queries.

    They are drawn, not picked, so that the sheet shows the model as it is. Of
    pixel-identical images (equal `image_keys`), and of equal captions, one is shown.
    Embeddings are (images, d) and (captions, d), unit length; the captions are given
    image by image, one or a sequence of each.
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
        captions = {self.names[row] for row in np.flatnonzero(self.index == image)}
        same_caption = {
            int(self.index[row]) for row in right if self.names[row] in captions
        }
        neighbors = [
            hit
            for hit in self.image_hits(others, same_caption)
            if np.isfinite(hit.score)
        ]
        place = rank + 1 if rank >= 0 else None
        about = (self.images[image], self.caption(image))
        return ImageQuery(*about, hits, tuple(neighbors), place, len(self.texts))


class Examples(NamedTuple):
    """Queries, or their rows, by how they were answered. Drawn of those with a right
    answer among the first k, drawn of the others, and of the others those whose first
    right answer comes last.
    """

    found: Any
    missed: Any
    worst: Any


def choose_queries(
    ranks: np.ndarray, *, k: int = 5, count: int = 6, worst: int = 4, seed: int = 0
) -> Examples:
    """Draws queries by their ranks; none is in two of the arrays."""
    ranks = np.asarray(ranks)
    draw = np.random.default_rng(seed)
    found = draw.permutation(np.flatnonzero((ranks >= 0) & (ranks < k)))[:count]
    missed = np.flatnonzero(ranks >= k)
    last = missed[np.argsort(-ranks[missed], kind="stable")][:worst]
    missed = draw.permutation(np.setdiff1d(missed, last))[:count]
    return Examples(np.sort(found), np.sort(missed), last)


def retrieval_examples(
    image_embeddings: np.ndarray,
    text_embeddings: np.ndarray,
    images: Sequence,
    captions: Sequence[str],
    caption_image_index: Iterable[int],
    positives: RetrievalPositives,
    ranks: Mapping[str, np.ndarray],
    *,
    k: int = 5,
    count: int = 6,
    worst: int = 4,
    seed: int = 0,
) -> dict[str, Examples]:
    """Collects what some queries of both directions find, `Examples` by direction.

    Only the chosen queries are scored, so embeddings may be memory-mapped. A query
    whose answers hold no right one has its best right one as `answer`. `ranks` are
    those of `rank_of_best_positive`, by direction.
    """
    first_caption: dict[int, str] = {}
    for caption, image in zip(captions, caption_image_index, strict=True):
        first_caption.setdefault(int(image), caption)

    def image_hit(row, score, correct):
        return Hit(first_caption.get(row, ""), score, correct, images[row])

    def caption_hit(row, score, correct):
        return Hit(captions[row], score, correct)

    def text_query(row, *found):
        return TextQuery(captions[row], *found)

    def image_query(row, hits, *found):
        return ImageQuery(images[row], first_caption.get(row, ""), hits, (), *found)

    options = {"k": k, "count": count, "worst": worst, "seed": seed}
    return {
        "t2i": _examples(
            choose_queries(_asked_once(ranks["t2i"], captions), **options),
            (text_embeddings, image_embeddings, positives.text_to_image, ranks["t2i"]),
            (text_query, image_hit, k),
        ),
        "i2t": _examples(
            choose_queries(ranks["i2t"], **options),
            (image_embeddings, text_embeddings, positives.image_to_text, ranks["i2t"]),
            (image_query, caption_hit, k),
        ),
    }


def _asked_once(ranks, captions):
    """The ranks, without those of captions that are equal to an earlier one."""
    names = [normalized_caption(caption) for caption in captions]
    once = np.unique(names, return_index=True)[1]
    asked = np.full(len(captions), -1)
    asked[once] = np.asarray(ranks)[once]
    return asked


def _examples(chosen, retrieval, made_by):
    queries, gallery, positives, ranks = retrieval
    ask, show, k = made_by
    rows = np.concatenate(chosen)
    if not len(rows):
        return Examples([], [], [])
    scores = _scores(queries[rows], gallery)
    made = {
        int(row): ask(
            int(row), *_answers(of_query, positives[row], ranks[row], show, k)
        )
        for row, of_query in zip(rows, scores, strict=True)
    }
    return Examples(*([made[int(row)] for row in kind] for kind in chosen))


def _scores(queries, gallery):
    """Inner products (queries, gallery rows), rounded so that ties are ties."""
    queries = np.asarray(queries, float)
    scores = np.empty((len(queries), len(gallery)))
    for start in range(0, len(gallery), _BLOCK):
        block = np.asarray(gallery[start : start + _BLOCK], float)
        scores[:, start : start + len(block)] = queries @ block.T
    return scores.round(_DIGITS)


def _answers(scores, right, rank, show, k):
    """(hits, rank from 1, total, the best right answer where no hit is right)."""
    correct = np.zeros(len(scores), bool)
    correct[right] = True
    # Of equal scores the wrong ones come first, as they do for the ranks.
    order = np.lexsort((correct, -scores))
    hits = tuple(
        show(int(row), float(scores[row]), bool(correct[row])) for row in order[:k]
    )
    answer = None
    if not any(hit.correct for hit in hits):
        best = int(order[correct[order]][0])
        answer = show(best, float(scores[best]), True)
    return hits, int(rank) + 1, len(scores), answer
