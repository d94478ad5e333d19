"""The paper's filters for pairs in memory."""

import itertools
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from align_keras.corpus.filters.counts import count_in_memory
from align_keras.corpus.filters.filter_rules import (
    REASONS,
    PairColumns,
    Thresholds,
    count_reasons,
    find_reasons,
)

# Number of pairs that are filtered together. Limits memory.
PAIRS_PER_BATCH = 32_768


class Pair(NamedTuple):
    """An image and its caption.

    Attributes:
        image_size: (width, height) in pixels. (0, 0) if unknown.
        image_key: equal for equal images.
        language: code of the caption's language. "" if unknown.

    Example:

    >>> Pair((640, 480), "sha1:00", "a red bicycle", "en").caption
    'a red bicycle'
    """

    image_size: tuple
    image_key: str
    caption: str
    language: str = ""


def filter_pairs(
    pairs: Iterable[tuple], thresholds: Thresholds | None = None
) -> tuple[list, dict[str, int]]:
    """Drops pairs by the paper's rules and counts the reasons.

    Each dropped pair counts under the first reason that applies. Shared captions and
    frequent n-grams are counted over all input pairs, before any pair is dropped. Two
    captions are equal if their normalized forms differ only in case. The command
    `align-keras corpus filter` applies the same rules to tables.

    The reasons, in their order:

    - `"unknown size"`: the image was resized earlier and its original size is unknown.
      Only pairs in tables are dropped for this reason.
    - `"shorter side"`, `"aspect"`, `"pixels"`: the size of the image is outside its
      limits. Images of unknown size pass.
    - `"texts per image"`: the image has too many distinct captions.
    - `"language"`: `languages` isn't empty and doesn't contain the caption's language.
      Languages are detected as `detect_language` requests. The returned records keep
      their declared languages.
    - `"personal data"`: `find_personal_data` finds personal data in the caption.
    - `"images per text"`: too many distinct images share the caption.
    - `"rare n-gram"`: a unigram or bigram of the caption isn't among the
      `frequent_ngrams` most frequent n-grams. Unigrams and bigrams are ranked together,
      and equal counts are ranked by a fixed hash.
    - `"few unigrams"`, `"many unigrams"`: the number of words, as `unigrams` finds
      them, is outside its limits.

    Args:
        pairs: iterable of `Pair` or of tuples with the same order of items. The
            language is optional, and additional items are passed through. The iterable
            is read once.
        thresholds: `Thresholds`. Defaults to the thresholds of the paper.

    Returns:
        `(kept, counts)`: the list of kept records, in input order and with normalized
        captions, and a dict from `"kept"` and each reason to a number of pairs.

    References:
        Jia et al. 2021, section 3.

    Example:

    >>> pairs = [((640, 480), "a", "A  cat on a mat"), ((640, 480), "b", "A cat")]
    >>> kept, counts = filter_pairs(pairs)
    >>> kept, counts["few unigrams"]
    ([((640, 480), 'a', 'A cat on a mat')], 1)
    """
    thresholds = Thresholds() if thresholds is None else thresholds
    batches, remaining = [], iter(pairs)
    while records := list(itertools.islice(remaining, PAIRS_PER_BATCH)):
        batches.append((records, _columns(records, thresholds)))
    corpus_counts = count_in_memory([columns for _, columns in batches], thresholds)
    kept_pairs, reason_counts = [], dict.fromkeys(("kept", *REASONS), 0)
    for records, columns in batches:
        reason_numbers = find_reasons(columns, corpus_counts, thresholds)
        for reason, number in count_reasons(reason_numbers).items():
            reason_counts[reason] += number
        for row in np.flatnonzero(reason_numbers == 0).tolist():
            kept_pairs.append(_with_caption(records[row], columns.captions[row]))
    return kept_pairs, reason_counts


def _columns(records: list[Any], thresholds: Thresholds) -> PairColumns:
    sizes = np.array([record[0] for record in records])
    return PairColumns.from_raw_columns(
        sizes[:, 0],
        sizes[:, 1],
        [record[1] for record in records],
        [record[2] for record in records],
        [record[3] if len(record) > 3 else "" for record in records],
        detect_language=thresholds.detect_language,
    )


def _with_caption(record: Any, caption: str) -> Any:
    if record[2] == caption:
        return record
    if hasattr(record, "_replace"):
        return record._replace(caption=caption)
    return (*record[:2], caption, *record[3:])
