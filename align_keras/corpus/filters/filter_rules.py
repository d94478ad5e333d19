"""Thresholds and rules of the paper's filters, in the order in which they apply."""

import dataclasses
import json
import os
import pathlib

import numpy as np

from align_keras.corpus.filters.languages import DETECTION, detect_languages
from align_keras.corpus.filters.text_hashes import (
    TextFeatures,
    hash_strings,
    is_member,
    text_features,
)
from align_keras.corpus.filters.texts import find_personal_data, normalize_texts
from align_keras.utils.arguments import check_choice
from align_keras.utils.files import MAX_PIXELS

# Reasons to drop a pair, in the order of the rules. A pair is counted under the first
# reason that applies.
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
    """Thresholds of the filters.

    The defaults are the values of the paper, if the paper has a value.

    Args:
        min_shorter_side: ≥ 0, in pixels. The shorter side of an image must be
            larger (200 is dropped, 201 is kept).
        max_aspect: float > 1. The ratio of the longer to the shorter side must be
            smaller (exactly 3.0 is dropped).
        max_pixels: ≥ 1, the largest number of pixels of an image. This limit
            protects against decompression bombs. The paper has no such limit.
        max_texts_per_image: ≥ 1, the largest number of distinct captions of an
            image.
        max_images_per_text: ≥ 1, the largest number of distinct images that share a
            caption.
        min_unigrams: ≥ 1, the smallest number of unigrams in a caption.
        max_unigrams: ≥ `min_unigrams`, the largest number of unigrams in a caption.
        frequent_ngrams: ≥ 0, the number of unigrams and bigrams that count as
            frequent in the unfiltered input. Captions with a rarer n-gram are dropped.
        languages: the languages to keep, such as `("en", "de")`. Only the primary
            subtag is compared ("en-GB" equals "en"). `""` and `"und"` (the code of ISO
            639 for undetermined languages, which a YAML file can contain) keep captions
            of unknown language. An empty tuple keeps all languages.
        drop_personal_data: whether to drop captions in which `find_personal_data` finds
            personal data.
        unknown_sizes: `"drop"` or `"keep"` images whose original size is unknown
            because a downloader resized them, see `PairColumns.is_resized`.
        detect_language: `"never"` uses the languages that pages declare, `"undeclared"`
            detects the language of captions without a declared language, `"always"`
            detects the language of all captions.

    Raises:
        InputError: If `unknown_sizes` or `detect_language` is not one of its values.

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
        check_choice("unknown_sizes", self.unknown_sizes, ("drop", "keep"))
        check_choice("detect_language", self.detect_language, DETECTION)
        languages = {primary_language(language) for language in self.languages}
        object.__setattr__(self, "languages", tuple(sorted(languages)))


def primary_language(language: str) -> str:
    """Returns the primary subtag of a language code in lower case.

    "pt-BR" becomes "pt", and "und" (undetermined) becomes "".
    """
    primary = language.strip().replace("_", "-").split("-", 1)[0].lower()
    return "" if primary == "und" else primary


@dataclasses.dataclass(frozen=True)
class PairColumns:
    """Columns of a batch of image–caption pairs.

    Attributes:
        widths: int array (pairs,), in pixels. 0 if unknown.
        heights: int array (pairs,), in pixels. 0 if unknown.
        image_hashes: uint64 array (pairs,), hashes of the image keys.
        captions: normalized.
        languages: declared or detected. "" if unknown.
        features: `TextFeatures` of the captions.
        is_resized: bool array (pairs,), true for images that a downloader resized
            without recording the original size, or None if no image was resized.
    """

    widths: np.ndarray
    heights: np.ndarray
    image_hashes: np.ndarray
    captions: list
    languages: list
    features: TextFeatures
    is_resized: np.ndarray | None = None

    @classmethod
    def from_raw_columns(
        cls,
        widths: np.ndarray,
        heights: np.ndarray,
        image_keys: list[str],
        captions: list[str],
        languages: list[str],
        is_resized: np.ndarray | None = None,
        detect_language: str = "never",
    ) -> "PairColumns":
        """Normalizes captions, detects their languages and hashes captions and keys."""
        captions = normalize_texts(captions)
        languages = detect_languages(captions, languages, detect_language)
        hashes, features = hash_strings(image_keys), text_features(captions)
        return cls(widths, heights, hashes, captions, languages, features, is_resized)


@dataclasses.dataclass(frozen=True)
class CorpusCounts:
    """Results of the counts over a corpus, as sorted uint64 arrays of hashes.

    Attributes:
        ngrams: frequent unigrams and bigrams, or None if all are frequent.
        texts: captions that too many images share.
        images: images that have too many captions.
        top_texts: dict from the hash of a most shared caption to its number of images.
    """

    ngrams: np.ndarray | None
    texts: np.ndarray
    images: np.ndarray
    top_texts: dict

    @classmethod
    def load(cls, folder: str | os.PathLike) -> "CorpusCounts":
        """Opens the files of `choose_frequent` as memory-mapped arrays."""
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
    pairs: PairColumns, counts: CorpusCounts, thresholds: Thresholds
) -> np.ndarray:
    """Returns the first reason to drop each pair, in the order of `REASONS`.

    Pairs of unknown size pass the rules on sizes. Captions of unknown language are
    dropped if `thresholds.languages` lists languages but not "".

    The counts are those of the whole corpus.

    Returns:
        uint8 array (pairs,): 0 for a pair that is kept, otherwise 1 + the index of the
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
    drop("texts per image", is_member(counts.images, pairs.image_hashes))
    drop("language", _in_other_languages(pairs.languages, thresholds.languages))
    # The rules on personal data and n-grams are slow, so they skip dropped pairs.
    is_kept = reason_numbers == 0
    drop("personal data", _have_personal_data(pairs, thresholds, is_kept))
    drop("images per text", is_member(counts.texts, pairs.features.text_hashes))
    is_kept = reason_numbers == 0
    drop("rare n-gram", _have_rare_ngrams(pairs.features, counts.ngrams, is_kept))
    drop("few unigrams", unigram_counts < thresholds.min_unigrams)
    drop("many unigrams", unigram_counts > thresholds.max_unigrams)
    return reason_numbers


