"""Queries and what they find, to be looked at: drawn, found and missed ones."""

import dataclasses
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from align_keras.evaluation.recall_at_k import rank_of_best_positive
from align_keras.evaluation.retrieval import (
    RetrievalPositives,
    flatten_captions,
    normalized_caption,
    shared_positives,
)

# Gallery rows that are scored at once.
_BLOCK = 4096
# Scores that agree to this many digits are ties, as they are for the ranks.
_DIGITS = 7


@dataclasses.dataclass(frozen=True)
class ExampleHit:
    """An image, with its first caption, or a caption that a query found; its cosine."""

    caption: str
    score: float
    correct: bool
    image: object = None


@dataclasses.dataclass(frozen=True)
class ExampleQuery:
    """A caption, or an image and its first one, and what is nearest. `rank` is the
    place of the first right answer, from 1, of `total`; `answer` is the best right one
    where no hit is right; `neighbors` of an image are right by a shared caption.
    """

    caption: str
    hits: tuple
    rank: int | None = None
    total: int | None = None
    answer: ExampleHit | None = None
    image: object = None
    neighbors: tuple = ()


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
) -> tuple[list[ExampleQuery], list[ExampleQuery]]:
    """Draws queries at random, to show the model as it is, and collects what they find.
    Of equal captions, and of images of equal `image_keys`, one is shown; the captions
    are given image by image, one or a sequence of each.
    """
    texts, index = flatten_captions(captions)
    keys = list(range(len(images)) if image_keys is None else image_keys)
    names = [normalized_caption(text) for text in texts]
    positives = shared_positives(keys, texts, index)
    shows = _Shows(images, texts, index)

    def neighbors(image: int) -> tuple[ExampleHit, ...]:
        scores = image_embeddings @ image_embeddings[image]
        # The image itself, and its twins, would take the first places.
        scores[[key == keys[image] for key in keys]] = -np.inf
        alike = [positives.text_to_image[row] for row in np.flatnonzero(index == image)]
        right = np.concatenate([np.zeros(0, int), *alike])
        return _best(scores, right, shows.image_hit, k, keys)

    rng = np.random.default_rng(seed)
    # One of several equal captions is shown.
    text_rows = rng.permutation(np.unique(names, return_index=True)[1])[:text_count]
    image_rows = np.sort(rng.permutation(len(images))[:image_count])
    t2i, i2t = positives.text_to_image, positives.image_to_text
    side = text_embeddings, image_embeddings, t2i, shows.image_hit
    results_of_texts = _found(np.sort(text_rows), *side, k, keys)
    side = image_embeddings, text_embeddings, i2t, shows.caption_hit
    results_of_images = _found(image_rows, *side, k, names)
    return (
        [shows.text_query(row, answers) for row, answers in results_of_texts.items()],
        [
            shows.image_query(row, results_of_images[row], neighbors(row))
            for row in results_of_images
        ],
    )


@dataclasses.dataclass(frozen=True)
class _Results:
    """Results of a query, as the fields of `ExampleQuery` with the same names."""

    hits: tuple[ExampleHit, ...]
    rank: int | None
    total: int
    answer: ExampleHit | None


class _Shows:
    """Makes queries and hits from rows of images and of captions."""

    def __init__(
        self,
        images: Sequence,
        captions: Sequence[str],
        caption_image_index: Iterable[int],
    ) -> None:
        self.images = images
        self.captions = captions
        self.first_caption: dict[int, str] = {}
        for caption, image in zip(captions, caption_image_index, strict=True):
            self.first_caption.setdefault(int(image), caption)

    def image_hit(self, row: int, score: float, correct: bool) -> ExampleHit:
        caption = self.first_caption.get(row, "")
        return ExampleHit(caption, score, correct, self.images[row])

    def caption_hit(self, row: int, score: float, correct: bool) -> ExampleHit:
        return ExampleHit(self.captions[row], score, correct)

    def text_query(self, row: int, results: _Results) -> ExampleQuery:
        return ExampleQuery(
            caption=self.captions[row],
            hits=results.hits,
            rank=results.rank,
            total=results.total,
            answer=results.answer,
        )

    def image_query(
        self, row: int, results: _Results, neighbors: tuple[ExampleHit, ...] = ()
    ) -> ExampleQuery:
        return ExampleQuery(
            caption=self.first_caption.get(row, ""),
            hits=results.hits,
            rank=results.rank,
            total=results.total,
            answer=results.answer,
            image=self.images[row],
            neighbors=neighbors,
        )


