"""Recipes that train a classifier on the image encoder, for `evaluate`."""

import dataclasses
from typing import Literal

from align_keras.config.experiment_config import RuntimeConfig
from align_keras.config.fields import count_field, fraction_field, number_field
from align_keras.config.rules import Report, check_num_replicas


@dataclasses.dataclass(frozen=True)
class HeadStageConfig:
    """A stage that trains the head alone, on frozen features.

    Attributes:
        epochs: its length, or None.
        steps: its length, or None. A stage with neither is left out.
        learning_rate: the first one.
        schedule: `"stepwise"`, times `decay_factor` every `decay_epochs`;
            `"cosine"`, to zero at the end; or `"constant"`.
        decay_factor: of `"stepwise"`.
        decay_epochs: of `"stepwise"`.
        train_size: side of the images in pixels.
        eval_size: side in evaluation, if the stage is the last.
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
    def is_left_out(self) -> bool:
        return self.epochs is None and self.steps is None

    def length(self, batch_size: int, num_images: int) -> int:
        """The length in steps; epochs are rounded down, to one at least."""
        if self.steps is not None:
            return self.steps
        return max((self.epochs or 0) * num_images // batch_size, 1)


@dataclasses.dataclass(frozen=True)
class FullStageConfig(HeadStageConfig):
    """A stage that trains all layers.

    Attributes:
        backbone_multiplier: the image encoder's learning rate by the head's.
        freeze_batch_statistics: normalize by the moving statistics, and leave them as
            they are.
    """

    backbone_multiplier: float = number_field(1.0, above=0)
    freeze_batch_statistics: bool = False


@dataclasses.dataclass(frozen=True)
class SweepConfig:
    """Values that a sweep draws for the last stage of each trial.

    Attributes:
        trials: 0 is no sweep.
        learning_rate: the least and the greatest, between which it is drawn
            log-uniformly.
        weight_decay: the same.
        steps: one of which is drawn.
        batch_size: one of which is drawn.
        crop: one of which is drawn.
        flip: one of which is drawn.

    References:
        Jia et al. 2021, section 5.3: 50 trials for each task of VTAB, of the sweep
        in appendix I of Zhai et al. 2019 (arXiv 1910.04867).
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
    """A recipe: stages, optimizer, images, runs, a sweep, memory and devices.

    Attributes:
        runs: repetitions with other seeds, over which metrics are averaged.
        seed: of the first run; the next ones have the next seeds.
        batch_size: images a step.
        momentum: of SGD.
        weight_decay: of an L2 penalty on the kernels.
        crop: `"inception"`, of random area and aspect in training, central in
            evaluation; or `"whole"`, the whole image in both.
        min_crop_area: the least share of the image.
        flip: mirror half of the training images.
        central_crop: share of each side in evaluation.
        shuffle_buffer_size: encoded images to draw from.
        checkpoint_interval: steps after which a training that is killed loses nothing.
        micro_batch_size: images that a replica trains on at a time, or None for all; a
            micro-batch is normalized by itself, unless by frozen statistics.
        rematerialize: compute activations twice rather than keep them; None for the
            model's choice.

    References:
        Jia et al. 2021, section 5.3.
    """

    runs: int = count_field(1)
    seed: int = count_field(0, at_least=0)
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
        """The name of the stage whose model is evaluated."""
        return "head" if self.full.is_left_out else "full"


def _check_stages(config: FineTuningConfig, report: Report) -> None:
    if config.head.is_left_out and config.full.is_left_out:
        remedy = "write head.steps or full.steps"
        report.refuse("head.steps", "given in one stage", remedy)
    for name in ("head", "full"):
        report.apart(f"{name}.epochs", f"{name}.steps")


def _check_sweep(config: FineTuningConfig, report: Report) -> None:
    for key in ("sweep.learning_rate", "sweep.weight_decay"):
        bounds = report.get(key)
        is_range = len(bounds) in (0, 2) and list(bounds) == sorted(bounds)
        if config.sweep.trials and not is_range:
            rule = "a least and a greatest value, or empty"
            report.refuse(key, rule, "write for example [1e-4, 1e-1]")


def _check_runtime(config: FineTuningConfig, report: Report) -> None:
    if config.runtime.distribution_strategy == "multi_worker_mirrored":
        report.refuse(
            "runtime.distribution_strategy",
            "default, one_device, mirrored or tpu, since an evaluation is one process",
            "write mirrored, or run other trials of the same --results on each machine",
        )
    check_num_replicas(config, report)


def _check_batch_parts(config: FineTuningConfig, report: Report) -> None:
    replicas, micro = config.runtime.num_replicas or 1, config.micro_batch_size
    drawn = config.sweep.batch_size if config.sweep.trials else ()
    sizes = {"batch_size": [config.batch_size], "sweep.batch_size": drawn}
    change = "change one of them", "runtime.num_replicas"
    for key, of_key in sizes.items():
        for size in of_key:
            if size % replicas:
                rule = f"a multiple of runtime.num_replicas ({replicas})"
                report.refuse(key, rule, *change, value=size)
            elif micro is not None and size // replicas % micro:
                rule = f"a divisor of a replica's batch ({size // replicas}, by {key})"
                report.refuse("micro_batch_size", rule, "change one of them", key)


FINE_TUNING_RULES = (_check_stages, _check_sweep, _check_runtime, _check_batch_parts)
