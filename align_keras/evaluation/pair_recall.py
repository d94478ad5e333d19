"""Recall of image-caption pairs, for the protocol `retrieval` and for runs."""

import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from align_keras.evaluation.recall_at_k import PAPER_KS
from align_keras.evaluation.retrieval import (
    RetrievalPositives,
    flatten_captions,
    metrics_of_retrieval_ranks,
    retrieval_ranks,
    shared_positives,
    unshared_positives,
)
from align_keras.utils.truncation import truncate_embeddings


class PairEncoder(Protocol):
    """Model that embeds the images and the captions of pairs."""

    def encode_images(self, images: Sequence[Any]) -> np.ndarray:
        """Returns unit-length embeddings of images, float32 (n, d)."""

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Returns unit-length embeddings of texts, float32 (n, d)."""


@dataclasses.dataclass(frozen=True)
class RetrievalResult:
    """Ranks of the captions for each image, and of the images for each caption.

    Attributes:
        image_embeddings: float32 (images, d).
        text_embeddings: float32 (captions, d).
        captions: the captions of all images.
        caption_image_index: int64 (captions,), the row of each caption's image.
        ranks: dict from direction to the rank of the best positive of each query.
        metrics: recall@k of both directions with the numbers of queries and
            candidates.
    """

    image_embeddings: np.ndarray
    text_embeddings: np.ndarray
    captions: list[str]
    caption_image_index: np.ndarray
    positives: RetrievalPositives
    ranks: Mapping[str, np.ndarray]
    metrics: dict[str, float]


def rank_pairs(
    image_embeddings: np.ndarray,
    captions: Sequence[Sequence[str]],
    encode_texts: Callable[[Sequence[str]], np.ndarray],
    image_keys: Sequence[Hashable] | None,
    ks: Sequence[int] = PAPER_KS,
) -> RetrievalResult:
    """Ranks captions for each image and images for each caption.

    Args:
        image_embeddings: float32 (n, d).
        captions: the captions of each image.
        encode_texts: function from texts to their embeddings.
        image_keys: a key of each image, equal for equal images. Equal images and equal
            captions then count as one target, because no model can distinguish them. If
            None, only the captions of an image are correct, as in the paper.
        ks: the ranks of recall@k.

    References:
        Jia et al. 2021, section 5.1.
    """
    texts, image_of_caption = flatten_captions(captions)
    text_embeddings = encode_texts(texts)
    if image_keys is None:
        positives = unshared_positives(len(image_embeddings), image_of_caption)
    else:
        positives = shared_positives(image_keys, texts, image_of_caption)
    ranks = retrieval_ranks(image_embeddings, text_embeddings, positives)
    return RetrievalResult(
        image_embeddings=image_embeddings,
        text_embeddings=text_embeddings,
        captions=texts,
        caption_image_index=image_of_caption,
        positives=positives,
        ranks=ranks,
        metrics=dict(metrics_of_retrieval_ranks(ranks, positives, ks)),
    )


def evaluate_pairs(
    encoder: PairEncoder,
    pairs: Any,
    ks: Sequence[int] = PAPER_KS,
    widths: Sequence[int] = (),
) -> dict[str, float]:
    """Measures the protocol `retrieval` on pairs in memory, without a cache.

    Args:
        encoder: `ALIGN`, or another model with `encode_images` and `encode_texts`.
        pairs: object with `images`, `captions` and `image_keys`, such as
            `align_keras.data.RetrievalSet`.
        ks: the ranks of recall@k.
        widths: numbers of first components of the embeddings at which recall is also
            measured.

    Returns:
        dict from the names of metrics to their values. The metrics of a width have its
        name in front, such as `width_64/t2i/recall_at_1`.
    """
    image_embeddings = encoder.encode_images(pairs.images)
    result = rank_pairs(
        image_embeddings, pairs.captions, encoder.encode_texts, pairs.image_keys, ks
    )
    metrics = dict(result.metrics)
    for width in widths:
        ranks = retrieval_ranks(
            truncate_embeddings(image_embeddings, width),
            truncate_embeddings(result.text_embeddings, width),
            result.positives,
        )
        width_metrics = metrics_of_retrieval_ranks(ranks, result.positives, ks)
        for name, value in width_metrics:
            if "/recall_at_" in name:
                metrics[f"width_{width}/{name}"] = value
    return metrics
