"""Configuration of a corpus, for `align-keras corpus`."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, NonNegativeInt, PositiveInt

from align_keras.config.section import Fraction, Report, Section, value_error
from align_keras.utils.files import MAX_PIXELS


class FilterConfig(Section):
    """Filters of pairs. The defaults are those of Jia et al. 2021, section 3."""

    min_shorter_side: NonNegativeInt = Field(
        default=200, description="Pixels. The shorter side of an image must be larger."
    )
    max_aspect: float = Field(
        default=3.0,
        gt=1,
        description=(
            "Upper bound of the ratio of the longer side to the shorter side. The "
            "ratio must be smaller."
        ),
    )
    max_pixels: PositiveInt = Field(
        default=MAX_PIXELS, description="Maximum number of pixels of an image."
    )
    max_texts_per_image: PositiveInt = Field(
        default=1000, description="Maximum number of different alt-texts of an image."
    )
    max_images_per_text: PositiveInt = Field(
        default=10, description="Maximum number of images with the same alt-text."
    )
    min_unigrams: PositiveInt = Field(
        default=3, description="Minimum number of words of an alt-text."
    )
    max_unigrams: PositiveInt = Field(
        default=20, description="Maximum number of words of an alt-text."
    )
    frequent_ngrams: PositiveInt = Field(
        default=100_000_000,
        description=(
            "Number of the most frequent unigrams and bigrams of the raw texts. A "
            "text with any other unigram or bigram is dropped."
        ),
    )
    languages: tuple[str, ...] = Field(
        default=(),
        description=(
            "Codes of the languages to keep, such as `en`. The code `und` is for "
            "texts with an unknown language. An empty list keeps all languages."
        ),
    )
    drop_personal_data: bool = Field(
        default=True,
        description=(
            "True to drop texts with email addresses, phone numbers and similar data."
        ),
    )
    unknown_sizes: Literal["drop", "keep"] = Field(
        default="drop",
        description=(
            "`keep` or `drop` for images whose original size is unknown. These are "
            "the images of a shard that stores only resized squares of one size."
        ),
    )
    detect_language: Literal["never", "undeclared", "always"] = Field(
        default="never",
        description=(
            "Captions whose language is detected by the extra `language`: `never` for "
            "none, `undeclared` for pages without a declared language, or `always` "
            "for all."
        ),
    )

    def check_rules(self, report: Report) -> None:
        report.at_most("min_unigrams", "max_unigrams")


class ImagesConfig(Section):
    """Size and format of the stored images."""

    shorter_side: int = Field(
        default=346,
        ge=32,
        description=(
            "Pixels. Larger images are reduced to this shorter side. The paper's "
            "recipe crops 289 pixels from 346."
        ),
    )
    keep_aspect: bool = Field(
        default=True,
        description=(
            "True to keep the aspect ratio of larger images. False resizes them to "
            "squares of `shorter_side`, as in the paper. Training decodes only the "
            "cropped window of such a square."
        ),
    )
    quality: int = Field(
        default=85,
        ge=1,
        le=95,
        description=(
            "JPEG quality. Compared with 90, a quality of 85 takes four fifths of the "
            "bytes and changes crops by 0.3 more gray levels."
        ),
    )
    refuse: str | None = Field(
        default=None,
        description=(
            "`module:function` of a function that takes an RGB `PIL.Image.Image`. "
            "Images for which it returns True are dropped. It can be, for example, a "
            "classifier of pornographic images."
        ),
    )


class DuplicatesConfig(Section):
    """Removal of near-duplicate images."""

    mode: Literal["hash", "embedding", "pixels"] = Field(
        default="hash",
        description=(
            "Method of comparison: `hash` for perceptual hashes, `embedding` for "
            "embeddings as in appendix A of the paper, or `pixels` for equal pixels."
        ),
    )
    against: tuple[str, ...] = Field(
        default=(),
        description=(
            "Sources of evaluation images. Near-duplicates of these images are "
            "removed from the corpus."
        ),
    )
    inside_corpus: bool = Field(
        default=False,
        description=(
            "True to keep only the largest of several near-duplicates in the corpus. "
            "The paper keeps all of them. Images with equal pixels are always merged."
        ),
    )
    max_distance: int = Field(
        default=8,
        ge=0,
        le=32,
        description=(
            "Maximum number of the 128 bits in which the hashes of two "
            "near-duplicates in the corpus differ. It requires `inside_corpus`. "
            "Values from 2 to 6 suit drawings."
        ),
    )
    max_distance_against: int = Field(
        default=12,
        ge=0,
        le=32,
        description=(
            "Maximum number of different bits between the hashes of an image and an "
            "evaluation image."
        ),
    )
    encoder: str | None = Field(
        default=None,
        description=(
            "Model of the embeddings: a run, an export or a Hugging Face folder."
        ),
    )
    min_cosine: Fraction = Field(
        default=0.975,
        description=(
            "Cosine similarity above which two images of the corpus are "
            "near-duplicates. It requires `inside_corpus`."
        ),
    )
    min_cosine_against: Fraction = Field(
        default=0.975,
        description=(
            "Cosine similarity above which an image is a near-duplicate of an "
            "evaluation image."
        ),
    )
    clusters: int = Field(
        default=4096, ge=3, description="Number of k-means clusters of the embeddings."
    )
    nearest_clusters: int = Field(
        default=10,
        ge=3,
        description=(
            "Number of the nearest clusters in which the near-duplicates of an image "
            "are searched."
        ),
    )

    def check_rules(self, report: Report) -> None:
        if self.mode == "embedding" and self.encoder is None:
            report.refuse(
                "encoder",
                f"a model if {report.name('mode')} is embedding",
                "Choose a run, an export or a Hugging Face folder.",
                "mode",
            )
        inside_corpus = report.name("inside_corpus")
        for name in ("max_distance", "min_cosine"):
            default = type(self).model_fields[name].default
            if getattr(self, name) != default and not self.inside_corpus:
                report.refuse(
                    name,
                    f"{default}, the default, unless {inside_corpus} is true",
                    f"Add {inside_corpus}=true, set {report.name(name)}_against for "
                    "copies of evaluation images, or leave it out.",
                    "inside_corpus",
                )


class VocabularyConfig(Section):
    """WordPiece vocabulary of the captions."""

    size: int = Field(
        default=100_000,
        ge=6,
        description="Number of tokens. The paper's multilingual model has 250,000.",
    )
    min_frequency: PositiveInt = Field(
        default=2,
        description=(
            "Minimum number of occurrences of a pair of tokens that is merged to one "
            "token."
        ),
    )
    normalization: Literal["bert_uncased", "bert_cased"] = Field(
        default="bert_uncased",
        description="Normalization of the captions before they are split into words.",
    )


class ShardsConfig(Section):
    """Shards of the corpus, which are the files that training reads."""

    file_format: Literal["tfrecord", "array_record"] = Field(
        default="tfrecord", description="File format of the shards."
    )
    number_of_shards: PositiveInt | None = Field(
        default=None, description="Number of shards, or null to let TFDS choose it."
    )
    test_fraction: Fraction = Field(
        default=0.0,
        description=(
            "Fraction of the images in the split `test`. A hash of the pixels selects "
            "them."
        ),
    )


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


def _check_hooks(hooks: dict[str, str]) -> dict[str, str]:
    for name in hooks:
        if name in SCORE_COLUMNS or not re.fullmatch("[a-z][a-z0-9_]*", name):
            raise value_error(
                "names of columns other than the computed ones, with lower-case "
                "letters, digits and underscores"
            )
    return hooks


Hooks = Annotated[dict[str, str], Field(min_length=1), AfterValidator(_check_hooks)]


class ScoreConfig(Section):
    """Scores of the pairs in the shards, for `align-keras corpus score`."""

    model: str | None = Field(
        default=None,
        description=(
            "Model of the column `similarity`, as in `align_keras.load_model`, or "
            "null to leave this column out."
        ),
    )
    hooks: Hooks | None = Field(
        default=None,
        description=(
            "Further columns. Each name of a column has the `package.module:function` "
            "of a function that takes a list of encoded images (bytes) and a list of "
            "their captions (str), and returns a list of float, one for each pair."
        ),
    )


class CorpusConfig(Section):
    """Corpus with its sources, filters and shards.

    Example:
    >>> CorpusConfig(filter={"max_unigrams": 30}).filter.min_unigrams
    3
    """

    sources: tuple[str, ...] = Field(
        default=(),
        description="Sources of pairs, as for `align-keras corpus --source`.",
    )
    caption_rules: tuple[Literal["alt", "title", "figcaption", "caption"], ...] = Field(
        default=(),
        description=(
            "Parts of a web page whose texts are captions of an image, such as "
            "`[alt]`. An empty list selects all parts. `caption` selects the captions "
            "of sources other than web pages, such as tables."
        ),
    )
    opt_out: Literal["honor", "ignore"] = Field(
        default="honor",
        description=(
            "`honor` to drop the pairs of web pages and images that opt out by "
            "`noai`, `noimageai`, `noindex` or `noimageindex`, in the HTTP header "
            '`X-Robots-Tag` or in `<meta name="robots">`. `ignore` keeps them.'
        ),
    )
    filter: FilterConfig = FilterConfig()
    images: ImagesConfig = ImagesConfig()
    duplicates: DuplicatesConfig = DuplicatesConfig()
    vocabulary: VocabularyConfig = VocabularyConfig()
    shards: ShardsConfig = ShardsConfig()
    score: ScoreConfig = ScoreConfig()
