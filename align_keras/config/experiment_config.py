"""Options of a run in the sections `task`, `trainer`, `finetune` and `runtime`.

The sections are those of TF Model Garden. The defaults are the recipe of Jia et al.
2021 (sections 4.1 and 5) for EfficientNet-B7 and BERT-base, the largest model of their
ablations.
"""

import os
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from align_keras.config.data_config import DataConfig, ValidationDataConfig
from align_keras.config.loss_config import DistillationConfig, LossConfig
from align_keras.config.model_config import ModelConfig
from align_keras.config.optimizer_config import OptimizationConfig
from align_keras.config.section import (
    CHANGEABLE,
    INCREASING,
    Report,
    Section,
    Seed,
)

# Each tracker has a function in `align_keras.training.trackers`.
TrackerName = Literal["tensorboard", "mlflow", "wandb"]


class EvaluationConfig(Section):
    """Metrics of a run.

    References:
        Jia et al. 2021, table 1.
    """

    ks: Annotated[tuple[PositiveInt, ...], INCREASING] = Field(
        default=(1, 5, 10),
        min_length=1,
        description="Values of k for Recall@k in increasing order.",
    )


class TaskConfig(Section):
    """Section `task`."""

    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    distillation: DistillationConfig = DistillationConfig()
    train_data: DataConfig = DataConfig()
    validation_data: ValidationDataConfig = Field(
        default=ValidationDataConfig(), json_schema_extra=CHANGEABLE
    )
    evaluation: EvaluationConfig = Field(
        default=EvaluationConfig(), json_schema_extra=CHANGEABLE
    )


class TrainerConfig(Section):
    """Section `trainer`. Intervals are numbers of steps, multiples of `steps_per_loop`.

    References:
        Jia et al. 2021, section 5 (1.2M steps).

    Example:
    >>> TrainerConfig(train_steps=5_000).checkpoint_interval
    10000
    """

    train_steps: PositiveInt = Field(
        default=1_200_000,
        description="Number of steps of the run.",
        json_schema_extra=CHANGEABLE,
    )
    steps_per_loop: PositiveInt = Field(
        default=1_000,
        description=(
            "Number of steps between two log lines. The logged loss is the mean over "
            "these steps."
        ),
    )
    checkpoint_interval: PositiveInt = Field(
        default=10_000,
        description="Number of steps between two checkpoints.",
        json_schema_extra=CHANGEABLE,
    )
    validation_interval: PositiveInt = Field(
        default=10_000,
        description="Number of steps between two evaluations.",
        json_schema_extra=CHANGEABLE,
    )
    max_to_keep: PositiveInt = Field(
        default=3,
        description="Number of recent checkpoints to keep.",
        json_schema_extra=CHANGEABLE,
    )
    best_checkpoint_eval_metric: str | None = Field(
        default=None,
        description=(
            "Metric such as `t2i/recall_at_1` whose best checkpoint is also kept, or "
            "null."
        ),
        json_schema_extra=CHANGEABLE,
    )
    best_checkpoint_metric_comp: Literal["higher", "lower"] = Field(
        default="higher",
        description="`higher` or `lower`, the better values of the metric.",
        json_schema_extra=CHANGEABLE,
    )
    best_checkpoint_by_test: bool = Field(
        default=False,
        description=(
            "True to allow the selection of the best checkpoint on a split named "
            "`test`."
        ),
        json_schema_extra=CHANGEABLE,
    )
    loss_upper_bound: PositiveFloat | None = Field(
        default=1_000.0,
        description="Loss above which the run stops, or null.",
        json_schema_extra=CHANGEABLE,
    )
    seed: Seed = Field(
        default=0,
        description="Seed of the initial weights, dropout and the data.",
    )
    callbacks: tuple[TrackerName, ...] = Field(
        default=("tensorboard",),
        description=(
            "Trackers that record the metrics of the run. An empty list turns them off."
        ),
        json_schema_extra=CHANGEABLE,
    )
    optimizer_config: OptimizationConfig = OptimizationConfig()

    def check_rules(self, report: Report) -> None:
        for name in ("train_steps", "checkpoint_interval", "validation_interval"):
            report.multiple(name, "steps_per_loop")
        warmup = self.optimizer_config.warmup.get()
        if warmup and warmup.warmup_steps >= self.train_steps:
            report.refuse(
                "optimizer_config.warmup.linear.warmup_steps",
                f"< {report.name('train_steps')} ({self.train_steps})",
                "Shorten the warm-up, or turn it off with "
                f"{report.name('optimizer_config.warmup.type')}=null.",
                "train_steps",
            )


