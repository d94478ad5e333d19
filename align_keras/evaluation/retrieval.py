"""Retrieval between images and captions, including CxC and several languages."""

import collections
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from align_keras.evaluation.exact_scores import as_rows
from align_keras.evaluation.recall_at_k import (
    PAPER_KS,
    chance_recall_at_k,
    count_without_positives,
    rank_of_best_positive,
    recall_of_ranks,
)
from align_keras.evaluation.slices import Metrics, item_outcomes
from align_keras.utils.errors import InputError


class RetrievalPositives(NamedTuple):
    """Positives of both retrieval directions.

    Attributes:
        image_to_text: sequence with the rows of the correct captions of each image.
        text_to_image: sequence with the rows of the correct images of each caption.

    Example:

    >>> positives = unshared_positives(2, [0, 0, 1])
    >>> positives.image_to_text
    [[0, 1], [2]]
    >>> [images.tolist() for images in positives.text_to_image]
    [[0], [0], [1]]
    """

    image_to_text: Any
    text_to_image: Any


def normalized_caption(caption: str) -> str:
    """Casefolds a caption and replaces runs of white space by single spaces."""
    return " ".join(caption.casefold().split())


def flatten_captions(
    captions: Iterable[str | Sequence[str]],
) -> tuple[list[str], np.ndarray]:
    """Flattens the captions of all images to one list.

    Args:
        captions: sequence with the caption or the list of captions of each image.

    Returns:
        list of str, and int64 array (captions,) with the image row of each caption.

    Example:
    >>> texts, rows = flatten_captions(["a cat", ["a dog", "a hound"]])
    >>> texts, rows.tolist()
    (['a cat', 'a dog', 'a hound'], [0, 1, 1])
    """
    texts: list[str] = []
    rows: list[int] = []
    for row, image_captions in enumerate(captions):
        if isinstance(image_captions, str):
            image_captions = [image_captions]
        texts.extend(image_captions)
        rows.extend([row] * len(image_captions))
    return texts, np.array(rows, np.int64)


def _checked_index(index: Any, captions: int, images: int) -> np.ndarray:
    """Returns the image row of each caption, by default caption i of image i."""
    if index is None:
        if images != captions:
            raise InputError(
                "`caption_image_index` is required if the numbers of images and "
                f"captions differ. Received: None for {captions} captions of {images} "
                "images. Pass the image row of each caption."
            )
        return np.arange(captions)
    return as_rows(
        "caption_image_index", index, captions, images, "captions", "the images"
    )


