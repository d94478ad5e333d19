"""Mean recall in several languages."""

from typing import NamedTuple

import numpy as np

from align_keras.evaluation.recall_at_k import rank_of_best_positive, recall_of_ranks
from align_keras.evaluation.retrieval import (
    flatten_captions,
    own_positives,
    shared_positives,
)
from align_keras.utils.errors import InputError


def mean_recall(metrics):
    """The mean of recall at 1, 5 and 10 of both directions.

    Args:
        metrics: dict, or pairs, with `i2t/recall_at_1` … `t2i/recall_at_10`, as
            `retrieval_metrics` yields them.

    Returns:
        float in [0, 1].

    References:
        Jia et al. 2021, section 8 and table 11.

    Example:
    >>> names = [f"{way}/recall_at_{k}" for way in ("i2t", "t2i") for k in (1, 5, 10)]
    >>> round(mean_recall(zip(names, [0.1, 0.2, 0.3, 0.1, 0.2, 0.9])), 6)
    0.3
    """
    metrics = dict(metrics)
    return float(
        np.mean(
            [
                metrics[f"{direction}/recall_at_{k}"]
                for direction in ("i2t", "t2i")
                for k in (1, 5, 10)
            ]
        )
    )


class LanguageRanks(NamedTuple):
    """The ranks of one language's captions and of the images among them.

    Attributes:
        image_to_text: int64 array (images,), as `rank_of_best_positive` gives.
        text_to_image: int64 array (captions,).
        caption_image_index: int64 array (captions,), each caption's image.
    """

    image_to_text: np.ndarray
    text_to_image: np.ndarray
    caption_image_index: np.ndarray


def multilingual_ranks(image_embeddings, encode_texts, captions, image_keys=None):
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
        embeddings = np.asarray(encode_texts(texts))
        ranks[language] = LanguageRanks(
            rank_of_best_positive(image_embeddings, embeddings, right.image_to_text),
            rank_of_best_positive(embeddings, image_embeddings, right.text_to_image),
            index,
        )
    return ranks


def multilingual_metrics(ranks):
    """Yields each language's mean recall, and the recalls that make it.

    Args:
        ranks: dict of `LanguageRanks`, as `multilingual_ranks` gives.

    Yields:
        Pairs of str and float: `LANGUAGE/mean_recall`, and
        `LANGUAGE/i2t/recall_at_1` … `LANGUAGE/t2i/recall_at_10`.

    Example:
    >>> captions = {"en": [["dog 0", "pup 0"], "cat 1"], "de": ["Hund 0", "Katze 2"]}
    >>> ranks = multilingual_ranks(
    ...     np.eye(3)[:2], lambda texts: np.eye(3)[[int(text[-1]) for text in texts]],
    ...     captions)
    >>> for name, value in multilingual_metrics(ranks):
    ...     if name.endswith("mean_recall"):
    ...         print(name, value)
    en/mean_recall 1.0
    de/mean_recall 0.833333...
    """
    for language, of_language in ranks.items():
        recalls = {
            f"{direction}/recall_at_{k}": value
            for direction, found in (
                ("i2t", of_language.image_to_text),
                ("t2i", of_language.text_to_image),
            )
            for k, value in recall_of_ranks(found).items()
        }
        yield f"{language}/mean_recall", mean_recall(recalls)
        for name, value in recalls.items():
            yield f"{language}/{name}", value


def multilingual_outcomes(ranks):
    """Each image's share of the metrics, by which they can be sliced.

    Args:
        ranks: dict of `multilingual_ranks`, every image with as many captions
            as the others, and at least one.

    Returns:
        dict from the metrics' names to float64 arrays (images,), whose means
        the metrics are: an image's t2i is the mean of its captions'.

    Example:
    >>> ranks = LanguageRanks(np.array([0, 6]), np.array([0, 3, 0, 0]),
    ...                       np.array([0, 0, 1, 1]))
    >>> outcomes = multilingual_outcomes({"en": ranks})
    >>> outcomes["en/i2t/recall_at_5"].tolist(), outcomes["en/t2i/recall_at_1"].tolist()
    ([1.0, 0.0], [0.5, 1.0])
    >>> outcomes["en/mean_recall"].round(3).tolist()
    [0.917, 0.667]
    """
    outcomes = {}
    for language, of_language in ranks.items():
        captions = np.bincount(of_language.caption_image_index)
        recalls = {}
        for k in (1, 5, 10):
            recalls[f"i2t/recall_at_{k}"] = (of_language.image_to_text < k).astype(
                float
            )
        for k in (1, 5, 10):
            found = of_language.text_to_image < k
            of_images = np.bincount(of_language.caption_image_index, weights=found)
            recalls[f"t2i/recall_at_{k}"] = of_images / captions
        outcomes[f"{language}/mean_recall"] = np.mean(list(recalls.values()), axis=0)
        outcomes |= {f"{language}/{name}": found for name, found in recalls.items()}
    return outcomes