class RuntimeConfig(Section):
    """Section `runtime`."""

    distribution_strategy: Literal[
        "default", "mirrored", "multi_worker_mirrored", "one_device", "tpu"
    ] = Field(
        default="default",
        description="Distribution strategy of TensorFlow. `default` uses one device.",
        json_schema_extra=CHANGEABLE,
    )
    num_replicas: PositiveInt | None = Field(
        default=None,
        description=(
            "Number of logical CPU devices to create, to test a strategy on one "
            "machine. null uses the existing devices."
        ),
        json_schema_extra=CHANGEABLE,
    )
    mixed_precision_dtype: Literal["float32", "mixed_bfloat16", "mixed_float16"] = (
        Field(default="float32", description="Dtype policy of Keras.")
    )
    tpu: str | None = Field(
        default=None,
        description=(
            "Name of a TPU, its address such as `grpc://10.0.0.2:8470`, or `local`. "
            "null is `local` on a TPU VM, and else the environment variable TPU_NAME."
        ),
        json_schema_extra=CHANGEABLE,
    )

    def check_rules(self, report: Report) -> None:
        for name, strategy in (("num_replicas", "mirrored"), ("tpu", "tpu")):
            option = report.name(name)
            is_set = getattr(self, name) is not None
            if is_set and self.distribution_strategy != strategy:
                rule = f"{strategy} if {option} is set"
                remedy = f"Change it, or write {option}=null."
                report.refuse("distribution_strategy", rule, remedy, name)


# Factor of an interpolation.
Factor = Annotated[float, Field(ge=0, le=1)]


class FinetuneConfig(Section):
    """Section `finetune`, the fine-tuning of a trained model on `task.train_data`.

    The model replaces `task.model`, and the stages replace the steps, the intervals and
    the optimizer of `trainer`.

    References:
        Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features" (projection
        first). Wortsman et al. 2022, "Robust fine-tuning of zero-shot models"
        (interpolation).
    """

    model: str | None = Field(
        default=None,
        description=(
            "Trained model with Keras weights: `align_small_en`, the folder of a run "
            "or a preset, or `hf://user/model`. null trains `task.model`."
        ),
    )
    projection_epochs: NonNegativeInt = Field(
        default=30,
        description=(
            "Epochs of the first stage, which trains the projections on features that "
            "are computed once. 0 skips the stage."
        ),
    )
    projection_rate: PositiveFloat = Field(
        default=1e-3, description="Learning rate of the first stage."
    )
    blocks: PositiveInt = Field(
        default=2, description="Blocks of each encoder that the second stage trains."
    )
    blocks_epochs: NonNegativeInt = Field(
        default=8, description="Epochs of the second stage. 0 skips the stage."
    )
    blocks_rate: PositiveFloat = Field(
        default=2e-4, description="Learning rate of the second stage."
    )
    full_epochs: NonNegativeInt = Field(
        default=4,
        description=(
            "Epochs of the third stage, which trains all layers. 0 skips the stage."
        ),
    )
    full_rate: PositiveFloat = Field(
        default=5e-5, description="Learning rate of the third stage."
    )
    full_min_images: PositiveInt = Field(
        default=2_000,
        description="Number of training images from which the third stage runs.",
    )
    depth_decay: float = Field(
        default=0.7,
        gt=0,
        le=1,
        description="Factor of the learning rate from a block to the block before it.",
    )
    patience: PositiveInt = Field(
        default=2,
        description=(
            "Number of epochs without a better validation recall after which a stage "
            "ends."
        ),
    )
    factors: Annotated[tuple[Factor, ...], INCREASING] = Field(
        default=(0.0, 0.2, 0.4, 0.6, 0.8, 1.0),
        description=(
            "Factors of the interpolation between the weights of the model, 0, and "
            "the fine-tuned weights, 1. The validation pairs choose one of them."
        ),
    )
    old_task: str | None = Field(
        default=None,
        description=(
            "Pairs on which the loss of former abilities is measured: a table, a "
            "folder, or a corpus such as `stamps`. null uses `stamps` if they are "
            "installed."
        ),
    )
    max_forgetting: NonNegativeFloat = Field(
        default=0.015,
        description=(
            "Maximum decrease of recall@10 on the validation part of `old_task`. "
            "Factors with a larger decrease aren't chosen."
        ),
    )