def count_reasons(reason_numbers: np.ndarray) -> dict[str, int]:
    """Counts the kept pairs and the pairs of each reason.

    Args:
        reason_numbers: uint8 array (pairs,), from `find_reasons`.

    Returns:
        dict from "kept" and each of `REASONS` to a number of pairs.
    """
    counts = np.bincount(reason_numbers, minlength=len(REASONS) + 1).tolist()
    return dict(zip(("kept", *REASONS), counts, strict=True))


def _have_unknown_sizes(pairs: PairColumns, thresholds: Thresholds) -> np.ndarray:
    if pairs.is_resized is None or thresholds.unknown_sizes == "keep":
        return np.zeros(len(pairs.captions), bool)
    return pairs.is_resized


def _in_other_languages(languages: list[str], allowed: tuple[str, ...]) -> np.ndarray:
    if not allowed:
        return np.zeros(len(languages), bool)
    unwanted = {
        name for name in set(languages) if primary_language(name) not in allowed
    }
    return np.array([name in unwanted for name in languages], bool)


def _have_personal_data(
    pairs: PairColumns, thresholds: Thresholds, is_kept: np.ndarray
) -> np.ndarray:
    is_personal = np.zeros(len(is_kept), bool)
    if thresholds.drop_personal_data:
        for row in np.flatnonzero(is_kept & pairs.features.may_be_personal).tolist():
            is_personal[row] = find_personal_data(pairs.captions[row]) is not None
    return is_personal


def _have_rare_ngrams(
    features: TextFeatures, frequent: np.ndarray | None, is_kept: np.ndarray
) -> np.ndarray:
    is_rare = np.zeros(len(is_kept), bool)
    if frequent is None:
        return is_rare
    # Index of the caption that contains each unigram and each bigram.
    unigram_rows = np.repeat(np.arange(len(is_kept)), features.unigram_counts)
    bigram_rows = unigram_rows[features.bigram_positions]
    for hashes, rows in (
        (features.unigrams, unigram_rows),
        (features.bigrams, bigram_rows),
    ):
        # The n-grams of captions that are already dropped are skipped.
        candidates = np.flatnonzero((is_kept & ~is_rare)[rows])
        is_rare_ngram = ~is_member(frequent, hashes[candidates])
        is_rare[rows[candidates[is_rare_ngram]]] = True
    return is_rare