class Examples(NamedTuple):
    """Queries, or their rows: drawn of those with a right answer among the first k,
    drawn of the others, and of the others those whose first right answer comes last.
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
    successes = draw.permutation(np.flatnonzero((ranks >= 0) & (ranks < k)))[:count]
    missed = np.flatnonzero(ranks >= k)
    last = missed[np.argsort(-ranks[missed], kind="stable")][:worst]
    missed = draw.permutation(np.setdiff1d(missed, last))[:count]
    return Examples(np.sort(successes), np.sort(missed), last)


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
    """Collects what some queries of both directions find, `Examples` by direction; only
    these are scored, so embeddings may be memory-mapped.
    """
    shows = _Shows(images, captions, caption_image_index)
    t2i, i2t = positives.text_to_image, positives.image_to_text
    sides = {
        "t2i": (text_embeddings, image_embeddings, t2i, shows.image_hit),
        "i2t": (image_embeddings, text_embeddings, i2t, shows.caption_hit),
    }
    asks: dict[str, Callable] = {"t2i": shows.text_query, "i2t": shows.image_query}
    eligible = {"t2i": _asked_once(ranks["t2i"], captions), "i2t": ranks["i2t"]}
    examples = {}
    for name, side in sides.items():
        options = {"k": k, "count": count, "worst": worst, "seed": seed}
        chosen = choose_queries(eligible[name], **options)
        results = _found(np.concatenate(chosen), *side, k, ranks=ranks[name])
        examples[name] = Examples(
            *([asks[name](row, results[row]) for row in kind] for kind in chosen)
        )
    return examples


def _asked_once(ranks: np.ndarray, captions: Sequence[str]) -> np.ndarray:
    """The ranks, without those of captions that are equal to an earlier one."""
    names = [normalized_caption(caption) for caption in captions]
    once = np.unique(names, return_index=True)[1]
    unique_ranks = np.full(len(captions), -1)
    unique_ranks[once] = np.asarray(ranks)[once]
    return unique_ranks


def _found(
    rows: np.ndarray,
    queries: np.ndarray,
    gallery: np.ndarray,
    positives: Sequence,
    show: Callable,
    k: int,
    names: Sequence | None = None,
    ranks: np.ndarray | None = None,
) -> dict[int, _Results]:
    """Returns the results of each query of `rows`."""
    if not len(rows):
        return {}
    right = [np.atleast_1d(positives[row]) for row in rows]
    if ranks is None:
        best_ranks = rank_of_best_positive(np.asarray(queries)[rows], gallery, right)
    else:
        best_ranks = ranks[rows]
    answers = {}
    scored = zip(rows, _scores(queries[rows], gallery), right, best_ranks, strict=True)
    for row, scores, of_query, best_rank in scored:
        hits = _best(scores, of_query, show, k, names)
        answer, rank = None, None if best_rank < 0 else int(best_rank) + 1
        if rank and not any(hit.correct for hit in hits):
            best = max(of_query, key=scores.__getitem__)
            answer = show(int(best), float(scores[best]), True)
        answers[int(row)] = _Results(hits, rank, len(gallery), answer)
    return answers


def _scores(queries: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """Inner products (queries, gallery rows), rounded so that ties are ties."""
    queries = np.asarray(queries, float)
    scores = np.empty((len(queries), len(gallery)))
    for start in range(0, len(gallery), _BLOCK):
        block = np.asarray(gallery[start : start + _BLOCK], float)
        scores[:, start : start + len(block)] = queries @ block.T
    return scores.round(_DIGITS)


def _best(
    scores: np.ndarray,
    right: np.ndarray,
    show: Callable[[int, float, bool], ExampleHit],
    k: int,
    names: Sequence | None = None,
) -> tuple[ExampleHit, ...]:
    """The k best rows, of rows with equal names the first alone, as hits."""
    correct = np.zeros(len(scores), bool)
    correct[right] = True
    # Wrong rows come first among equal scores, as in the ranks.
    order = np.lexsort((correct, -scores))[: np.isfinite(scores).sum()].tolist()
    if names is not None:
        firsts: dict[Hashable, int] = {}
        for row in order:
            firsts.setdefault(names[row], row)
        order = list(firsts.values())
    return tuple(show(row, float(scores[row]), bool(correct[row])) for row in order[:k])
