"""Configuration of a corpus, for `align-keras corpus`."""

import dataclasses
import re
from typing import Literal

from align_keras.config.fields import count_field, fraction_field, number_field
from align_keras.config.rules import Report
from align_keras.utils.files import MAX_PIXELS


@dataclasses.dataclass(frozen=True)
class FilterConfig:
    """Filters of pairs. The defaults are those of Jia et al. 2021, section 3.

    Attributes:
        min_shorter_side: Pixels. The shorter side of an image must be larger.
        max_aspect: Upper bound of the ratio of the longer side to the shorter side.
            The ratio must be smaller.
        max_pixels: Maximum number of pixels of an image.
        max_texts_per_image: Maximum number of different alt-texts of an image.
        max_images_per_text: Maximum number of images with the same alt-text.
        min_unigrams: Minimum number of words of an alt-text.
        max_unigrams: Maximum number of words of an alt-text.
        frequent_ngrams: Number of the most frequent unigrams and bigrams of the raw
            texts. A text with any other unigram or bigram is dropped.
        languages: Codes of the languages to keep, such as `"en"`. The code `"und"` is
            for texts with an unknown language. An empty list keeps all languages.
        drop_personal_data: True to drop texts with email addresses, phone numbers and
            similar data.
        unknown_sizes: `"keep"` or `"drop"` for images whose original size is unknown.
            These are the images of a shard that stores only resized squares of one
            size.
        detect_language: Captions whose language is detected by the extra `language`:
            `"never"` for none, `"undeclared"` for pages without a declared language,
            or `"always"` for all.

    Example:

    >>> FilterConfig(min_unigrams=2, languages=("en",)).max_aspect
    3.0
    """

    min_shorter_side: int = count_field(200, at_least=0)
    max_aspect: float = number_field(3.0, above=1)
    max_pixels: int = count_field(MAX_PIXELS)
    max_texts_per_image: int = count_field(1000)
    max_images_per_text: int = count_field(10)
    min_unigrams: int = count_field(3)
    max_unigrams: int = count_field(20)
    frequent_ngrams: int = count_field(100_000_000)
    languages: tuple[str, ...] = ()
    drop_personal_data: bool = True
    unknown_sizes: Literal["drop", "keep"] = "drop"
    detect_language: Literal["never", "undeclared", "always"] = "never"


@dataclasses.dataclass(frozen=True)
class ImagesConfig:
    """Size and format of the stored images.

    Attributes:
        shorter_side: Pixels. Larger images are reduced to this shorter side. The
            paper's recipe crops 289 pixels from 346.
        keep_aspect: True to keep the aspect ratio of larger images. False resizes them
            to squares of `shorter_side`, as in the paper. Training decodes only the
            cropped window of such a square.
        quality: JPEG quality. Compared with 90, a quality of 85 takes four fifths of
            the bytes and changes crops by 0.3 more gray levels.
        refuse: `"module:function"` of a function that takes an RGB `PIL.Image.Image`.
            Images for which it returns True are dropped. It can be, for example, a
            classifier of pornographic images.

    Example:

    >>> ImagesConfig(quality=90).shorter_side
    346
    """

    shorter_side: int = count_field(346, at_least=32)
    keep_aspect: bool = True
    quality: int = number_field(85, at_least=1, at_most=95)
    refuse: str | None = None


@dataclasses.dataclass(frozen=True)
class DuplicatesConfig:
    """Removal of near-duplicate images.

    Attributes:
        mode: Method of comparison: `"hash"` for perceptual hashes, `"embedding"` for
            embeddings as in appendix A of the paper, or `"pixels"` for equal pixels.
        against: Sources of evaluation images. Near-duplicates of these images are
            removed from the corpus.
        inside_corpus: True to keep only the largest of several near-duplicates in the
            corpus. The paper keeps all of them. Images with equal pixels are always
            merged.
        max_distance: Maximum number of the 128 bits in which the hashes of two
            near-duplicates in the corpus differ. It requires `inside_corpus`. Values
            from 2 to 6 suit drawings.
        max_distance_against: Maximum number of different bits between the hashes of an
            image and an evaluation image.
        encoder: Model of the embeddings: a run, an export or a Hugging Face folder.
        min_cosine: Cosine similarity above which two images of the corpus are
            near-duplicates. It requires `inside_corpus`.
        min_cosine_against: Cosine similarity above which an image is a near-duplicate
            of an evaluation image.
        clusters: Number of k-means clusters of the embeddings.
        nearest_clusters: Number of the nearest clusters in which the near-duplicates
            of an image are searched.

    Example:

    >>> DuplicatesConfig(against=("folder:coco",)).mode
    'hash'
    """

    mode: Literal["hash", "embedding", "pixels"] = "hash"
    against: tuple[str, ...] = ()
    inside_corpus: bool = False
    max_distance: int = number_field(8, at_least=0, at_most=32)
    max_distance_against: int = number_field(12, at_least=0, at_most=32)
    encoder: str | None = None
    min_cosine: float = fraction_field(0.975)
    min_cosine_against: float = fraction_field(0.975)
    clusters: int = count_field(4096, at_least=3)
    nearest_clusters: int = count_field(10, at_least=3)


