"""Options of the model: image tower, text tower, projections and temperature."""

import operator
from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from align_keras.config.section import CHANGEABLE, Fraction, Report, Section

# fmt: off
ImageVariantName = Literal[
    "efficientnet_nano", "efficientnet_micro", "efficientnet_b0", "efficientnet_b1",
    "efficientnet_b2", "efficientnet_b3", "efficientnet_b4", "efficientnet_b5",
    "efficientnet_b6", "efficientnet_b7", "efficientnet_b8", "efficientnet_l2",
    "efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2",
    "efficientnet_lite3", "efficientnet_lite4",
]
TextVariantName = Literal[
    "bert_tiny", "bert_mini", "bert_medium", "bert_base", "bert_large",
    "distil_bert_base", "albert_base", "albert_large", "electra_small", "minilm_l6",
]
# fmt: on
# Modes of `align_keras.models.ImageEncoder.set_training`.
TrainingMode = Literal["frozen", "projection", "last_blocks", "lora", "full"]


class _EncoderConfig(Section):
    """Options of both encoders."""

    training: TrainingMode | None = Field(
        default=None,
        description=(
            "Weights that are trained: `frozen` for none, `projection`, `last_blocks` "
            "for the last `blocks` blocks and all layers after them, `lora` for "
            "low-rank factors, `full` for all, or null for `projection` if `locked` "
            "is true and `full` otherwise. Frozen layers run in inference mode."
        ),
    )
    blocks: PositiveInt | None = Field(
        default=None,
        description="Number of blocks for `training: last_blocks`, or null for 2.",
    )
    rank: PositiveInt | None = Field(
        default=None,
        description="Rank of the factors for `training: lora`, or null for 8.",
    )
    locked: bool = Field(
        default=False,
        description=(
            "True to train only the projection. It is the same as `training: "
            "projection`."
        ),
    )
    learning_rate_multiplier: PositiveFloat = Field(
        default=1.0,
        description=(
            "Factor of the learning rate of all variables except the projection."
        ),
    )

    @property
    def training_mode(self) -> TrainingMode:
        """Value of `training`, or the value that `locked` implies."""
        if self.training is not None:
            return self.training
        return "projection" if self.locked else "full"

    def check_rules(self, report: Report) -> None:
        if self.locked and self.training not in (None, "projection"):
            report.refuse_both("training", "locked")
        for name, mode in (("blocks", "last_blocks"), ("rank", "lora")):
            if getattr(self, name) is not None and self.training_mode != mode:
                rule = f"null unless training is {mode}"
                remedy = f"Set {report.name('training')}={mode}, or leave it out."
                report.refuse(name, rule, remedy)


class ImageEncoderConfig(_EncoderConfig):
    """EfficientNet image tower.

    References:
        Jia et al. 2021, section 5: 289 pixels.
    """

    variant: ImageVariantName = Field(
        default="efficientnet_b7", description="Name of the EfficientNet."
    )
    width_coefficient: PositiveFloat | None = Field(
        default=None, description="Width coefficient, or null for that of the variant."
    )
    depth_coefficient: PositiveFloat | None = Field(
        default=None, description="Depth coefficient, or null for that of the variant."
    )
    num_stages: int = Field(
        default=7,
        ge=1,
        le=7,
        description="Number of EfficientNet stages, counted from the first of seven.",
    )
    image_size: int = Field(
        default=289, ge=32, description="Side of the input in pixels."
    )
    padding: Literal["tf", "hugging_face"] | None = Field(
        default=None,
        description=(
            "Padding of convolutions with stride 2: `tf` as in the open-source "
            "EfficientNet, `hugging_face`, or null for the padding of the weights."
        ),
    )
    num_classes: int | None = Field(
        default=None,
        ge=2,
        description=(
            "Number of classes of the classifier in the weights. The class "
            "probabilities are then appended to the features. null removes the "
            "classifier, as in the paper."
        ),
    )
    drop_connect_rate: Fraction = Field(
        default=0.2, description="Drop-connect rate of the last block."
    )
    batch_norm_momentum: Fraction = Field(
        default=0.99, description="Momentum of the moving batch statistics."
    )
    batch_norm_epsilon: PositiveFloat = Field(
        default=1e-3, description="Constant that is added to the variances."
    )
    synchronized: bool = Field(
        default=False,
        description=(
            "True to compute batch statistics over all replicas, and false to compute "
            "them per replica."
        ),
    )
    virtual_batch_size: PositiveInt | None = Field(
        default=None,
        description=(
            "Number of rows of a replica with common batch statistics, or null for "
            "all rows."
        ),
    )
    replicas_per_group: NonNegativeInt | None = Field(
        default=None,
        description=(
            "Number of replicas with common batch statistics, null for one replica, "
            "or 0 for the number that the open-source EfficientNet uses."
        ),
    )
    freeze_batch_statistics: bool = Field(
        default=False,
        description="True to normalize by the moving statistics in training.",
    )
    rematerialize: bool = Field(
        default=False,
        description=(
            "True to save memory by computing activations again for the gradient."
        ),
        json_schema_extra=CHANGEABLE,
    )
    weights: str | None = Field(
        default=None,
        description=(
            "Name or path of pretrained weights, as in "
            "`align_keras.models.load_image_weights`, or null for random weights."
        ),
    )


