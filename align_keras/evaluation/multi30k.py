"""Mean recall in several languages."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from align_keras.evaluation.recall_at_k import recall_of_ranks
from align_keras.evaluation.retrieval import (
    flatten_captions,
    own_positives,
    retrieval_ranks,
    shared_positives,
)
from align_keras.evaluation.slices import Metrics, item_outcomes
from align_keras.utils.errors import InputError


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
    """The ranks of one language's captions and of the images among them.

    All are int64 arrays, of images, captions and captions; the last one is each
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
        captions: dict from a language to, for each image, its captions: a sequence
            of str, or one str. In the paper five in English and German, one in
            French and Czech.
        image_keys: optional sequence of hashable, one an image; given, equal
            captions, and images of equal key, are one target (`shared_positives`).
            None is the paper's protocol: an image's captions alone are right.

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
                f"`captions[{language!r}]` must have one entry an image, got "
                f"{len(of_images)} for {len(image_embeddings)} images."
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
        Pairs of str and float: `LANGUAGE/mean_recall`, and
        `LANGUAGE/i2t/recall_at_1` … `LANGUAGE/t2i/recall_at_10`.

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
