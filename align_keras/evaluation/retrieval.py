"""Retrieval between images and captions, by CxC's ratings, and in several languages."""

import collections
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from align_keras.evaluation.exact_scores import as_rows
from align_keras.evaluation.recall_at_k import (
    chance_recall_at_k,
    count_without_positives,
    rank_of_best_positive,
    recall_of_ranks,
)
from align_keras.evaluation.slices import Metrics, item_outcomes
from align_keras.utils.errors import InputError


class RetrievalPositives(NamedTuple):
    """The hits of both directions.

    Attributes:
        image_to_text: list with, for each image, the rows of its captions.
        text_to_image: list with, for each caption, the rows of its images.
    """

    image_to_text: list
    text_to_image: list


def normalized_caption(caption: str) -> str:
    """`caption` casefolded, with each run of white space as one space."""
    return " ".join(caption.casefold().split())


def flatten_captions(
    captions: Iterable[str | Sequence[str]],
) -> tuple[list[str], np.ndarray]:
    """Flattens the captions of each image.

    Args:
        captions: sequence with, for each image, its captions, or one.

    Returns:
        List of str, and an int64 array (captions,) of the images' rows.

    Example:
    >>> texts, rows = flatten_captions(["a cat", ["a dog", "a hound"]])
    >>> texts, rows.tolist()
    (['a cat', 'a dog', 'a hound'], [0, 1, 1])
    """
    texts, rows = [], []
    for row, of_image in enumerate(captions):
        of_image = [of_image] if isinstance(of_image, str) else list(of_image)
        texts.extend(of_image)
        rows.extend([row] * len(of_image))
    return texts, np.array(rows, np.int64)


def _checked_index(index, captions, images):
    if index is None:
        if images != captions:
            raise InputError(
                "`caption_image_index` must say which image each caption belongs to "
                f"where the numbers differ, received None for {captions} captions of "
                f"{images} images; give one row a caption."
            )
        return np.arange(captions)
    return as_rows(
        "caption_image_index", index, captions, images, "captions", "the images"
    )


def own_positives(image_count: int, caption_image_index: Any) -> RetrievalPositives:
    """Hits where an image's captions alone are right, as in the paper's sets.

    Args:
        image_count: int, the number of images.
        caption_image_index: integers, the row of each caption's image.

    Returns:
        `RetrievalPositives`.

    Raises:
        InputError: when an index isn't an integer, or lies outside.

    References:
        Jia et al. 2021, section 5.1.

    Example:
    >>> right = own_positives(3, [0, 0, 2])
    >>> right.image_to_text, right.text_to_image.tolist()
    ([[0, 1], [], [2]], [[0], [0], [2]])
    """
    captions = len(caption_image_index)
    index = _checked_index(caption_image_index, captions, image_count)
    captions_of = _rows_by_value(index.tolist())
    return RetrievalPositives(
        image_to_text=[captions_of[image] for image in range(image_count)],
        text_to_image=index[:, None],
    )


def shared_positives(
    image_keys: Iterable, captions: Iterable[str], caption_image_index: Any = None
) -> RetrievalPositives:
    """Hits where equal images, and equal captions, are one target.

    A caption is right for an image when an image with the same key has a caption with
    the same normalized text (casefolded, white space collapsed): no model can tell
    these apart, and with pessimistic ties the twin would count as wrong.

    Args:
        image_keys: sequence of hashable, one an image, such as a digest of its pixels.
        captions: sequence of str; all captions of all images.
        caption_image_index: integers, the row of each caption's image. None
            means that caption i belongs to image i.

    Returns:
        `RetrievalPositives`.

    Raises:
        InputError: when the lengths don't fit, or an index lies outside.

    Example:
    >>> right = shared_positives(["k0", "k1", "k1"], ["Cat", " cat", "tiger"])
    >>> [rows.tolist() for rows in right.image_to_text]
    [[0, 1], [0, 1, 2], [0, 1, 2]]
    """
    image_keys = list(image_keys)
    texts = [normalized_caption(caption) for caption in captions]
    index = _checked_index(caption_image_index, len(texts), len(image_keys))

    images_of_key, captions_of_text = _rows_by_value(image_keys), _rows_by_value(texts)
    texts_of_key: dict[Any, set] = collections.defaultdict(set)
    keys_of_text: dict[Any, set] = collections.defaultdict(set)
    for text, image in zip(texts, index, strict=True):
        texts_of_key[image_keys[image]].add(text)
        keys_of_text[text].add(image_keys[image])
    captions_of_key = {
        key: _merged(captions_of_text[text] for text in texts_of_key[key])
        for key in images_of_key
    }
    images_of_text = {
        text: _merged(images_of_key[key] for key in keys_of_text[text])
        for text in captions_of_text
    }
    return RetrievalPositives(
        image_to_text=[captions_of_key[key] for key in image_keys],
        text_to_image=[images_of_text[text] for text in texts],
    )