def unshared_positives(
    image_count: int, caption_image_index: Any
) -> RetrievalPositives:
    """Returns positives for which only the captions of an image are correct.

    The paper evaluates its data sets in this way.

    Args:
        image_count: number of images.
        caption_image_index: integers, image row of each caption.

    Returns:
        `RetrievalPositives`.

    Raises:
        InputError: if an index isn't an integer or is out of range.

    References:
        Jia et al. 2021, section 5.1.

    Example:
    >>> right = unshared_positives(3, [0, 0, 2])
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
    """Returns positives for which equal images and equal captions are the same.

    A caption is correct for an image if an image with the same key has a caption with
    the same normalized text (casefolded, white space collapsed). No model can
    distinguish equal images or equal captions. With pessimistic ties, they would
    otherwise count as errors.

    Args:
        image_keys: sequence with a hashable key of each image, such as a digest of its
            pixels.
        captions: all captions of all images.
        caption_image_index: integers, image row of each caption. None means that
            caption i belongs to image i.

    Returns:
        `RetrievalPositives`.

    Raises:
        InputError: if the lengths don't fit or an index is out of range.

    Example:
    >>> right = shared_positives(["k0", "k1", "k1"], ["Cat", " cat", "tiger"])
    >>> [rows.tolist() for rows in right.image_to_text]
    [[0, 1], [0, 1, 2], [0, 1, 2]]
    """
    image_keys = list(image_keys)
    texts = [normalized_caption(caption) for caption in captions]
    index = _checked_index(caption_image_index, len(texts), len(image_keys))

    images_of_key = _rows_by_value(image_keys)
    captions_of_text = _rows_by_value(texts)
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


def _rows_by_value(values: Iterable[Hashable]) -> dict[Any, list[int]]:
    rows = collections.defaultdict(list)
    for row, value in enumerate(values):
        rows[value].append(row)
    return rows


def _merged(lists: Iterable[list[int]]) -> np.ndarray:
    """Merges disjoint lists of rows to a sorted int64 array."""
    return np.array(sorted(row for rows in lists for row in rows), np.int64)


def retrieval_metrics(
    image_embeddings: Any,
    text_embeddings: Any,
    caption_image_index: Any = None,
    *,
    positives: Any = None,
    ks: Sequence[int] = PAPER_KS,
    block_size: int = 4096,
) -> Metrics:
    """Yields Recall@k of both directions and its value by chance.

    Args:
        image_embeddings: real array (images, dimension), unit length.
        text_embeddings: real array (captions, dimension), unit length.
        caption_image_index: integers, image row of each caption. None means that
            caption i belongs to image i.
        positives: `RetrievalPositives` instead of `caption_image_index`.
        ks: integers >= 1.
        block_size: int >= 1, as for `recall_at_k`.

    Yields:
        Pairs of str and float for the directions `i2t` and `t2i`: `i2t/recall_at_K` and
        `i2t/chance_recall_at_K` for each K, `i2t/queries`, the number of queries with
        positives, `i2t/queries_without_positives`, the number of queries that are
        ignored, and `i2t/candidates`, the number of rows that each query ranks.

    Raises:
        InputError: as `recall_at_k`.

    References:
        Jia et al. 2021, sections 4.2 and 5.1.

    Example:
    >>> eye = np.eye(4)
    >>> metrics = dict(retrieval_metrics(eye, eye[[0, 1, 3, 2]], ks=(1,)))
    >>> metrics["i2t/recall_at_1"], metrics["i2t/chance_recall_at_1"]
    (0.5, 0.25)
    """
    images = len(image_embeddings)
    if positives is None:
        index = _checked_index(caption_image_index, len(text_embeddings), images)
        positives = unshared_positives(images, index)
    ranks = retrieval_ranks(image_embeddings, text_embeddings, positives, block_size)
    yield from metrics_of_retrieval_ranks(ranks, positives, ks)


def retrieval_ranks(
    image_embeddings: Any, text_embeddings: Any, positives: Any, block_size: int = 4096
) -> dict[str, np.ndarray]:
    """Returns the rank of the best positive of each query for each direction.

    The arguments and errors are those of `retrieval_metrics`. The positives of CxC also
    have `text_to_text` and `image_to_image`.

    Returns:
        dict from `"i2t"` and `"t2i"`, and for CxC also `"t2t"` and `"i2i"`, to int64
        arrays (queries,) from `rank_of_best_positive`.

    References:
        Jia et al. 2021, section 5.1. Parekh et al. 2021, section 5.

    Example:
    >>> right = unshared_positives(3, [0, 1, 2])
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
            # An image or caption is not a candidate for itself.
            leave_out=range(len(right)) if name[0] == name[2] else None,
        )
        for name, right in _by_direction(positives).items()
    }


def _by_direction(positives: Any) -> dict[str, Any]:
    """Returns the positives by direction, for the directions that they contain."""
    fields = {
        "i2t": "image_to_text",
        "t2i": "text_to_image",
        "t2t": "text_to_text",
        "i2i": "image_to_image",
    }
    return {
        name: getattr(positives, field)
        for name, field in fields.items()
        if hasattr(positives, field)
    }


