"""Options of the training pairs and the validation pairs."""

from typing import Annotated, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)

from align_keras.config.section import (
    CHANGEABLE,
    OMIT_ONE,
    Report,
    Section,
    named_items,
)


class SourceConfig(Section):
    """Item of the list `task.train_data.source`."""

    path: str = Field(description="File, folder, pattern or address.")
    weight: PositiveFloat | None = Field(
        default=None,
        description=(
            "Share of the pairs from this source, relative to the weights of the "
            "other sources. If all weights are null, the weights are the numbers of "
            "images of the sources."
        ),
    )


Sources = Annotated[
    tuple[SourceConfig, ...], Field(min_length=1), named_items(SourceConfig)
]


# Options with other defaults in the validation data.
Split = Annotated[
    str,
    Field(description="Split of the prepared data, such as `train[:90%]`, or `all`."),
]
BatchSize = Annotated[
    PositiveInt, Field(description="Number of pairs per step over all replicas.")
]
RandomCrop = Annotated[
    bool, Field(description="True for a random crop, and false for a central crop.")
]
RandomFlip = Annotated[
    bool, Field(description="True to flip half of the images horizontally.")
]


class DataConfig(Section):
    """Pairs of images and captions, and their batches.

    References:
        Jia et al. 2021, section 5: batches of 16384, random crop and flip.
    """

    corpus: str | None = Field(
        default=None,
        description=(
            "`icons`, `stamps`, a folder of `tools/make_drawings.py`, several of these "
            "joined by `+`, `pairs`, or the path of a data set that TFDS prepared, "
            "such as the output of `align-keras corpus`. An experiment must set it."
        ),
    )
    corpus_repeats: dict[str, PositiveFloat] | None = Field(
        default=None,
        min_length=1,
        description=(
            "Number of times that an epoch contains the pairs of a corpus in a "
            "mixture, such as `{icons: 2}`, or null for once each. It is allowed in "
            "`train_data` only."
        ),
    )
    source: Sources | None = Field(
        default=None,
        description=(
            "Shards to read instead of a corpus: a path, or a list of `path` and "
            "`weight`, as in `align_keras.datasets.open_sources`. It is allowed in "
            "`train_data` only."
        ),
    )
    tfds_split: Split = "train"
    split_by: Literal["image", "image_and_caption", "image_with_validation"] = Field(
        default="image",
        description=(
            "How the corpus `pairs` is divided. `image` makes the splits `train` and "
            "`test`, which share no image. `image_and_caption` makes the splits "
            "`train`, `validation` and `test`, which share neither an image nor a "
            "caption. `image_with_validation` makes these splits too, which share no "
            "image."
        ),
    )
    tfds_data_dir: str | None = Field(
        default=None,
        description="Folder of the prepared data, or null for the default of TFDS.",
        json_schema_extra=CHANGEABLE,
    )
    pairs: str | None = Field(
        default=None, description="Table or folder of the corpus `pairs`."
    )
    image_column: str | None = Field(
        default=None,
        description=(
            "Column of the images in the table or the sources, or null to detect it."
        ),
    )
    caption_column: str | None = Field(
        default=None,
        description=(
            "Column of the captions in the table or the sources, or null to detect it."
        ),
    )
    caption_sources: dict[str, PositiveFloat] | None = Field(
        default=None,
        min_length=1,
        description=(
            "Probability of each source of captions, such as `{alt: 0.7, synthetic: "
            "0.3}`, or null to draw all captions of an image with equal probability. "
            "The sources are columns of captions in the table, or values of its "
            "column `source`. In the shards of `source` they are columns, keys of the "
            "`.json` members of a tar, or features of TFRecord files. The "
            "probabilities are divided by the sum over the sources that an image has."
        ),
    )
    where: str | None = Field(
        default=None,
        description=(
            "Condition on the scores of `align-keras corpus score`, such as "
            "`similarity > 0.2 and detected_language = 'en'`, or null for all pairs. "
            "It requires that `corpus`, or each `source`, is a corpus that "
            "`align-keras corpus` built."
        ),
    )
    encoding: str = Field(
        default="utf-8", description="Text encoding of the table and of caption files."
    )
    max_bad_fraction: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Maximum fraction of unusable pairs.",
        json_schema_extra=CHANGEABLE,
    )
    global_batch_size: BatchSize = 16_384
    micro_batch_size: PositiveInt | None = Field(
        default=None,
        description=(
            "Number of pairs that a replica embeds at a time, or null for the whole "
            "batch."
        ),
    )
    shuffle_buffer_size: PositiveInt = Field(
        default=20_000, description="Number of pairs in the shuffle buffer."
    )
    pair_weighted: bool = Field(
        default=False,
        description=(
            "True to use every caption of an image once per epoch, as in the paper. "
            "False uses every image once per epoch with a random caption."
        ),
    )
    cache: bool = Field(
        default=False, description="True to keep decoded images in memory."
    )
    data_service: str | None = Field(
        default=None,
        description=(
            "Address of the dispatcher of a tf.data service, such as "
            "`grpc://host:5000`, or null. The order of its batches is not "
            "deterministic."
        ),
        json_schema_extra=CHANGEABLE,
    )
    seed: NonNegativeInt | None = Field(
        default=None,
        description=(
            "Seed of shuffling and augmentation, or null for that of the trainer."
        ),
    )
    random_crop: RandomCrop = True
    resize_before_crop: bool = Field(
        default=False,
        description=(
            "True to resize the whole image before a random crop, as the paper does. "
            "It is slower. `align_keras.images.crop_image_bytes` lists the "
            "differences."
        ),
    )
    random_flip: RandomFlip = True
    random_zoom: NonNegativeFloat = Field(
        default=0.0,
        description=(
            "Each side of a crop is scaled by a random factor between "
            "exp(-random_zoom) and exp(random_zoom)."
        ),
    )
    random_shift: NonNegativeFloat = Field(
        default=0.0, description="Maximum shift of a crop as a fraction of its side."
    )
    random_recolor: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description=(
            "Fraction of the images with random colors and polarity, for drawings."
        ),
    )

    def check_rules(self, report: Report) -> None:
        if self.corpus == "pairs" and self.pairs is None:
            rule, remedy = "a path if corpus is 'pairs'", "Set the table or folder."
            report.refuse("pairs", rule, remedy, "corpus")
        if self.pairs is not None and self.corpus not in (None, "pairs"):
            rule = f"pairs if {report.name('pairs')} is set"
            report.refuse("corpus", rule, OMIT_ONE, "pairs")
        if self.caption_sources is not None and self.pair_weighted:
            rule = "false if caption_sources is set"
            report.refuse("pair_weighted", rule, OMIT_ONE, "caption_sources")
        members = (self.corpus or "").split("+")
        repeated = set(self.corpus_repeats or ())
        if repeated and (len(members) == 1 or not repeated.issubset(members)):
            rule = "numbers for corpora that corpus joins by +"
            remedy = "Use for example {icons: 2} for corpus icons+stamps."
            report.refuse("corpus_repeats", rule, remedy, "corpus")
        report.refuse_both("corpus", "source")
        report.refuse_both("pairs", "source")
        if self.cache and self.source is not None:
            remedy = "Leave one of them out, or build a corpus."
            report.refuse("cache", "false if source is set", remedy, "source")
        has_weights = {item.weight is not None for item in self.source or ()}
        if len(has_weights) > 1:
            rule = "a list with a weight for each path, or for none"
            report.refuse("source", rule, "Add the missing weights.")


class ValidationDataConfig(DataConfig):
    """Validation pairs. All of them are evaluated without augmentation."""

    tfds_split: Split = "test"
    global_batch_size: BatchSize = 256
    random_crop: RandomCrop = False
    random_flip: RandomFlip = False

    def check_rules(self, report: Report) -> None:
        if self.source is not None:
            remedy = (
                f"Build the corpus and set {report.name('corpus')}, or set "
                f"{report.name('pairs')}."
            )
            report.refuse("source", "null, because validation needs a corpus", remedy)
        super().check_rules(report)
