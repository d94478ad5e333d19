"""Recipes of `align-keras evaluate` that train a classifier on the image encoder."""

from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from align_keras.config.experiment_config import RuntimeConfig
from align_keras.config.section import Fraction, Report, Section, Seed


class HeadStageConfig(Section):
    """Stage that trains only the head on frozen features."""

    epochs: PositiveInt | None = Field(
        default=None, description="Length of the stage in epochs, or null."
    )
    steps: PositiveInt | None = Field(
        default=None,
        description=(
            "Length of the stage in steps, or null. A stage without epochs and steps "
            "is skipped."
        ),
    )
    learning_rate: PositiveFloat = Field(
        default=1e-2, description="Initial learning rate."
    )
    schedule: Literal["stepwise", "cosine", "constant"] = Field(
        default="cosine",
        description=(
            "Learning-rate schedule. `stepwise` multiplies the learning rate by "
            "`decay_factor` every `decay_epochs`, `cosine` decreases it to zero, and "
            "`constant` keeps it."
        ),
    )
    decay_factor: PositiveFloat = Field(
        default=0.2, description="Factor of the schedule `stepwise`."
    )
    decay_epochs: PositiveInt = Field(
        default=30,
        description="Number of epochs between two steps of the schedule `stepwise`.",
    )
    train_size: int = Field(
        default=289, ge=32, description="Side of the training images in pixels."
    )
    eval_size: int = Field(
        default=360,
        ge=32,
        description=(
            "Side of the evaluation images in pixels, if this is the last stage."
        ),
    )

    def check_rules(self, report: Report) -> None:
        report.refuse_both("epochs", "steps")

    @property
    def is_skipped(self) -> bool:
        return self.epochs is None and self.steps is None

    def length(self, batch_size: int, num_images: int) -> int:
        """Returns the number of steps of the stage.

        A length in epochs is rounded down to a whole number of steps, but not below 1.

        Args:
            batch_size: images per step.
            num_images: images per epoch.
        """
        if self.steps is not None:
            return self.steps
        return max((self.epochs or 0) * num_images // batch_size, 1)


class FullStageConfig(HeadStageConfig):
    """Stage that trains all layers."""

    backbone_multiplier: PositiveFloat = Field(
        default=1.0,
        description=(
            "Learning rate of the image encoder divided by the learning rate of the "
            "head."
        ),
    )
    freeze_batch_statistics: bool = Field(
        default=False,
        description="True to use the moving batch statistics and not to update them.",
    )


class SweepConfig(Section):
    """Random search over options of the last stage.

    References:
        Jia et al. 2021, section 5.3: 50 trials for each task of VTAB, with the sweep of
        appendix I of Zhai et al. 2019 (arXiv 1910.04867).
    """

    trials: NonNegativeInt = Field(
        default=0, description="Number of trials, or 0 for no sweep."
    )
    learning_rate: tuple[PositiveFloat, ...] = Field(
        default=(),
        description=(
            "Smallest and largest learning rate of a log-uniform distribution. An "
            "empty list keeps the value of the stage."
        ),
    )
    weight_decay: tuple[PositiveFloat, ...] = Field(
        default=(),
        description=(
            "Smallest and largest weight decay of a log-uniform distribution. An "
            "empty list keeps the value of the recipe."
        ),
    )
    steps: tuple[PositiveInt, ...] = Field(
        default=(), description="Numbers of steps to draw from."
    )
    batch_size: tuple[PositiveInt, ...] = Field(
        default=(), description="Batch sizes to draw from."
    )
    crop: tuple[Literal["inception", "whole"], ...] = Field(
        default=(), description="Crops to draw from."
    )
    flip: tuple[bool, ...] = Field(
        default=(), description="Values of `flip` to draw from."
    )


class FineTuningConfig(Section):
    """Recipe to fine-tune an image classifier.

    References:
        Jia et al. 2021, section 5.3.

    Example:
    >>> FineTuningConfig(full={"epochs": 20}).last_stage
    'full'
    """

    runs: PositiveInt = Field(
        default=1,
        description=(
            "Number of runs with different seeds. The metrics are averaged over them."
        ),
    )
    seed: Seed = Field(
        default=0,
        description="Seed of the first run. Each further run increases it by 1.",
    )
    batch_size: PositiveInt = Field(
        default=256, description="Number of images per step."
    )
    momentum: Fraction = Field(default=0.9, description="Momentum of SGD.")
    weight_decay: NonNegativeFloat = Field(
        default=0.0, description="Weight of an L2 penalty on the kernels."
    )
    crop: Literal["inception", "whole"] = Field(
        default="inception",
        description=(
            "Crop of the images. `inception` crops a random area with a random aspect "
            "ratio in training and the center in evaluation. `whole` uses the whole "
            "image in both."
        ),
    )
    min_crop_area: float = Field(
        default=0.08,
        gt=0,
        le=1,
        description="Smallest area of a training crop as a fraction of the image.",
    )
    flip: bool = Field(
        default=True,
        description="True to flip half of the training images horizontally.",
    )
    central_crop: float = Field(
        default=0.875,
        gt=0,
        le=1,
        description=(
            "Side of the evaluation crop as a fraction of the side of the image."
        ),
    )
    shuffle_buffer_size: PositiveInt = Field(
        default=10_000, description="Number of encoded images in the shuffle buffer."
    )
    checkpoint_interval: PositiveInt = Field(
        default=1_000,
        description=(
            "Number of steps between two checkpoints. A killed training continues "
            "from the last checkpoint."
        ),
    )
    head: HeadStageConfig = HeadStageConfig()
    full: FullStageConfig = FullStageConfig()
    sweep: SweepConfig = SweepConfig()
    micro_batch_size: PositiveInt | None = Field(
        default=None,
        description=(
            "Number of images that a replica processes at a time, or null for the "
            "whole batch. Batch statistics are computed per micro-batch, unless they "
            "are frozen."
        ),
    )
    rematerialize: bool | None = Field(
        default=None,
        description=(
            "True to save memory by computing activations again for the gradient, or "
            "null for the setting of the model."
        ),
    )
    runtime: RuntimeConfig = RuntimeConfig()

    @property
    def last_stage(self) -> str:
        """Name of the stage whose model is evaluated."""
        return "head" if self.full.is_skipped else "full"

    def check_rules(self, report: Report) -> None:
        if self.runtime.distribution_strategy == "multi_worker_mirrored":
            report.refuse(
                "runtime.distribution_strategy",
                "default, one_device, mirrored or tpu, because an evaluation runs in a "
                "single process",
                "Choose mirrored, or run different trials with the same --results on "
                "each machine.",
            )
        report.multiple("batch_size", "runtime.num_replicas")
        rows = self.batch_size // (self.runtime.num_replicas or 1)
        report.divisor(
            "micro_batch_size", rows, "the batch size per replica", "batch_size"
        )
