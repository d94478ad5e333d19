"""What the text filters need to know of each text, as arrays of hashes."""

import dataclasses

import numpy as np

from align_keras.corpus.personal_data import MIN_DIGITS
from align_keras.corpus.stable_hash import hash_pairs, hash_spans
from align_keras.corpus.word_spans import find_words


@dataclasses.dataclass(frozen=True)
class TextFeatures:
    """Texts as hashes; case doesn't count.

    Attributes:
        text_hashes: uint64 array `(texts,)`.
        unigram_counts: int64 array `(texts,)`.
        unigrams: uint64 array `(unigrams,)`, the hashes of all texts' unigrams in
            their order.
        bigrams: uint64 array `(bigrams,)`, of each two unigrams in succession in a
            text, whatever stands between them.
        bigram_places: int64 array `(bigrams,)`, each one's first in `unigrams`.
        may_be_personal: bool array `(texts,)`, False where a text certainly holds no
            personal data.
    """

    text_hashes: np.ndarray
    unigram_counts: np.ndarray
    unigrams: np.ndarray
    bigrams: np.ndarray
    bigram_places: np.ndarray
    may_be_personal: np.ndarray


def text_features(texts):
    """Computes the features of normalised texts.

    Args:
        texts: list of str, as `text_normalization.normalize_texts` returns.

    Returns:
        `TextFeatures`.

    Example:

    >>> features = text_features(["a red cat", "A cat"])
    >>> features.unigram_counts.tolist(), features.bigram_places.tolist()
    ([3, 2], [0, 1, 3])
    >>> bool(features.unigrams[0] == features.unigrams[3])
    True
    """
    words = find_words(texts)
    unigrams = hash_spans(words.data, words.starts, words.ends)
    is_last = np.zeros(len(unigrams), bool)
    is_last[np.cumsum(words.counts)[words.counts > 0] - 1] = True
    places = np.flatnonzero(~is_last)
    return TextFeatures(
        # Without the newline.
        hash_spans(words.data, words.text_starts[:-1], words.text_starts[1:] - 1),
        words.counts,
        unigrams,
        hash_pairs(unigrams[places], unigrams[places + 1]),
        places,
        words.has_at | (words.digits >= MIN_DIGITS),
    )