class ExperimentConfig(Section):
    """Configuration of a run with the sections of TF Model Garden.

    Example:
    >>> ExperimentConfig(trainer={"train_steps": 5_000}).trainer.train_steps
    5000
    """

    task: TaskConfig = TaskConfig()
    trainer: TrainerConfig = TrainerConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    runtime: RuntimeConfig = RuntimeConfig()

    def check_rules(self, report: Report) -> None:
        """Checks the rules between options of different sections."""
        _check_metric(self, report)
        _check_batch(self, report)
        _check_held_out(self, report)
        if self.finetune.model is not None:
            _check_finetune(self, report)


_TRAIN, _VALIDATION = "task.train_data", "task.validation_data"
_BATCH_SIZE = f"{_TRAIN}.global_batch_size"
_MICRO_BATCH_SIZE = f"{_TRAIN}.micro_batch_size"


def _check_metric(config: ExperimentConfig, report: Report) -> None:
    """Checks the name of the metric of the best checkpoint."""
    name = config.trainer.best_checkpoint_eval_metric
    ks = config.task.evaluation.ks
    metrics = [f"{direction}/recall_at_{k}" for direction in ("t2i", "i2t") for k in ks]
    if name is not None and name not in metrics:
        key = "trainer.best_checkpoint_eval_metric"
        rule, remedy = f"one of {', '.join(metrics)}", "Choose one, or leave it out."
        report.refuse(key, rule, remedy, "task.evaluation.ks")


def _check_batch(config: ExperimentConfig, report: Report) -> None:
    """Checks the replicas and the parts of a batch."""
    replicas = config.runtime.num_replicas
    report.multiple(_BATCH_SIZE, "runtime.num_replicas")
    rows = config.task.train_data.global_batch_size // (replicas or 1)
    fraction = "task.loss.contrastive.negatives_fraction"
    parts = 1 / config.task.loss.contrastive.negatives_fraction
    if abs(parts - round(parts)) > 1e-6 or rows % round(parts):
        report.refuse(
            fraction,
            f"1 divided by a divisor of the batch size per replica ({rows})",
            "Write, for example, 0.5 or 0.25.",
            _BATCH_SIZE,
        )
    batch = "the batch size per replica"
    report.divisor(_MICRO_BATCH_SIZE, rows, batch, _BATCH_SIZE)


def _check_held_out(config: ExperimentConfig, report: Report) -> None:
    """Checks that no pair is in the training and in the validation data."""
    if not _sources(config.task.train_data) & _sources(config.task.validation_data):
        return
    for section, part, purpose in (
        (_VALIDATION, "test", "training"),
        (_TRAIN, "train", "validation"),
    ):
        if report.get(f"{section}.tfds_split") == "all":
            report.refuse(
                f"{section}.tfds_split",
                f"a part, such as {part}, because {purpose} uses the same pairs",
                f"Choose other pairs, or write train for {_TRAIN}.tfds_split and test "
                f"for {_VALIDATION}.tfds_split.",
                f"{section}.pairs",
                f"{section}.corpus",
            )


def _sources(data: DataConfig) -> set[str]:
    """Returns the paths of a data section. A corpus name is treated as a path."""
    names = [data.pairs] if data.pairs is not None else (data.corpus or "").split("+")
    names += [source.path for source in data.source or ()]
    return {os.path.realpath(name) for name in names if name}


def _check_finetune(config: ExperimentConfig, report: Report) -> None:
    """Checks the sections that a fine-tuning uses."""
    if config.runtime.distribution_strategy not in ("default", "one_device"):
        rule = "default or one_device, because fine-tuning uses one device"
        report.refuse("runtime.distribution_strategy", rule, "Change it.")
    report.refuse_both(_MICRO_BATCH_SIZE, "finetune.model")
    if not {0.0, 1.0} <= set(config.finetune.factors):
        remedy = "Add 0 for the weights of the model, and 1 for the fine-tuned ones."
        report.refuse("finetune.factors", "a list with 0 and 1", remedy)
    train, validation = config.task.train_data, config.task.validation_data
    if train.pairs is None or validation.pairs != train.pairs:
        rule = "the same for training and validation"
        remedy = "Set both to your pairs."
        report.refuse(f"{_TRAIN}.pairs", rule, remedy, f"{_VALIDATION}.pairs")
    if train.split_by == "image" or validation.split_by != train.split_by:
        rule = "image_and_caption or image_with_validation for fine-tuning"
        remedy = "Set it in both sections."
        report.refuse(f"{_TRAIN}.split_by", rule, remedy, f"{_VALIDATION}.split_by")
    if train.tfds_split != "train":
        rule = "train for fine-tuning, which holds out pairs for validation and test"
        report.refuse(f"{_TRAIN}.tfds_split", rule, "Leave it out.")