def _rows_by_value(values):
    rows = collections.defaultdict(list)
    for row, value in enumerate(values):
        rows[value].append(row)
    return rows


def _merged(lists):
    """The rows of disjoint lists, ascending."""
    return np.array(sorted(row for rows in lists for row in rows), np.int64)


def retrieval_metrics(
    image_embeddings: Any,
    text_embeddings: Any,
    caption_image_index: Any = None,
    *,
    positives: Any = None,
    ks: Sequence[int] = (1, 5, 10),
    block_size: int = 4096,
) -> Metrics:
    """Yields recall at k of both directions beside its chance level.

    Args:
        image_embeddings: real array (images, dimension), unit length.
        text_embeddings: real array (captions, dimension), unit length.
        caption_image_index: integers, the row of each caption's image. None
            means that caption i belongs to image i.
        positives: `RetrievalPositives` in place of `caption_image_index`.
        ks: integers >= 1.
        block_size: int >= 1, as for `recall_at_k`.

    Yields:
        Pairs of str and float, for `i2t` and `t2i`: `i2t/recall_at_K` and
        `i2t/chance_recall_at_K` for each K, `i2t/queries`, the number of queries that
        count, `i2t/queries_without_positives`, the number of those that are left out,
        and `i2t/candidates`, the number of rows that each query ranks.

    Raises:
        InputError: as `recall_at_k`.

    References:
        Jia et al. 2021, sections 4.2 and 5.1.

    Example:
    >>> eye = np.eye(4)
    >>> found = dict(retrieval_metrics(eye, eye[[0, 1, 3, 2]], ks=(1,)))
    >>> found["i2t/recall_at_1"], found["i2t/chance_recall_at_1"]
    (0.5, 0.25)
    """
    images = len(image_embeddings)
    if positives is None:
        index = _checked_index(caption_image_index, len(text_embeddings), images)
        positives = own_positives(images, index)
    ranks = retrieval_ranks(image_embeddings, text_embeddings, positives, block_size)
    yield from metrics_of_retrieval_ranks(ranks, positives, ks)


def retrieval_ranks(
    image_embeddings: Any, text_embeddings: Any, positives: Any, block_size: int = 4096
) -> dict[str, np.ndarray]:
    """Ranks the best hit of each query, in each direction that `positives` has.

    Arguments and errors are those of `retrieval_metrics`; CxC's positives have
    `text_to_text` and `image_to_image` too.

    Returns:
        dict from `"i2t"` and `"t2i"`, of CxC `"t2t"` and `"i2i"` too, to int64 arrays
        (queries,), as `rank_of_best_positive`.

    References:
        Jia et al. 2021, section 5.1; Parekh et al. 2021, section 5.

    Example:
    >>> right = own_positives(3, [0, 1, 2])
    >>> retrieval_ranks(np.eye(3), np.eye(3)[[0, 2, 1]], right)["i2t"].tolist()
    [0, 2, 2]
    """
    sides = {"i": image_embeddings, "t": text_embeddings}
    return {
        name: rank_of_best_positive(
            sides[name[0]],
            sides[name[2]],
            right,
            block_size,
            # An image or caption doesn't find itself.
            leave_out=range(len(right)) if name[0] == name[2] else None,
        )
        for name, right in _by_direction(positives).items()
    }


def _by_direction(positives):
    fields = {"i2t": "image_to_text", "t2i": "text_to_image"}
    fields |= {"t2t": "text_to_text", "i2i": "image_to_image"}
    return {
        name: getattr(positives, field)
        for name, field in fields.items()
        if hasattr(positives, field)
    }


def metrics_of_retrieval_ranks(
    ranks: Mapping[str, np.ndarray], positives: Any, ks: Sequence[int] = (1, 5, 10)
) -> Metrics:
    """As `retrieval_metrics`, of what `retrieval_ranks` has found."""
    rows = {name[0]: len(of_queries) for name, of_queries in ranks.items()}
    for name, right in _by_direction(positives).items():
        chance = chance_recall_at_k(
            right, rows[name[2]], ks, leave_out_self=name[0] == name[2]
        )
        for k, value in recall_of_ranks(ranks[name], ks).items():
            yield f"{name}/recall_at_{k}", value
            yield f"{name}/chance_recall_at_{k}", chance[k]
        left_out = count_without_positives(right)
        yield f"{name}/queries", float(len(ranks[name]) - left_out)
        yield f"{name}/queries_without_positives", float(left_out)
        # An image or caption is no candidate for itself.
        candidates = rows[name[2]] - (name[0] == name[2])
        yield f"{name}/candidates", float(candidates)


