"""The paper's filters: thresholds, rules in their order, and what they drop."""

import dataclasses
import json
import math
import os
import pathlib
from typing import Any

import numpy as np

from align_keras.corpus.filters.languages import DETECTION, detect_languages
from align_keras.corpus.filters.text_hashes import (
    TextFeatures,
    hash_strings,
    is_member,
    text_features,
)
from align_keras.corpus.filters.texts import find_personal_data, normalize_texts
from align_keras.utils.arguments import check_number
from align_keras.utils.errors import InputError
from align_keras.utils.files import MAX_PIXELS

# In the order in which the rules apply. A pair counts under its first reason.
REASONS = (
    "unknown size",
    "shorter side",
    "aspect",
    "pixels",
    "texts per image",
    "language",
    "personal data",
    "images per text",
    "rare n-gram",
    "few unigrams",
    "many unigrams",
)


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """Every filter's threshold; the defaults are the paper's where it names one.

    Args:
        min_shorter_side: int ≥ 0 in pixels; an image's shorter side must be larger
            (200 is dropped, 201 kept).
        max_aspect: float > 1; the longer side over the shorter must be smaller
            (exactly 3.0 is dropped).
        max_pixels: int ≥ 1; an image may have as many. The paper has no such limit:
            it keeps decompression bombs out.
        max_texts_per_image: int ≥ 1; an image may have as many distinct texts.
        max_images_per_text: int ≥ 1; as many distinct images may share a text.
        min_unigrams: int ≥ 1; a text may have as few.
        max_unigrams: int ≥ `min_unigrams`; a text may have as many.
        frequent_ngrams: int ≥ 0; a text with a unigram or a bigram outside this many
            most frequent ones of the raw input is dropped.
        languages: tuple of str such as `("en", "de")`, of which the primary subtag
            counts ("en-GB" is "en"); `""` and `"und"` (ISO 639's undetermined, which
            a YAML file can name) stand for unknown languages. Empty keeps all.
        drop_personal_data: bool, drop texts with what `find_personal_data` finds.
        unknown_sizes: `"drop"` or `"keep"` images of which only the size after
            resizing is known, see `PairColumns.is_resized`.
        detect_language: `"never"` uses the languages that pages declare, `"undeclared"`
            detects those of other captions, `"always"` detects all.

    Raises:
        InputError: if a value is outside its range.

    References:
        Jia et al. 2021, section 3.

    Example:

    >>> Thresholds(min_unigrams=1, max_unigrams=64).max_images_per_text
    10
    """

    min_shorter_side: int = 200
    max_aspect: float = 3.0
    max_pixels: int = MAX_PIXELS
    max_texts_per_image: int = 1000
    max_images_per_text: int = 10
    min_unigrams: int = 3
    max_unigrams: int = 20
    frequent_ngrams: int = 100_000_000
    languages: tuple = ()
    drop_personal_data: bool = True
    unknown_sizes: str = "drop"
    detect_language: str = "never"

    def __post_init__(self) -> None:
        for name, least in (
            ("min_shorter_side", 0),
            ("max_pixels", 1),
            ("max_texts_per_image", 1),
            ("max_images_per_text", 1),
            ("min_unigrams", 1),
            ("max_unigrams", self.min_unigrams),
            ("frequent_ngrams", 0),
        ):
            usual = type(self).__dataclass_fields__[name].default
            remedy = f"the default is {usual:,}"
            check_number(name, getattr(self, name), least, math.inf, True, remedy)
        above_one, remedy = math.nextafter(1, 2), "a square has 1, the paper's is 3"
        check_number("max_aspect", self.max_aspect, above_one, math.inf, remedy=remedy)
        if not isinstance(self.drop_personal_data, bool):
            raise InputError(
                "drop_personal_data must be true or false, received "
                f"{self.drop_personal_data!r}; write one of them."
            )
        for name, words in (
            ("unknown_sizes", ("drop", "keep")),
            ("detect_language", DETECTION),
        ):
            if getattr(self, name) not in words:
                raise InputError(
                    f"{name} must be one of {', '.join(words)}, received "
                    f"{getattr(self, name)!r}; write one of them."
                )
        object.__setattr__(self, "languages", _languages(self.languages))


def primary_language(language: str) -> str:
    """Returns the primary subtag in lower case, of "pt-BR" "pt"; "" of "und"."""
    primary = language.strip().replace("_", "-").split("-", 1)[0].lower()
    return "" if primary == "und" else primary


def _languages(languages: Any) -> tuple[str, ...]:
    valid = isinstance(languages, (tuple, list)) and all(
        isinstance(language, str) for language in languages
    )
    if not valid:
        raise InputError(
            "languages must be a list of codes such as ('en', 'de'), received "
            f"{languages!r}; leave it empty to keep all."
        )
    return tuple(sorted({primary_language(language) for language in languages}))


@dataclasses.dataclass(frozen=True)
class PairColumns:
    """Pairs by column; sizes of 0 are unknown, captions normalized.

    `is_resized` is true for images that a downloader resized without recording their
    sizes before; None if there are none.
    """

    widths: np.ndarray
    heights: np.ndarray
    image_hashes: np.ndarray
    captions: list
    languages: list
    features: TextFeatures
    is_resized: np.ndarray | None = None

    @classmethod
    def of(
        cls,
        widths: np.ndarray,
        heights: np.ndarray,
        image_keys: list[str],
        captions: list[str],
        languages: list[str],
        is_resized: np.ndarray | None = None,
        detect_language: str = "never",
    ) -> "PairColumns":
        """Normalizes and hashes what pairs hold, and detects their languages."""
        captions = normalize_texts(captions)
        languages = detect_languages(captions, languages, detect_language)
        hashes, features = hash_strings(image_keys), text_features(captions)
        return cls(widths, heights, hashes, captions, languages, features, is_resized)


