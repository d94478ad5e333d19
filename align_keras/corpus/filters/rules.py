"""The paper's filters: thresholds, rules in their order, and what they drop."""

import dataclasses
import json
import math
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
from align_keras.utils.arguments import check_number
from align_keras.utils.errors import InputError
from align_keras.utils.files import MAX_PIXELS

# In the order in which they are looked for; the first is the one that counts.
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

    def __post_init__(self):
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


def _languages(languages):
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
    """What the counts say, as sorted uint64 arrays of hashes: frequent `ngrams` (None:
    all), `texts` of too many images, `images` of too many texts; `top_texts` by hash.
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
    """Finds each pair's first reason to be dropped: 0, or its place in `REASONS` + 1.
    Unknown sizes pass; unknown languages don't, where any but `""` are asked for.
    """
    found = np.zeros(len(pairs.captions), np.uint8)
    for number, dropped in enumerate(_drops(pairs, chosen, thresholds, found), start=1):
        found[(found == 0) & dropped] = number
    return found


def count_reasons(found: np.ndarray) -> dict[str, int]:
    """Counts what `find_reasons` found, by reason."""
    numbers = np.bincount(found, minlength=len(REASONS) + 1).tolist()
    return dict(zip(("kept", *REASONS), numbers, strict=True))


def _drops(pairs, chosen, thresholds, found):
    """Yields which pairs each of `REASONS` drops; `found` is filled in meanwhile."""
    shorter = np.minimum(pairs.widths, pairs.heights).astype(np.int64)
    longer = np.maximum(pairs.widths, pairs.heights).astype(np.int64)
    known = shorter > 0
    yield _have_unknown_sizes(pairs, thresholds)
    yield known & (shorter <= thresholds.min_shorter_side)
    yield known & (longer >= thresholds.max_aspect * shorter)
    yield known & (shorter * longer > thresholds.max_pixels)
    yield is_member(chosen.images, pairs.image_hashes)
    yield _in_other_languages(pairs.languages, thresholds.languages)
    yield _have_personal_data(pairs, thresholds, found == 0)
    yield is_member(chosen.texts, pairs.features.text_hashes)
    yield _have_rare_ngrams(pairs.features, chosen.ngrams, found == 0)
    yield pairs.features.unigram_counts < thresholds.min_unigrams
    yield pairs.features.unigram_counts > thresholds.max_unigrams


def _have_unknown_sizes(pairs, thresholds):
    if pairs.is_resized is None or thresholds.unknown_sizes == "keep":
        return np.zeros(len(pairs.captions), bool)
    return pairs.is_resized


def _in_other_languages(languages, wanted):
    others = {name for name in set(languages) if primary_language(name) not in wanted}
    return np.array([bool(wanted) and name in others for name in languages], bool)


def _have_personal_data(pairs, thresholds, left):
    found = np.zeros(len(left), bool)
    if thresholds.drop_personal_data:
        for row in np.flatnonzero(left & pairs.features.may_be_personal).tolist():
            found[row] = find_personal_data(pairs.captions[row]) is not None
    return found


def _have_rare_ngrams(features, frequent, left):
    found = np.zeros(len(left), bool)
    if frequent is None:
        return found
    # Which text each unigram stands in.
    unigram_rows = np.repeat(np.arange(len(left)), features.unigram_counts)
    bigram_rows = unigram_rows[features.bigram_places]
    for hashes, rows in (
        (features.unigrams, unigram_rows),
        (features.bigrams, bigram_rows),
    ):
        asked = np.flatnonzero((left & ~found)[rows])
        rare = ~is_member(frequent, hashes[asked])
        found[rows[asked[rare]]] = True
    return found
