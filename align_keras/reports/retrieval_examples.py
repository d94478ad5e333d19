"""Queries that a model answers, and queries that it doesn't, to be looked at."""

from typing import NamedTuple

import numpy as np

from align_keras.evaluation.retrieval import normalized_caption
from align_keras.reports.contact_sheet import Hit, ImageQuery, TextQuery

# Gallery rows that are scored at once.
_BLOCK = 4096
# Scores that agree to this many digits are ties, as they are for the ranks.
_DIGITS = 7


class ChosenQueries(NamedTuple):
    """Rows of queries, by how they were answered.

    Attributes:
        found: int64 array, drawn of those with a right answer among the first k.
        missed: int64 array, drawn of the others.
        worst: int64 array, of the others those whose first right answer comes
            last.
    """

    found: np.ndarray
    missed: np.ndarray
    worst: np.ndarray


class Examples(NamedTuple):
    """Queries with what they find: lists of `TextQuery` or of `ImageQuery`.

    Attributes:
        found: list, as `ChosenQueries`.
        missed: list.
        worst: list.
    """

    found: list
    missed: list
    worst: list


def choose_queries(ranks, *, k=5, count=6, worst=4, seed=0):
    """Draws queries with and without a right answer among the first k.

    Args:
        ranks: int64 array (queries,), as `rank_of_best_positive` returns.
        k: int ≥ 1.
        count: int, of each kind that is drawn.
        worst: int, of the last kind.
        seed: int, of the draw.

    Returns:
        `ChosenQueries`; no query is in two of its arrays.

    Example:

    >>> chosen = choose_queries(np.array([0, 7, 90, -1]), count=1, worst=1)
    >>> [rows.tolist() for rows in chosen]
    [[0], [1], [2]]
    """
    ranks = np.asarray(ranks)
    draw = np.random.default_rng(seed)
    found = draw.permutation(np.flatnonzero((ranks >= 0) & (ranks < k)))[:count]
    missed = np.flatnonzero(ranks >= k)
    last = missed[np.argsort(-ranks[missed], kind="stable")][:worst]
    missed = draw.permutation(np.setdiff1d(missed, last))[:count]
    return ChosenQueries(np.sort(found), np.sort(missed), last)


def retrieval_examples(
    image_embeddings,
    text_embeddings,
    images,
    captions,
    caption_image_index,
    positives,
    ranks,
    *,
    k=5,
    count=6,
    worst=4,
    seed=0,
):
    """Collects what some queries of both directions find.

    Only the chosen queries are scored, so embeddings may be memory-mapped.

    Args:
        image_embeddings: real array (images, dimension), unit length.
        text_embeddings: real array (captions, dimension), unit length.
        images: sequence of images as `thumbnail_uri` takes them.
        captions: sequence of str, all captions of all images.
        caption_image_index: integers, the row of each caption's image.
        positives: `RetrievalPositives`.
        ranks: dict of `"t2i"` and `"i2t"` → int64 array (queries,), as
            `rank_of_best_positive` returns.
        k: int ≥ 1, answers a query.
        count: int, queries of each kind that is drawn.
        worst: int, of the worst queries.
        seed: int, of the draw.

    Returns:
        dict of `"t2i"` and `"i2t"` → `Examples`. A query whose answers hold no
        right one has its best right one as `answer`.

    Example:

    >>> import numpy as np
    >>> from align_keras.evaluation import shared_positives
    >>> images = [np.zeros((8, 8, 3), np.uint8)] * 2
    >>> right = shared_positives([0, 1], ["a dot", "a dash"])
    >>> found = retrieval_examples(
    ...     np.eye(2), np.eye(2)[::-1], images, ["a dot", "a dash"], [0, 1], right,
    ...     {"t2i": np.array([1, 1]), "i2t": np.array([1, 1])}, k=1, count=1, worst=1)
    >>> query = found["t2i"].worst[0]
    >>> query.text, query.hits[0].caption, query.answer.caption
    ('a dot', 'a dash', 'a dot')
    """
    first_caption = {}
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