class TextEncoderConfig(_EncoderConfig):
    """Text tower, which is a BERT or a related transformer.

    References:
        Jia et al. 2021, sections 4.1 (100k WordPiece tokens) and 5 (at most 64 tokens).
    """

    variant: TextVariantName = Field(
        default="bert_base", description="Name of the transformer."
    )
    num_layers: PositiveInt | None = Field(
        default=None, description="Number of layers, or null for that of the variant."
    )
    hidden_dim: PositiveInt | None = Field(
        default=None,
        description=(
            "Width of the layers, a multiple of `num_heads`, or null for that of the "
            "variant."
        ),
    )
    num_heads: PositiveInt | None = Field(
        default=None,
        description="Number of attention heads, or null for that of the variant.",
    )
    intermediate_dim: PositiveInt | None = Field(
        default=None,
        description=(
            "Width of the feed-forward layers, or null for that of the variant."
        ),
    )
    dropout: Fraction = Field(default=0.1, description="Dropout rate.")
    vocabulary: str | None = Field(
        default=None,
        description=(
            "Path of a vocabulary.txt, or null to learn a vocabulary from the captions."
        ),
    )
    vocabulary_size: int = Field(
        default=100_000, ge=10, description="Number of WordPiece tokens to learn."
    )
    normalization: Literal["bert_uncased", "bert_cased"] = Field(
        default="bert_uncased",
        description="Text normalization with which the vocabulary was learned.",
    )
    sequence_length: int = Field(
        default=64,
        ge=3,
        description="Number of tokens of a caption, including [CLS] and [SEP].",
    )
    max_sequence_length: int | None = Field(
        default=None,
        ge=3,
        description=(
            "Number of position embeddings, at least `sequence_length`, or null for "
            "`sequence_length`."
        ),
    )
    activation: Literal["gelu_approximate", "gelu"] = Field(
        default="gelu_approximate", description="Exact or approximate GELU."
    )
    pooling: Literal["cls", "mean"] = Field(
        default="cls", description="`cls` as in the paper, or `mean`."
    )
    rematerialize: bool = Field(
        default=False,
        description=(
            "True to save memory by computing activations again for the gradient."
        ),
        json_schema_extra=CHANGEABLE,
    )
    projection: bool = Field(
        default=True,
        description=(
            "True for a linear layer to `projection_dim`. False requires a "
            "`hidden_dim` that equals `projection_dim`."
        ),
    )
    weights: str | None = Field(
        default=None,
        description=(
            "Name or path of pretrained weights with their vocabulary, as in "
            "`align_keras.models.load_text_weights`, or null for random weights."
        ),
    )

    def check_rules(self, report: Report) -> None:
        super().check_rules(report)
        report.multiple("hidden_dim", "num_heads")
        report.refuse_both("vocabulary", "weights")


# Keys of `task.model` that a preset determines.
PRESET_KEYS = (
    "image_encoder.variant",
    "image_encoder.image_size",
    "text_encoder.variant",
    "text_encoder.sequence_length",
    "projection_dim",
)


class ModelConfig(Section):
    """Image tower, text tower, projections and temperature.

    References:
        Jia et al. 2021, sections 6.1 (B7's width of 640) and 5 (one learned
        temperature that starts at 1.0).
    """

    preset: str | None = Field(
        default=None,
        description=(
            "Name of a preset such as `align_b3_mini`, or null. A preset determines "
            "the variants, `image_size`, `sequence_length` and `projection_dim`."
        ),
    )
    image_encoder: ImageEncoderConfig = ImageEncoderConfig()
    text_encoder: TextEncoderConfig = TextEncoderConfig()
    projection_dim: PositiveInt = Field(
        default=640, description="Dimension of the embeddings of both towers."
    )
    project_class_names: bool = Field(
        default=False,
        description=(
            "True to initialize the image projection with the text embeddings of the "
            "names of the 1,000 ImageNet classes. It requires "
            "`image_encoder.num_classes` of 1000, weights of both towers, and a text "
            "tower without projection."
        ),
    )
    initial_temperature: PositiveFloat | None = Field(
        default=1.0,
        description=(
            "Initial temperature, or null for that of the ALIGN in "
            "`image_encoder.weights`."
        ),
    )
    learn_temperature: bool = Field(
        default=True, description="False to keep the initial temperature."
    )

    def check_rules(self, report: Report) -> None:
        image, text = self.image_encoder, self.text_encoder
        has_class_names = image.num_classes == 1000 and image.weights is not None
        has_text_weights = text.weights is not None and not text.projection
        if self.project_class_names and not (has_class_names and has_text_weights):
            report.refuse(
                "project_class_names",
                "false without image_encoder.num_classes=1000, the weights of both "
                "towers and text_encoder.projection=false",
                "Set these options, or leave it out.",
            )
        modes = {image.training_mode, text.training_mode}
        if modes == {"frozen"} and not self.learn_temperature:
            report.refuse(
                "image_encoder.training",
                "projection, last_blocks, lora or full if the text encoder is frozen "
                "and learn_temperature is false",
                "Train at least one of them.",
            )
        if self.preset is None:
            return
        preset = report.name("preset")
        for key in PRESET_KEYS:
            value = report.get(key)
            default = operator.attrgetter(key)(ModelConfig())
            if value != default or (report.is_set(key) and value is not None):
                report.refuse(
                    key,
                    f"omitted, because {preset} ({self.preset}) determines it",
                    f"Leave it out, or set {preset}=null.",
                    "preset",
                )