def mean_recall(metrics: Any) -> float:
    """The mean of recall at 1, 5 and 10 of both directions.

    Args:
        metrics: dict, or pairs, with `i2t/recall_at_1` … `t2i/recall_at_10`, as
            `retrieval_metrics` yields them.

    References:
        Jia et al. 2021, section 8 and table 11.

    Example:
    >>> names = [f"{way}/recall_at_{k}" for way in ("i2t", "t2i") for k in (1, 5, 10)]
    >>> round(mean_recall(zip(names, [0.1, 0.2, 0.3, 0.1, 0.2, 0.9])), 6)
    0.3
    """
    metrics = dict(metrics)
    names = [f"{way}/recall_at_{k}" for way in ("i2t", "t2i") for k in (1, 5, 10)]
    return float(np.mean([metrics[name] for name in names]))


class LanguageRanks(NamedTuple):
    """The ranks of one language, int64 arrays of images and of captions, and each
    caption's image.
    """

    image_to_text: np.ndarray
    text_to_image: np.ndarray
    caption_image_index: np.ndarray


def multilingual_ranks(
    image_embeddings: np.ndarray,
    encode_texts: Callable,
    captions: Mapping[str, Sequence],
    image_keys: Sequence | None = None,
) -> dict[str, LanguageRanks]:
    """Ranks images and captions of each language.

    Args:
        image_embeddings: real array (images, dimension), unit length.
        encode_texts: function from a list of str to a real array (captions,
            dimension), unit length.
        captions: dict from a language to each image's captions, or one.
        image_keys: sequence of hashable, one an image, for `shared_positives`; None,
            as in the paper, for `own_positives`.

    Returns:
        dict, language → `LanguageRanks`.

    Raises:
        InputError: as `recall_at_k`, and when a language hasn't one entry an image.

    References:
        Jia et al. 2021, section 8 and table 11.
    """
    ranks = {}
    for language, of_images in captions.items():
        if len(of_images) != len(image_embeddings):
            raise InputError(
                f"`captions[{language!r}]` must have one entry an image, received "
                f"{len(of_images)} for {len(image_embeddings)} images; give an empty "
                "list where an image has none."
            )
        texts, index = flatten_captions(of_images)
        right = (
            own_positives(len(of_images), index)
            if image_keys is None
            else shared_positives(image_keys, texts, index)
        )
        found = retrieval_ranks(
            image_embeddings, np.asarray(encode_texts(texts)), right
        )
        ranks[language] = LanguageRanks(found["i2t"], found["t2i"], index)
    return ranks


def multilingual_metrics(ranks: Mapping[str, LanguageRanks]) -> Metrics:
    """Yields each language's mean recall, and the recalls that make it.

    Args:
        ranks: dict of `LanguageRanks`, as `multilingual_ranks` gives.

    Yields:
        Pairs of str and float: `LANGUAGE/mean_recall`,
        `LANGUAGE/i2t/recall_at_1` … `LANGUAGE/t2i/recall_at_10`, and the numbers of
        each direction's queries and candidates, `LANGUAGE/i2t/queries`,
        `LANGUAGE/i2t/candidates` and so on.

    Example:
    >>> captions = {"en": [["dog 0", "pup 0"], "cat 1"], "de": ["Hund 0", "Katze 2"]}
    >>> def encode(texts): return np.eye(3)[[int(text[-1]) for text in texts]]
    >>> ranks = multilingual_ranks(np.eye(3)[:2], encode, captions)
    >>> found = dict(multilingual_metrics(ranks))
    >>> found["en/mean_recall"], round(found["de/mean_recall"], 3)
    (1.0, 0.833)
    """
    for language, of_language in ranks.items():
        recalls = {}
        for way, found in zip(("i2t", "t2i"), of_language[:2], strict=True):
            for k, value in recall_of_ranks(found).items():
                recalls[f"{way}/recall_at_{k}"] = value
        yield f"{language}/mean_recall", mean_recall(recalls)
        for name, value in recalls.items():
            yield f"{language}/{name}", value
        images, captions = len(of_language[0]), len(of_language[1])
        for way, ranks_of_way, candidates in (
            ("i2t", of_language.image_to_text, captions),
            ("t2i", of_language.text_to_image, images),
        ):
            queries = np.count_nonzero(ranks_of_way >= 0)
            yield f"{language}/{way}/queries", float(queries)
            yield f"{language}/{way}/candidates", float(candidates)


def multilingual_outcomes(ranks: Mapping[str, LanguageRanks]) -> dict[str, np.ndarray]:
    """Each image's share of the metrics (images,), whose means they are, for slices.

    An image's t2i is the mean of its captions', of which every image has equally many.
    """
    outcomes = {}
    for language, of_language in ranks.items():
        of_images, of_captions, index = of_language
        recalls = item_outcomes("i2t/recall_at_", of_images, (1, 5, 10))
        for name, right in item_outcomes(
            "t2i/recall_at_", of_captions, (1, 5, 10)
        ).items():
            recalls[name] = np.bincount(index, weights=right) / np.bincount(index)
        outcomes[f"{language}/mean_recall"] = np.mean(list(recalls.values()), axis=0)
        outcomes |= {f"{language}/{name}": found for name, found in recalls.items()}
    return outcomes
