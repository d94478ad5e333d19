"""Recipes of `align-keras evaluate` that train a classifier on the image encoder."""

import dataclasses
from typing import Literal

from align_keras.config.experiment_config import RuntimeConfig
from align_keras.config.fields import count_field, fraction_field, number_field
from align_keras.config.rules import Report, check_num_replicas


@dataclasses.dataclass(frozen=True)
class HeadStageConfig:
    """Stage that trains only the head on frozen features.

    Attributes:
        epochs: Length of the stage in epochs, or None.
        steps: Length of the stage in steps, or None. A stage without epochs and steps
            is skipped.
        learning_rate: Initial learning rate.
        schedule: Learning-rate schedule. `"stepwise"` multiplies the learning rate by
            `decay_factor` every `decay_epochs`, `"cosine"` decreases it to zero, and
            `"constant"` keeps it.
        decay_factor: Factor of the schedule `"stepwise"`.
        decay_epochs: Number of epochs between two steps of the schedule `"stepwise"`.
        train_size: Side of the training images in pixels.
        eval_size: Side of the evaluation images in pixels, if this is the last stage.

    Example:

    >>> HeadStageConfig(epochs=2).length(batch_size=256, num_images=1_000)
    7
    """

    epochs: int | None = count_field(None)
    steps: int | None = count_field(None)
    learning_rate: float = number_field(1e-2, above=0)
    schedule: Literal["stepwise", "cosine", "constant"] = "cosine"
    decay_factor: float = number_field(0.2, above=0)
    decay_epochs: int = count_field(30)
    train_size: int = count_field(289, at_least=32)
    eval_size: int = count_field(360, at_least=32)

    @property
    def is_skipped(self) -> bool:
        return self.epochs is None and self.steps is None

    def length(self, batch_size: int, num_images: int) -> int:
        """Returns the number of steps of the stage.

        A length in epochs is rounded down to a whole number of steps, but not below 1.

        Args:
            batch_size: int, images per step.
            num_images: int, images per epoch.
        """
        if self.steps is not None:
            return self.steps
        return max((self.epochs or 0) * num_images // batch_size, 1)


@dataclasses.dataclass(frozen=True)
class FullStageConfig(HeadStageConfig):
    """Stage that trains all layers.

    Attributes:
        backbone_multiplier: Learning rate of the image encoder divided by the learning
            rate of the head.
        freeze_batch_statistics: True to use the moving batch statistics and not to
            update them.

    Example:

    >>> FullStageConfig(epochs=20).length(batch_size=256, num_images=8_144)
    636
    """

    backbone_multiplier: float = number_field(1.0, above=0)
    freeze_batch_statistics: bool = False


@dataclasses.dataclass(frozen=True)
class SweepConfig:
    """Random search over options of the last stage.

    Attributes:
        trials: Number of trials, or 0 for no sweep.
        learning_rate: Smallest and largest learning rate of a log-uniform
            distribution. An empty list keeps the value of the stage.
        weight_decay: Smallest and largest weight decay of a log-uniform distribution.
            An empty list keeps the value of the recipe.
        steps: Numbers of steps to draw from.
        batch_size: Batch sizes to draw from.
        crop: Crops to draw from.
        flip: Values of `flip` to draw from.

    References:
        Jia et al. 2021, section 5.3: 50 trials for each task of VTAB, with the sweep of
        appendix I of Zhai et al. 2019 (arXiv 1910.04867).

    Example:

    >>> SweepConfig(trials=50, learning_rate=(1e-4, 1e-1)).trials
    50
    """

    trials: int = count_field(0, at_least=0)
    learning_rate: tuple[float, ...] = number_field((), above=0)
    weight_decay: tuple[float, ...] = number_field((), above=0)
    steps: tuple[int, ...] = count_field(())
    batch_size: tuple[int, ...] = count_field(())
    crop: tuple[Literal["inception", "whole"], ...] = ()
    flip: tuple[bool, ...] = ()


@dataclasses.dataclass(frozen=True)
class FineTuningConfig:
    """Recipe to fine-tune an image classifier.

    Attributes:
        runs: Number of runs with different seeds. The metrics are averaged over them.
        seed: Seed of the first run. Each further run increases it by 1.
        batch_size: Number of images per step.
        momentum: Momentum of SGD.
        weight_decay: Weight of an L2 penalty on the kernels.
        crop: Crop of the images. `"inception"` crops a random area with a random
            aspect ratio in training and the center in evaluation. `"whole"` uses the
            whole image in both.
        min_crop_area: Smallest area of a training crop as a fraction of the image.
        flip: True to flip half of the training images horizontally.
        central_crop: Side of the evaluation crop as a fraction of the side of the
            image.
        shuffle_buffer_size: Number of encoded images in the shuffle buffer.
        checkpoint_interval: Number of steps between two checkpoints. A killed training
            continues from the last checkpoint.
        micro_batch_size: Number of images that a replica processes at a time, or None
            for the whole batch. Batch statistics are computed per micro-batch, unless
            they are frozen.
        rematerialize: True to save memory by computing activations again for the
            gradient, or None for the setting of the model.

    References:
        Jia et al. 2021, section 5.3.

    Example:

    >>> FineTuningConfig(head=HeadStageConfig(epochs=5)).last_stage
    'head'
    """

    runs: int = count_field(1)
    seed: int = number_field(0, at_least=0, at_most=2**32 - 1)
    batch_size: int = count_field(256)
    momentum: float = fraction_field(0.9)
    weight_decay: float = number_field(0.0, at_least=0)
    crop: Literal["inception", "whole"] = "inception"
    min_crop_area: float = number_field(0.08, above=0, at_most=1)
    flip: bool = True
    central_crop: float = number_field(0.875, above=0, at_most=1)
    shuffle_buffer_size: int = count_field(10_000)
    checkpoint_interval: int = count_field(1_000)
    head: HeadStageConfig = HeadStageConfig()
    full: FullStageConfig = FullStageConfig()
    sweep: SweepConfig = SweepConfig()
    micro_batch_size: int | None = count_field(None)
    rematerialize: bool | None = None
    runtime: RuntimeConfig = RuntimeConfig()

    @property
    def last_stage(self) -> str:
        """Name of the stage whose model is evaluated."""
        return "head" if self.full.is_skipped else "full"


def _check_stages(config: FineTuningConfig, report: Report) -> None:
    if config.head.is_skipped and config.full.is_skipped:
        remedy = "Set head.steps or full.steps."
        report.refuse("head.steps", "set in at least one stage", remedy)
    for name in ("head", "full"):
        report.refuse_both(f"{name}.epochs", f"{name}.steps")


def _check_sweep(config: FineTuningConfig, report: Report) -> None:
    for key in ("sweep.learning_rate", "sweep.weight_decay"):
        bounds = report.get(key)
        is_range = len(bounds) in (0, 2) and list(bounds) == sorted(bounds)
        if config.sweep.trials and not is_range:
            rule = "a list of the smallest and the largest value, or empty"
            report.refuse(key, rule, "Write, for example, [1e-4, 1e-1].")


def _check_runtime(config: FineTuningConfig, report: Report) -> None:
    if config.runtime.distribution_strategy == "multi_worker_mirrored":
        report.refuse(
            "runtime.distribution_strategy",
            "default, one_device, mirrored or tpu, because an evaluation runs in a "
            "single process",
            "Choose mirrored, or run different trials with the same --results on each "
            "machine.",
        )
    check_num_replicas(config, report)


def _check_batch_parts(config: FineTuningConfig, report: Report) -> None:
    replicas, micro = config.runtime.num_replicas or 1, config.micro_batch_size
    sweep_sizes = config.sweep.batch_size if config.sweep.trials else ()
    sizes = {"batch_size": [config.batch_size], "sweep.batch_size": sweep_sizes}
    remedy = "Change one of them."
    for key, values in sizes.items():
        for size in values:
            if size % replicas:
                rule = f"a multiple of runtime.num_replicas ({replicas})"
                report.refuse(key, rule, remedy, "runtime.num_replicas", value=size)
            elif micro is not None and size // replicas % micro:
                rule = (
                    "a divisor of the batch size per replica "
                    f"({size // replicas}, from {key})"
                )
                report.refuse("micro_batch_size", rule, remedy, key)


FINE_TUNING_RULES = (_check_stages, _check_sweep, _check_runtime, _check_batch_parts)
