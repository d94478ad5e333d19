"""Example queries with their top hits, for the pages of results."""

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

# Number of gallery rows in a block of scores.
_BLOCK_SIZE = 4096
# Numbers of queries and hits of the report of a run.
_SHEET_TEXTS = 12
_SHEET_IMAGES = 4
_SHEET_HITS = 5
_SHEET_SEED = 0
# Numbers of captions and hits that a comparison of two models shows.
_CHANGED_CAPTIONS = 6
_CHANGED_HITS = 4
# Decimals of scores. Scores that are equal after rounding are ties, as in the ranks.
_DECIMALS = 7


@dataclasses.dataclass(frozen=True)
class ExampleHit:
    """Hit of a query.

    Attributes:
        caption: the caption, or the first caption of the image.
        score: cosine similarity of query and hit.
        correct: True if the hit is a correct answer.
        image: the image of an image hit, or None.
    """

    caption: str
    score: float
    correct: bool
    image: object = None


@dataclasses.dataclass(frozen=True)
class ExampleQuery:
    """Text or image query with its hits.

    Attributes:
        caption: the text, or the first caption of the image.
        hits: `ExampleHit`s with the highest scores, in descending order.
        rank: rank of the first correct answer, starting at 1, or None if the query has
            no correct answer.
        total: number of candidates, or None.
        answer: the correct answer with the highest score if no hit is correct, or None.
        image: the image of an image query, or None.
        neighbors: nearest images of an image query. A neighbor is correct if it shares
            a caption with the query.
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
) -> tuple[list[ExampleQuery], list[ExampleQuery]]:
    """Draws random queries and collects their hits.

    The queries are a uniform sample, so that a reader sees typical results. Equal
    captions, and images with equal keys, appear only once in a list of hits.

    Args:
        image_embeddings: float array (images, d) with rows of unit length.
        text_embeddings: float array (captions, d) with rows of unit length.
        images: the images.
        captions: for each image, one caption or a sequence of captions.
        image_keys: for each image, a key that is equal for identical images, or None if
            all images differ.

    Returns:
        Text queries and image queries.
    """
    texts, index = flatten_captions(captions)
    keys = list(range(len(images)) if image_keys is None else image_keys)
    names = [normalized_caption(text) for text in texts]
    positives = shared_positives(keys, texts, index)
    builder = _ExampleBuilder(images, texts, index)

    def neighbors(image: int) -> tuple[ExampleHit, ...]:
        scores = image_embeddings @ image_embeddings[image]
        # The nearest images would be the query itself and identical images.
        scores[[key == keys[image] for key in keys]] = -np.inf
        images_by_caption = [
            positives.text_to_image[row] for row in np.flatnonzero(index == image)
        ]
        correct = np.concatenate([np.zeros(0, int), *images_by_caption])
        return _top_hits(scores, correct, builder.image_hit, _SHEET_HITS, keys)

    rng = np.random.default_rng(_SHEET_SEED)
    unique_texts = np.unique(names, return_index=True)[1]
    text_rows = np.sort(rng.permutation(unique_texts)[:_SHEET_TEXTS])
    image_rows = np.sort(rng.permutation(len(images))[:_SHEET_IMAGES])
    text_results = _search(
        text_rows,
        text_embeddings,
        image_embeddings,
        positives.text_to_image,
        builder.image_hit,
        _SHEET_HITS,
        keys,
    )
    image_results = _search(
        image_rows,
        image_embeddings,
        text_embeddings,
        positives.image_to_text,
        builder.caption_hit,
        _SHEET_HITS,
        names,
    )
    text_queries = [
        builder.text_query(row, results) for row, results in text_results.items()
    ]
    image_queries = [
        builder.image_query(row, results, neighbors(row))
        for row, results in image_results.items()
    ]
    return text_queries, image_queries


@dataclasses.dataclass(frozen=True)
class _Results:
    """Results of a query. The fields are those of `ExampleQuery`."""

    hits: tuple[ExampleHit, ...]
    rank: int | None
    total: int
    answer: ExampleHit | None


class _ExampleBuilder:
    """Factory of `ExampleQuery` and `ExampleHit` from row numbers.

    Args:
        images: the images.
        captions: the captions.
        caption_image_index: for each caption, the row of its image.
    """

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
    """Three groups of queries, or of row numbers of queries.

    Attributes:
        successes: random queries with a correct answer among the top k.
        failures: random queries without a correct answer among the top k.
        worst: queries whose first correct answer has the worst rank.
    """

    successes: Any
    failures: Any
    worst: Any


def choose_queries(
    ranks: np.ndarray, *, k: int = 5, count: int = 6, worst: int = 4, seed: int = 0
) -> Examples:
    """Chooses queries for each group of `Examples`. The groups are disjoint.

    Args:
        ranks: int array with the rank of the first correct answer of each query,
            starting at 0. Queries with a negative rank are ignored.
        k: number of top results.
        count: number of successes and of failures.
        worst: number of queries with the worst ranks.
        seed: seed of the sample.

    Returns:
        `Examples` of row numbers.
    """
    ranks = np.asarray(ranks)
    rng = np.random.default_rng(seed)
    successes = rng.permutation(np.flatnonzero((ranks >= 0) & (ranks < k)))[:count]
    failures = np.flatnonzero(ranks >= k)
    worst_rows = failures[np.argsort(-ranks[failures], kind="stable")][:worst]
    failures = rng.permutation(np.setdiff1d(failures, worst_rows))[:count]
    return Examples(np.sort(successes), np.sort(failures), worst_rows)


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
    """Collects examples of successes, failures and the worst queries.

    Embeddings may be memory-mapped, since only the chosen queries are scored.

    Args:
        image_embeddings: float array (images, d) with rows of unit length.
        text_embeddings: float array (captions, d) with rows of unit length.
        images: the images.
        captions: the captions.
        caption_image_index: for each caption, the row of its image.
        positives: correct answers in both directions.
        ranks: dict from `"t2i"` and `"i2t"` to the ranks of the first correct
            answers, starting at 0.
        k: number of hits per query.
        count: number of successes and of failures.
        worst: number of queries with the worst ranks.
        seed: seed of the sample.

    Returns:
        dict from `"t2i"` and `"i2t"` to `Examples` of `ExampleQuery` lists.
    """
    builder = _ExampleBuilder(images, captions, caption_image_index)
    t2i = positives.text_to_image
    i2t = positives.image_to_text
    searches = {
        "t2i": (text_embeddings, image_embeddings, t2i, builder.image_hit),
        "i2t": (image_embeddings, text_embeddings, i2t, builder.caption_hit),
    }
    build_query: dict[str, Callable] = {
        "t2i": builder.text_query,
        "i2t": builder.image_query,
    }
    eligible_ranks = {
        "t2i": _ignore_repeated_captions(ranks["t2i"], captions),
        "i2t": ranks["i2t"],
    }
    examples = {}
    for direction, search in searches.items():
        groups = choose_queries(
            eligible_ranks[direction], k=k, count=count, worst=worst, seed=seed
        )
        rows = np.concatenate(groups)
        results = _search(rows, *search, k, ranks=ranks[direction])
        examples[direction] = Examples(
            *(
                [build_query[direction](row, results[row]) for row in group]
                for group in groups
            )
        )
    return examples


def changed_queries(
    before: Any,
    after: Any,
    images: Sequence,
    captions: Sequence[str],
) -> tuple[
    list[tuple[ExampleQuery, ExampleQuery]], list[tuple[ExampleQuery, ExampleQuery]]
]:
    """Collects the captions whose correct image moved most between two models.

    Args:
        before: result of `rank_pairs` with the first model.
        after: result of `rank_pairs` with the second model, for the same pairs.
        images: the images.
        captions: the captions of all images.

    Returns:
        Captions that improved and captions that got worse, the largest ratio of ranks
        first. Each caption is the query with the first and with the second model.
    """
    first_ranks, second_ranks = (
        _ignore_repeated_captions(result.ranks["t2i"], captions)
        for result in (before, after)
    )
    # The change from rank 100 to rank 1 matters more than that from 300 to 200.
    # Repeated captions have the rank -1.
    is_compared = first_ranks >= 0
    change = np.zeros(len(first_ranks))
    change[is_compared] = np.log1p(first_ranks[is_compared])
    change[is_compared] -= np.log1p(second_ranks[is_compared])
    order = np.argsort(-change, kind="stable")
    improved_rows = [row for row in order[:_CHANGED_CAPTIONS] if change[row] > 0]
    worse_rows = [row for row in order[::-1][:_CHANGED_CAPTIONS] if change[row] < 0]

    def queries(result: Any, rows: list[int]) -> list[ExampleQuery]:
        builder = _ExampleBuilder(images, captions, result.caption_image_index)
        results = _search(
            np.array(rows, int),
            result.text_embeddings,
            result.image_embeddings,
            result.positives.text_to_image,
            builder.image_hit,
            _CHANGED_HITS,
            ranks=result.ranks["t2i"],
        )
        return [builder.text_query(row, results[row]) for row in rows]

    def compare(rows: list[int]) -> list[tuple[ExampleQuery, ExampleQuery]]:
        return list(zip(queries(before, rows), queries(after, rows), strict=True))

    return compare(improved_rows), compare(worse_rows)


def _ignore_repeated_captions(ranks: np.ndarray, captions: Sequence[str]) -> np.ndarray:
    """Returns the ranks of captions, with -1 for a caption that occurred before."""
    names = [normalized_caption(caption) for caption in captions]
    first_rows = np.unique(names, return_index=True)[1]
    unique_ranks = np.full(len(captions), -1)
    unique_ranks[first_rows] = np.asarray(ranks)[first_rows]
    return unique_ranks


def _search(
    rows: np.ndarray,
    queries: np.ndarray,
    gallery: np.ndarray,
    positives: Sequence,
    build_hit: Callable[[int, float, bool], ExampleHit],
    k: int,
    names: Sequence | None = None,
    ranks: np.ndarray | None = None,
) -> dict[int, _Results]:
    """Returns the results of queries by their rows."""
    if not len(rows):
        return {}
    row_positives = [np.atleast_1d(positives[row]) for row in rows]
    if ranks is None:
        row_queries = np.asarray(queries)[rows]
        best_ranks = rank_of_best_positive(row_queries, gallery, row_positives)
    else:
        best_ranks = ranks[rows]
    results = {}
    all_scores = _rounded_scores(queries[rows], gallery)
    searches = zip(rows, all_scores, row_positives, best_ranks, strict=True)
    for row, scores, correct_rows, best_rank in searches:
        hits = _top_hits(scores, correct_rows, build_hit, k, names)
        answer = None
        rank = None if best_rank < 0 else int(best_rank) + 1
        if rank and not any(hit.correct for hit in hits):
            best = max(correct_rows, key=scores.__getitem__)
            answer = build_hit(int(best), float(scores[best]), True)
        results[int(row)] = _Results(hits, rank, len(gallery), answer)
    return results


def _rounded_scores(queries: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """Returns the inner products of queries (rows) and candidates (columns)."""
    # Rounding makes products equal that differ only by the order of additions.
    queries = np.asarray(queries, float)
    scores = np.empty((len(queries), len(gallery)))
    for start in range(0, len(gallery), _BLOCK_SIZE):
        block = np.asarray(gallery[start : start + _BLOCK_SIZE], float)
        scores[:, start : start + len(block)] = queries @ block.T
    return scores.round(_DECIMALS)


def _top_hits(
    scores: np.ndarray,
    correct_rows: np.ndarray,
    build_hit: Callable[[int, float, bool], ExampleHit],
    k: int,
    names: Sequence | None = None,
) -> tuple[ExampleHit, ...]:
    """Returns the k best candidates with finite scores, without repeated names."""
    is_correct = np.zeros(len(scores), bool)
    is_correct[correct_rows] = True
    # Among equal scores, wrong candidates come first, as in the ranks.
    order = np.lexsort((is_correct, -scores))[: np.isfinite(scores).sum()].tolist()
    if names is not None:
        first_rows: dict[Hashable, int] = {}
        for row in order:
            first_rows.setdefault(names[row], row)
        order = list(first_rows.values())
    return tuple(
        build_hit(row, float(scores[row]), bool(is_correct[row])) for row in order[:k]
    )