def metrics_of_retrieval_ranks(
    ranks: Mapping[str, np.ndarray], positives: Any, ks: Sequence[int] = PAPER_KS
) -> Metrics:
    """Yields the metrics of `retrieval_metrics` from the ranks of `retrieval_ranks`.

    Example:

    >>> ranks = {"i2t": np.array([0, 3]), "t2i": np.array([0, 1])}
    >>> positives = RetrievalPositives([[0], [1]], [[0], [1]])
    >>> metrics = dict(metrics_of_retrieval_ranks(ranks, positives, ks=[1]))
    >>> metrics["i2t/recall_at_1"], metrics["i2t/chance_recall_at_1"]
    (0.5, 0.5)
    """
    rows = {name[0]: len(query_ranks) for name, query_ranks in ranks.items()}
    for name, right in _by_direction(positives).items():
        chance = chance_recall_at_k(
            right, rows[name[2]], ks, leave_out_self=name[0] == name[2]
        )
        for k, value in recall_of_ranks(ranks[name], ks).items():
            yield f"{name}/recall_at_{k}", value
            yield f"{name}/chance_recall_at_{k}", chance[k]
        without_positives = count_without_positives(right)
        yield f"{name}/queries", float(len(ranks[name]) - without_positives)
        yield f"{name}/queries_without_positives", float(without_positives)
        # An image or caption is not a candidate for itself.
        candidates = rows[name[2]] - (name[0] == name[2])
        yield f"{name}/candidates", float(candidates)


def mean_recall(metrics: Any) -> float:
    """Returns the mean of Recall@1, Recall@5 and Recall@10 of both directions.

    Args:
        metrics: dict or pairs from `retrieval_metrics`, with `i2t/recall_at_1` to
            `t2i/recall_at_10`.

    References:
        Jia et al. 2021, section 8 and table 11.

    Example:
    >>> directions = ("i2t", "t2i")
    >>> names = [f"{name}/recall_at_{k}" for name in directions for k in (1, 5, 10)]
    >>> round(mean_recall(zip(names, [0.1, 0.2, 0.3, 0.1, 0.2, 0.9])), 6)
    0.3
    """
    metrics = dict(metrics)
    names = [
        f"{direction}/recall_at_{k}" for direction in ("i2t", "t2i") for k in PAPER_KS
    ]
    return float(np.mean([metrics[name] for name in names]))


