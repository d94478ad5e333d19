"""Configuration of a corpus, for `align-keras corpus`."""

import dataclasses
from typing import Literal

from align_keras.config.fields import count_field, fraction_field, number_field
from align_keras.config.rules import Report
from align_keras.utils.files import MAX_PIXELS


@dataclasses.dataclass(frozen=True)
class FilterConfig:
    """Filters of pairs. The defaults are those of Jia et al. 2021, section 3.

    Attributes:
        min_shorter_side: in pixels, which the shorter side must exceed.
        max_aspect: longer side by shorter, which stays below it.
        max_pixels: of an image.
        max_texts_per_image: alt-texts of one image.
        max_images_per_text: images that share an alt-text.
        min_unigrams: words of an alt-text.
        max_unigrams: words of an alt-text.
        frequent_ngrams: how many unigrams and bigrams of the raw texts aren't rare; a
            text with a rare one goes.
        languages: such as `("en",)`, of which `"und"` stands for texts of unknown
            language; empty for all.
        drop_personal_data: drop texts with email addresses, phone numbers and the like.
        unknown_sizes: whether images stay of which only the size after resizing is
            known: all images of a shard that records no sizes are squares of one size.
        detect_language: which captions' languages are detected, by the extra
            `language`: none, those whose page declares no language, or all.
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
    """In what form images are stored.

    Attributes:
        shorter_side: in pixels, to which larger images are reduced. 346 is what the
            paper's recipe crops 289 from.
        keep_aspect: false makes larger images squares of `shorter_side`, as the paper
            resizes them: of these training only decodes the window that it crops.
        quality: of JPEG. Against 90, 85 takes four fifths of the bytes, and crops are
            0.3 gray levels further from those of the originals.
        refuse: `"module:function"` of each image (`PIL.Image.Image`, RGB); those for
            which it returns true go, such as a classifier's of pornographic images.
    """

    shorter_side: int = count_field(346, at_least=32)
    keep_aspect: bool = True
    quality: int = number_field(85, at_least=1, at_most=95)
    refuse: str | None = None


@dataclasses.dataclass(frozen=True)
class DuplicatesConfig:
    """Search for images that are copies of others.

    Attributes:
        mode: `"hash"`, perceptual hashes; `"embedding"`, as the paper's appendix A;
            or `"pixels"`, equal pixels alone.
        against: sources of evaluation images: what is near to one of them goes.
        inside_corpus: of images that are near each other in the corpus, only the
            largest stays; those of equal pixels are one anyway. The paper keeps all.
        max_distance: bits of 128 in which hashes of near images of the corpus differ
            at most, if `inside_corpus`. Drawings want 2 to 6.
        max_distance_against: the same to evaluation images.
        encoder: whose embeddings are compared: a run, an export, or a Hugging Face's.
        min_cosine: above which images of the corpus are near, if `inside_corpus`.
        min_cosine_against: the same to evaluation images.
        clusters: of k-means.
        nearest_clusters: within which an image is looked for.
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
    """The WordPiece vocabulary of the kept captions.

    Attributes:
        size: tokens; the paper's multilingual model has 250,000.
        min_frequency: how often a pair of tokens must occur to become one.
        normalization: of captions before they are cut into words.
    """

    size: int = count_field(100_000, at_least=6)
    min_frequency: int = count_field(2)
    normalization: Literal["bert_uncased", "bert_cased"] = "bert_uncased"


@dataclasses.dataclass(frozen=True)
class ShardsConfig:
    """The files that training reads.

    Attributes:
        file_format: of the shards.
        number_of_shards: None for as many as TFDS chooses.
        test_fraction: images that make the split `test`, chosen by their pixels.
    """

    file_format: Literal["tfrecord", "array_record"] = "tfrecord"
    number_of_shards: int | None = count_field(None)
    test_fraction: float = number_field(0.0, at_least=0, below=1)


@dataclasses.dataclass(frozen=True)
class CorpusConfig:
    """A corpus from its sources to its shards.

    Attributes:
        sources: as `align-keras corpus --source`.
        caption_rules: which texts of an image are its captions, by where they stand in
            the page, such as `[alt]`; empty for all. `caption` are those of sources
            that don't say where they stood, such as tables.
    """

    sources: tuple[str, ...] = ()
    caption_rules: tuple[Literal["alt", "title", "figcaption", "caption"], ...] = ()
    filter: FilterConfig = FilterConfig()
    images: ImagesConfig = ImagesConfig()
    duplicates: DuplicatesConfig = DuplicatesConfig()
    vocabulary: VocabularyConfig = VocabularyConfig()
    shards: ShardsConfig = ShardsConfig()


def _check_corpus(config: CorpusConfig, report: Report) -> None:
    report.at_most("filter.min_unigrams", "filter.max_unigrams")
    report.at_most("duplicates.nearest_clusters", "duplicates.clusters")
    duplicates = config.duplicates
    if duplicates.mode == "embedding" and duplicates.encoder is None:
        report.refuse(
            "duplicates.encoder",
            "a model where duplicates.mode is embedding",
            "name a run, an export or a Hugging Face folder",
            "duplicates.mode",
        )
    for name in ("max_distance", "min_cosine"):
        default = getattr(DuplicatesConfig, name)
        if getattr(duplicates, name) != default and not duplicates.inside_corpus:
            report.refuse(
                f"duplicates.{name}",
                "left out unless duplicates.inside_corpus is true",
                "add duplicates.inside_corpus=true, write "
                f"duplicates.{name}_against for copies of evaluation images, or leave "
                f"it at {default}",
                "duplicates.inside_corpus",
            )


CORPUS_RULES = (_check_corpus,)