@dataclasses.dataclass(frozen=True)
class Chosen:
    """Results of the counts over a corpus, as sorted uint64 arrays of hashes.

    Attributes:
        ngrams: frequent unigrams and bigrams, or None if all are frequent.
        texts: texts of too many images.
        images: images of too many texts.
        top_texts: dict from the hash of a text to its number of images.
    """

    ngrams: np.ndarray | None
    texts: np.ndarray
    images: np.ndarray
    top_texts: dict

    @classmethod
    def load(cls, folder: str | os.PathLike) -> "Chosen":
        """Opens what `choose_frequent` wrote; the arrays stay on disk."""
        chosen = pathlib.Path(folder, "chosen")
        summary = json.loads((chosen / "summary.json").read_text())
        all_frequent = summary["frequent_ngrams"] == summary["distinct_ngrams"]
        return cls(
            None if all_frequent else np.load(chosen / "ngrams.npy", mmap_mode="r"),
            np.load(chosen / "texts.npy", mmap_mode="r"),
            np.load(chosen / "images.npy", mmap_mode="r"),
            dict(summary["top_texts"]),
        )


def find_reasons(
    pairs: PairColumns, chosen: Chosen, thresholds: Thresholds
) -> np.ndarray:
    """Returns the first reason to drop each pair, by the order of `REASONS`.

    Pairs of unknown size pass the rules of sizes. Captions of unknown language are
    dropped if `thresholds.languages` lists languages without "".

    Returns:
        uint8 array (pairs,): 0 for a pair that stays, otherwise 1 + the position of the
        reason in `REASONS`.
    """
    reason_numbers = np.zeros(len(pairs.captions), np.uint8)

    def drop(reason: str, is_dropped: np.ndarray) -> None:
        is_first_reason = (reason_numbers == 0) & is_dropped
        reason_numbers[is_first_reason] = 1 + REASONS.index(reason)

    shorter = np.minimum(pairs.widths, pairs.heights).astype(np.int64)
    longer = np.maximum(pairs.widths, pairs.heights).astype(np.int64)
    has_size = shorter > 0
    unigram_counts = pairs.features.unigram_counts
    drop("unknown size", _have_unknown_sizes(pairs, thresholds))
    drop("shorter side", has_size & (shorter <= thresholds.min_shorter_side))
    drop("aspect", has_size & (longer >= thresholds.max_aspect * shorter))
    drop("pixels", has_size & (shorter * longer > thresholds.max_pixels))
    drop("texts per image", is_member(chosen.images, pairs.image_hashes))
    drop("language", _in_other_languages(pairs.languages, thresholds.languages))
    # The next rule and that of n-grams take long, and read only the pairs that stay.
    stays = reason_numbers == 0
    drop("personal data", _have_personal_data(pairs, thresholds, stays))
    drop("images per text", is_member(chosen.texts, pairs.features.text_hashes))
    stays = reason_numbers == 0
    drop("rare n-gram", _have_rare_ngrams(pairs.features, chosen.ngrams, stays))
    drop("few unigrams", unigram_counts < thresholds.min_unigrams)
    drop("many unigrams", unigram_counts > thresholds.max_unigrams)
    return reason_numbers


def count_reasons(reason_numbers: np.ndarray) -> dict[str, int]:
    """Counts the pairs of each reason that `find_reasons` returned."""
    counts = np.bincount(reason_numbers, minlength=len(REASONS) + 1).tolist()
    return dict(zip(("kept", *REASONS), counts, strict=True))


def _have_unknown_sizes(pairs: PairColumns, thresholds: Thresholds) -> np.ndarray:
    if pairs.is_resized is None or thresholds.unknown_sizes == "keep":
        return np.zeros(len(pairs.captions), bool)
    return pairs.is_resized


def _in_other_languages(languages: list[str], allowed: tuple[str, ...]) -> np.ndarray:
    if not allowed:
        return np.zeros(len(languages), bool)
    refused = {name for name in set(languages) if primary_language(name) not in allowed}
    return np.array([name in refused for name in languages], bool)


def _have_personal_data(
    pairs: PairColumns, thresholds: Thresholds, stays: np.ndarray
) -> np.ndarray:
    is_personal = np.zeros(len(stays), bool)
    if thresholds.drop_personal_data:
        for row in np.flatnonzero(stays & pairs.features.may_be_personal).tolist():
            is_personal[row] = find_personal_data(pairs.captions[row]) is not None
    return is_personal


def _have_rare_ngrams(
    features: TextFeatures, frequent: np.ndarray | None, stays: np.ndarray
) -> np.ndarray:
    is_rare = np.zeros(len(stays), bool)
    if frequent is None:
        return is_rare
    # The text of each unigram and of each bigram.
    unigram_rows = np.repeat(np.arange(len(stays)), features.unigram_counts)
    bigram_rows = unigram_rows[features.bigram_places]
    for hashes, rows in (
        (features.unigrams, unigram_rows),
        (features.bigrams, bigram_rows),
    ):
        open_ngrams = np.flatnonzero((stays & ~is_rare)[rows])
        is_rare_ngram = ~is_member(frequent, hashes[open_ngrams])
        is_rare[rows[open_ngrams[is_rare_ngram]]] = True
    return is_rare