class LanguageRanks(NamedTuple):
    """Ranks of the images and captions for a language.

    Attributes:
        image_to_text: int64 array (images,), rank of the best caption of each image.
        text_to_image: int64 array (captions,), rank of the image of each caption.
        caption_image_index: int64 array (captions,), image row of each caption.

    Example:

    >>> captions = {"en": ["dog 0", "cat 1"]}
    >>> def encode(texts): return np.eye(2)[[int(text[-1]) for text in texts]]
    >>> multilingual_ranks(np.eye(2), encode, captions)["en"].text_to_image.tolist()
    [0, 0]
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
    """Returns the ranks of the images and captions for each language.

    Args:
        image_embeddings: real array (images, dimension), unit length.
        encode_texts: function from a list of str to a real array (captions,
            dimension), unit length.
        captions: dict from language to the caption or captions of each image.
        image_keys: sequence with a hashable key of each image for `shared_positives`,
            or None for `unshared_positives`, as in the paper.

    Returns:
        dict from language to `LanguageRanks`.

    Raises:
        InputError: as `recall_at_k`, and if a language doesn't have one entry per
            image.

    References:
        Jia et al. 2021, section 8 and table 11.

    Example:

    >>> captions = {"en": ["dog 0", "cat 1"], "de": ["Hund 0", "Katze 0"]}
    >>> def encode(texts): return np.eye(2)[[int(text[-1]) for text in texts]]
    >>> ranks = multilingual_ranks(np.eye(2), encode, captions)
    >>> ranks["de"].text_to_image.tolist()
    [0, 1]
    """
    ranks = {}
    for language, image_captions in captions.items():
        texts, index = flatten_captions(image_captions)
        if image_keys is None:
            positives = unshared_positives(len(image_captions), index)
        else:
            positives = shared_positives(image_keys, texts, index)
        language_ranks = retrieval_ranks(
            image_embeddings, np.asarray(encode_texts(texts)), positives
        )
        ranks[language] = LanguageRanks(
            image_to_text=language_ranks["i2t"],
            text_to_image=language_ranks["t2i"],
            caption_image_index=index,
        )
    return ranks


def multilingual_metrics(ranks: Mapping[str, LanguageRanks]) -> Metrics:
    """Yields the mean recall of each language and the single recalls.

    Args:
        ranks: dict of `LanguageRanks` from `multilingual_ranks`.

    Yields:
        Pairs of str and float: `LANGUAGE/mean_recall`, `LANGUAGE/i2t/recall_at_1` to
        `LANGUAGE/t2i/recall_at_10`, and for each direction the number of queries and
        candidates, such as `LANGUAGE/i2t/queries` and `LANGUAGE/i2t/candidates`.

    Example:
    >>> captions = {"en": [["dog 0", "pup 0"], "cat 1"], "de": ["Hund 0", "Katze 2"]}
    >>> def encode(texts): return np.eye(3)[[int(text[-1]) for text in texts]]
    >>> ranks = multilingual_ranks(np.eye(3)[:2], encode, captions)
    >>> metrics = dict(multilingual_metrics(ranks))
    >>> metrics["en/mean_recall"], round(metrics["de/mean_recall"], 3)
    (1.0, 0.833)
    """
    for language, language_ranks in ranks.items():
        directions = {
            "i2t": language_ranks.image_to_text,
            "t2i": language_ranks.text_to_image,
        }
        recalls = {}
        for direction, query_ranks in directions.items():
            for k, value in recall_of_ranks(query_ranks).items():
                recalls[f"{direction}/recall_at_{k}"] = value
        yield f"{language}/mean_recall", mean_recall(recalls)
        for name, value in recalls.items():
            yield f"{language}/{name}", value
        candidates = {
            "i2t": len(language_ranks.text_to_image),
            "t2i": len(language_ranks.image_to_text),
        }
        for direction, query_ranks in directions.items():
            queries = np.count_nonzero(query_ranks >= 0)
            yield f"{language}/{direction}/queries", float(queries)
            yield f"{language}/{direction}/candidates", float(candidates[direction])


def multilingual_outcomes(ranks: Mapping[str, LanguageRanks]) -> dict[str, np.ndarray]:
    """Returns the values of each metric per image for `mean_statistics`.

    A metric is the mean of its values, because all images have the same number of
    captions. The t2i value of an image is the mean over its captions.

    Returns:
        dict from metric name to float array (images,).

    Example:

    >>> ranks = LanguageRanks(np.array([0, 7]), np.array([0, 7]), np.array([0, 1]))
    >>> outcomes = multilingual_outcomes({"en": ranks})
    >>> outcomes["en/i2t/recall_at_1"].tolist()
    [1.0, 0.0]
    >>> outcomes["en/mean_recall"].round(3).tolist()
    [1.0, 0.333]
    """
    outcomes = {}
    for language, language_ranks in ranks.items():
        index = language_ranks.caption_image_index
        recalls = item_outcomes(
            "i2t/recall_at_", language_ranks.image_to_text, PAPER_KS
        )
        caption_recalls = item_outcomes(
            "t2i/recall_at_", language_ranks.text_to_image, PAPER_KS
        )
        for name, values in caption_recalls.items():
            recalls[name] = np.bincount(index, weights=values) / np.bincount(index)
        outcomes[f"{language}/mean_recall"] = np.mean(list(recalls.values()), axis=0)
        outcomes |= {f"{language}/{name}": values for name, values in recalls.items()}
    return outcomes