@dataclasses.dataclass(frozen=True)
class VocabularyConfig:
    """WordPiece vocabulary of the captions.

    Attributes:
        size: Number of tokens. The paper's multilingual model has 250,000.
        min_frequency: Minimum number of occurrences of a pair of tokens that is merged
            to one token.
        normalization: Normalization of the captions before they are split into words.

    Example:

    >>> VocabularyConfig(size=30_000).normalization
    'bert_uncased'
    """

    size: int = count_field(100_000, at_least=6)
    min_frequency: int = count_field(2)
    normalization: Literal["bert_uncased", "bert_cased"] = "bert_uncased"


@dataclasses.dataclass(frozen=True)
class ShardsConfig:
    """Shards of the corpus, which are the files that training reads.

    Attributes:
        file_format: File format of the shards.
        number_of_shards: Number of shards, or None to let TFDS choose it.
        test_fraction: Fraction of the images in the split `test`. A hash of the pixels
            selects them.

    Example:

    >>> ShardsConfig(test_fraction=0.05).file_format
    'tfrecord'
    """

    file_format: Literal["tfrecord", "array_record"] = "tfrecord"
    number_of_shards: int | None = count_field(None)
    test_fraction: float = number_field(0.0, at_least=0, below=1)


@dataclasses.dataclass(frozen=True)
class ScoreConfig:
    """Scores of the pairs in the shards, for `align-keras corpus score`.

    Attributes:
        model: Model of the column `similarity`, as in `align_keras.load_model`, or None
            to leave this column out.
        hooks: Further columns. Each name of a column has the
            `"package.module:function"` of a function that takes a list of encoded
            images (bytes) and a list of their captions (str), and returns a list of
            float, one for each pair.

    Example:

    >>> ScoreConfig(model="align_small_en").hooks is None
    True
    """

    model: str | None = None
    hooks: dict[str, str] | None = None


# Columns of the scores that this package computes. A hook can't have such a name.
SCORE_COLUMNS = (
    "shard",
    "id",
    "caption_number",
    "caption",
    "language",
    "detected_language",
    "similarity",
    "draw",
)


@dataclasses.dataclass(frozen=True)
class CorpusConfig:
    """Corpus with its sources, filters and shards.

    Attributes:
        sources: Sources of pairs, as for `align-keras corpus --source`.
        caption_rules: Parts of a web page whose texts are captions of an image, such as
            `[alt]`. An empty list selects all parts. `caption` selects the captions of
            sources other than web pages, such as tables.
        opt_out: `"honor"` to drop the pairs of web pages and images that opt out by
            `noai`, `noimageai`, `noindex` or `noimageindex`, in the HTTP header
            `X-Robots-Tag` or in `<meta name="robots">`. `"ignore"` keeps them.

    Example:

    >>> CorpusConfig(sources=("html:pages",)).filter.min_unigrams
    3
    """

    sources: tuple[str, ...] = ()
    caption_rules: tuple[Literal["alt", "title", "figcaption", "caption"], ...] = ()
    opt_out: Literal["honor", "ignore"] = "honor"
    filter: FilterConfig = FilterConfig()
    images: ImagesConfig = ImagesConfig()
    duplicates: DuplicatesConfig = DuplicatesConfig()
    vocabulary: VocabularyConfig = VocabularyConfig()
    shards: ShardsConfig = ShardsConfig()
    score: ScoreConfig = ScoreConfig()


def _check_corpus(config: CorpusConfig, report: Report) -> None:
    report.at_most("filter.min_unigrams", "filter.max_unigrams")
    report.at_most("duplicates.nearest_clusters", "duplicates.clusters")
    duplicates = config.duplicates
    if duplicates.mode == "embedding" and duplicates.encoder is None:
        report.refuse(
            "duplicates.encoder",
            "a model if duplicates.mode is embedding",
            "Choose a run, an export or a Hugging Face folder.",
            "duplicates.mode",
        )
    for name in ("max_distance", "min_cosine"):
        default = getattr(DuplicatesConfig, name)
        if getattr(duplicates, name) != default and not duplicates.inside_corpus:
            report.refuse(
                f"duplicates.{name}",
                f"{default}, the default, unless duplicates.inside_corpus is true",
                "Add duplicates.inside_corpus=true, set "
                f"duplicates.{name}_against for copies of evaluation images, or leave "
                "it out.",
                "duplicates.inside_corpus",
            )


def _check_score(config: CorpusConfig, report: Report) -> None:
    for name in config.score.hooks or ():
        if name in SCORE_COLUMNS or not re.fullmatch("[a-z][a-z0-9_]*", name):
            report.refuse(
                "score.hooks",
                "names of new columns with lower-case letters, digits and underscores, "
                "such as {safety: package.module:function}",
                f"The columns {', '.join(SCORE_COLUMNS)} exist already.",
                value=name,
            )


CORPUS_RULES = (_check_corpus, _check_score)
