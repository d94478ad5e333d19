"""The paper's filters on pairs in memory."""

import itertools
import numbers
from collections.abc import Iterable, Iterator
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
from align_keras.utils.errors import InputError

# Pairs that are filtered together, which limits memory.
PAIRS_PER_BATCH = 32_768


class Pair(NamedTuple):
    """An image and a text about it; size (0, 0) and language "" are unknown."""

    image_size: tuple
    image_key: str
    caption: str
    language: str = ""


def filter_pairs(
    pairs: Iterable[tuple], thresholds: Thresholds | None = None
) -> tuple[list, dict[str, int]]:
    """Drops pairs by the paper's rules and counts why.

    The first of these reasons that holds counts; what is shared, and which n-grams are
    frequent, is counted over all pairs as they came in. Texts are the same whose
    normalized forms differ in case at most. `align-keras corpus filter` gives the same
    of tables.

    - `"unknown size"`: never here; in tables, images that were resized before.
    - `"shorter side"`, `"aspect"`, `"pixels"`: of the image; unknown sizes pass.
    - `"texts per image"`, `"images per text"`: too many distinct ones.
    - `"language"`: not one of `languages`, if any are given. `detect_language` detects
      the languages of captions, not those of the returned records.
    - `"personal data"`: `find_personal_data` finds some.
    - `"rare n-gram"`: a unigram or bigram that isn't among the `frequent_ngrams` most
      frequent ones of both kinds; equal counts are ranked by a fixed hash.
    - `"few unigrams"`, `"many unigrams"`, by the rule of `unigrams`.

    Args:
        pairs: iterable of `Pair` or of tuples in that order, the language optional;
            further items are passed through. Read once.
        thresholds: `Thresholds`, by default the paper's.

    Returns:
        `(kept, counts)`: the list of the records that stay, in their order, with
        normalized captions; and a dict of int with `"kept"` and each reason.

    Raises:
        InputError: if a record isn't of this form.

    References:
        Jia et al. 2021, section 3.

    Example:

    >>> pairs = [((640, 480), "a", "A  cat on a mat"), ((640, 480), "b", "A cat")]
    >>> kept, counts = filter_pairs(pairs)
    >>> kept, counts["few unigrams"]
    ([((640, 480), 'a', 'A cat on a mat')], 1)
    """
    thresholds = Thresholds() if thresholds is None else thresholds
    batches, checked = [], _checked(pairs)
    while records := list(itertools.islice(checked, PAIRS_PER_BATCH)):
        batches.append((records, _columns(records, thresholds)))
    chosen = count_in_memory([columns for _, columns in batches], thresholds)
    kept_pairs, counts = [], dict.fromkeys(("kept", *REASONS), 0)
    for records, columns in batches:
        reason_numbers = find_reasons(columns, chosen, thresholds)
        for reason, number in count_reasons(reason_numbers).items():
            counts[reason] += number
        for row in np.flatnonzero(reason_numbers == 0).tolist():
            kept_pairs.append(_with_caption(records[row], columns.captions[row]))
    return kept_pairs, counts


def _checked(pairs: Iterable[tuple]) -> Iterator[Any]:
    for number, record in enumerate(pairs):
        valid = isinstance(record, tuple) and len(record) >= 3
        if valid:
            size, *texts = record[:4]
            valid = (
                isinstance(size, (tuple, list))
                and len(size) == 2
                and all(isinstance(side, numbers.Integral) for side in size)
                and all(isinstance(text, str) for text in texts)
            )
        if not valid:
            raise InputError(
                "pairs must be tuples ((width, height), image_key, caption, language), "
                f"received {record!r:.200} as number {number}; see "
                "align_keras.corpus.Pair."
            )
        yield record


def _columns(records: list[Any], thresholds: Thresholds) -> PairColumns:
    sizes = np.array([record[0] for record in records])
    return PairColumns.of(
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
