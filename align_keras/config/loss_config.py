"""Options of the losses and of distillation. `align_keras.losses` has their classes."""

from typing import Annotated, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)

from align_keras.config.section import (
    CHANGE_ONE,
    CHANGEABLE,
    INCREASING,
    Fraction,
    OneOf,
    Report,
    Section,
    named_items,
)

# Number of rows and columns of a tile with the option `tile_size: 0`, which the losses
# call "auto".
AUTO_TILE_SIZE = 2048
# Number of logits of a replica, 1 GiB in float32. Up to this number, all tiles are
# stored for the gradient, which saves the fourth matrix product. If the tiles had to be
# computed again, the loss without tiles would be faster.
AUTO_SAVED_LOGITS = 2**28


class _InBatchLossOptions(Section):
    """Options of the losses that compare all pairs of a batch."""

    share_equal_captions: bool = Field(
        default=False,
        description=(
            "True to treat pairs with equal captions as positives of each other."
        ),
    )
    share_equal_images: bool = Field(
        default=False,
        description=(
            "True to treat all captions of an image in a batch as positives of the "
            "image."
        ),
    )
    tile_size: NonNegativeInt = Field(
        default=0,
        description=(
            "Number of rows and columns of the logits that are in memory at once, or "
            "0 for the fastest method."
        ),
        json_schema_extra=CHANGEABLE,
    )


class ContrastiveLossConfig(_InBatchLossOptions):
    """Contrastive loss of the paper.

    References:
        Jia et al. 2021, sections 4.1 (the sum) and 5 (smoothing of 0.1), and
        table 8 (50% and 25% of the negatives).
    """

    label_smoothing: Fraction = Field(
        default=0.1,
        description=(
            "Fraction of the target probability that is distributed over all captions "
            "or images of the batch."
        ),
    )
    reduction: Literal["sum", "mean"] = Field(
        default="sum",
        description="`sum` or `mean` of the losses of the two directions.",
    )
    negatives_fraction: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description=(
            "Fraction of the in-batch negatives that each pair uses. It must be 1 "
            "divided by a whole number."
        ),
    )
    matmul_dtype: Literal["bfloat16"] | None = Field(
        default=None,
        description="`bfloat16` for matrix products in half precision, or null.",
        json_schema_extra=CHANGEABLE,
    )


class SigmoidLossConfig(_InBatchLossOptions):
    """Sigmoid loss of SigLIP, which classifies each pair as matching or not.

    References:
        Zhai et al. 2023, section 3.2 (initial bias of -10 and temperature of 0.1).
    """

    bias: float | None = Field(
        default=None,
        le=0,
        description=(
            "Constant that is added to the logits, or null for the negative logarithm "
            "of the number of captions in the batch. The paper learns the bias."
        ),
    )


class MatryoshkaConfig(Section):
    """Loss at several widths of the embeddings.

    References:
        Kusupati et al. 2022, section 3.
    """

    widths: Annotated[tuple[PositiveInt, ...], INCREASING] = Field(
        default=(),
        description=(
            "Numbers of first components of the embeddings at which the loss is "
            "computed in addition to all components. An empty list computes the loss "
            "of the complete embeddings only. Recall is measured at each width."
        ),
    )
    weights: tuple[PositiveFloat, ...] = Field(
        default=(),
        description=(
            "Weights of the losses of `widths` relative to the loss of the complete "
            "embeddings. An empty list is a weight of 1 for each width."
        ),
    )


class LossConfig(OneOf):
    """Choice of the loss. Each member has a class in `align_keras.losses`."""

    type: Literal["contrastive", "sigmoid"] = Field(
        default="contrastive", description="Name of the member that is used."
    )
    contrastive: ContrastiveLossConfig = ContrastiveLossConfig()
    sigmoid: SigmoidLossConfig = SigmoidLossConfig()
    matryoshka: MatryoshkaConfig = MatryoshkaConfig()


class TeacherConfig(Section):
    """Item of the list `task.distillation.teacher`."""

    model: str = Field(
        description="Name or folder of the teacher, as in `align_keras.load_model`."
    )
    weight: PositiveFloat = Field(
        default=1.0,
        description=(
            "Weight of its similarities, relative to the weights of the other teachers."
        ),
    )


Teachers = Annotated[
    tuple[TeacherConfig, ...], Field(min_length=1), named_items(TeacherConfig)
]


class DistillationConfig(Section):
    """Distillation of trained models, the teachers.

    The losses are those of `align_keras.losses.DistillationLoss`.

    References:
        Hinton et al. 2015. Wu et al. 2023, section 3.1.
    """

    teacher: Teachers | None = Field(
        default=None,
        description=(
            "Name or folder of the teacher, as in `align_keras.load_model`, a list of "
            "several teachers, or null to train without a teacher. The similarity of "
            "an image and a caption is the weighted mean of those of all teachers."
        ),
    )
    embedding_weight: NonNegativeFloat = Field(
        default=1.0,
        description=(
            "Weight of the squared distance between the embeddings and those of the "
            "teacher. A weight above 0 requires a `projection_dim` that equals the "
            "width of the teacher's embeddings. It must be 0 for several teachers."
        ),
    )
    similarity_weight: NonNegativeFloat = Field(
        default=1.0,
        description=(
            "Weight of the divergence of the similarities in a batch from those of "
            "the teacher."
        ),
    )
    contrastive_weight: NonNegativeFloat = Field(
        default=1.0,
        description=(
            "Weight of the loss in `task.loss`. With 0, the model learns only from "
            "the teacher."
        ),
    )
    temperature: PositiveFloat = Field(
        default=0.05,
        description="Temperature of the similarities of the model and of the teacher.",
    )

    def check_rules(self, report: Report) -> None:
        if self.teacher is None:
            if self != DistillationConfig():
                report.refuse(
                    "teacher",
                    "the name of a model if other options of the section are set",
                    "Write, for example, align_small_en.",
                    "embedding_weight",
                    "similarity_weight",
                    "contrastive_weight",
                    "temperature",
                )
            return
        embedding_weight = report.name("embedding_weight")
        if not (self.embedding_weight or self.similarity_weight):
            rule = f"above 0 if {embedding_weight} is 0"
            report.refuse("similarity_weight", rule, CHANGE_ONE, "embedding_weight")
        if len(self.teacher) > 1 and self.embedding_weight:
            # The embeddings of different teachers aren't in the same space.
            rule = f"0 if {report.name('teacher')} has several models"
            report.refuse("embedding_weight", rule, CHANGE_ONE, "teacher")
