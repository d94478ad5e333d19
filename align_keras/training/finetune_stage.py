"""Stage of a fine-tuning: training of some layers with early stopping."""

import dataclasses
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import keras

from align_keras.config.experiment_config import FinetuneConfig, TrainerConfig
from align_keras.losses import PairLoss
from align_keras.models import ALIGN
from align_keras.optimizers import AdamW, LinearWarmup
from align_keras.training.checkpoints import RunCheckpoints
from align_keras.training.loop import train_model
from align_keras.training.metrics_log import MetricsLog

# Metric of the validation pairs by which a stage chooses its best epoch.
STAGE_METRIC = "mean_recall"
# Decoupled weight decay of AdamW.
_WEIGHT_DECAY = 1e-4
# Fraction of a stage in which the learning rate rises.
_WARMUP_FRACTION = 0.1


@dataclasses.dataclass(frozen=True)
class FinetuneStage:
    """Layers, length and learning rate of a stage.

    Attributes:
        name: name of the folder of the stage.
        mode: `"last_blocks"` or `"full"`, as in `ImageEncoder.set_training`.
        blocks: number of blocks for `"last_blocks"`.
        epochs: largest number of epochs.
        rate: highest learning rate of the projections.

    Example:

    >>> FinetuneStage("2_last_blocks", "last_blocks", 2, 8, 2e-4).description
    'the last 2 blocks of each encoder'
    """

    name: str
    mode: str
    blocks: int
    epochs: int
    rate: float

    @property
    def description(self) -> str:
        """Layers that the stage trains, for messages."""
        if self.mode == "full":
            return "all layers"
        return f"the last {self.blocks} blocks of each encoder"


def train_stage(
    model: ALIGN,
    stage: FinetuneStage,
    settings: FinetuneConfig,
    make_batches: Callable,
    loss: PairLoss,
    directory: pathlib.Path,
    *,
    evaluate: Callable[[], dict[str, float]],
    image_count: int,
    batch_size: int,
    seed: int = 0,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> list[dict]:
    """Trains a stage, or resumes it, and gives the model its best weights.

    The best weights are those of the epoch with the highest `mean_recall` of the
    validation pairs, which may be the weights before the stage.

    Args:
        model: `ALIGN`.
        stage: `FinetuneStage`.
        settings: options of all stages.
        make_batches: as in `train_model`.
        loss: `PairLoss`.
        directory: folder of the stage, for its checkpoints and its metrics.
        evaluate: function that returns the metrics of the validation pairs with
            `mean_recall`.
        image_count: number of training images.
        batch_size: images of a batch.
        seed: seed of dropout.
        callbacks: as in `train_model`.

    Returns:
        list of the lines of `metrics.jsonl` of the stage.
    """
    for encoder in (model.image_encoder, model.text_encoder):
        blocks = min(stage.blocks, len(encoder.blocks))
        encoder.set_training(stage.mode, blocks=blocks)
    steps_per_epoch = max(1, image_count // batch_size)
    steps = stage.epochs * steps_per_epoch
    trainer = TrainerConfig(
        train_steps=steps,
        steps_per_loop=steps_per_epoch,
        checkpoint_interval=steps_per_epoch,
        validation_interval=steps_per_epoch,
        max_to_keep=1,
        best_checkpoint_eval_metric=STAGE_METRIC,
        loss_upper_bound=None,
        seed=seed,
        callbacks=(),
    )
    optimizer = _build_optimizer(model, stage.rate, settings.depth_decay, steps)
    model.compile(optimizer, loss)
    keras.utils.set_random_seed(seed)
    log = MetricsLog(directory / "metrics.jsonl")
    checkpoints = RunCheckpoints(model, directory / "checkpoints", 1)
    if not log.read():
        # The weights before the stage may be the best ones.
        values = evaluate()
        checkpoints.save_if_best(STAGE_METRIC, values[STAGE_METRIC], higher=True)
        log.append(0, values)

    def evaluate_and_stop() -> dict[str, float]:
        values = evaluate()
        # Rounded as in the log, so that a resumed stage counts the same epochs.
        rounded = {STAGE_METRIC: float(f"{values[STAGE_METRIC]:.6g}")}
        lines = [*log.read(), rounded]
        if epochs_since_best(lines) >= settings.patience:
            model.stop_training = True
        return values

    step = checkpoints.restore_latest()
    lines = [line for line in log.read() if line["step"] <= step]
    if step == 0 or epochs_since_best(lines) < settings.patience:
        train_model(
            model,
            make_batches,
            trainer,
            directory,
            batch_size=batch_size,
            evaluate=evaluate_and_stop,
            callbacks=callbacks,
        )
    checkpoints.restore_best()
    return log.read()


def epochs_since_best(lines: list[dict]) -> int:
    """Returns the number of evaluations since the first one with the highest recall.

    Example:

    >>> epochs_since_best([{"mean_recall": 0.2}, {"loss": 1.0}, {"mean_recall": 0.2}])
    1
    """
    values = [line[STAGE_METRIC] for line in lines if STAGE_METRIC in line]
    if not values:
        return 0
    return len(values) - 1 - values.index(max(values))


def _build_optimizer(
    model: ALIGN, rate: float, depth_decay: float, steps: int
) -> AdamW:
    """Returns AdamW with a warm-up, a cosine decay and lower rates in deep layers."""
    warmup_steps = int(_WARMUP_FRACTION * steps)
    cosine = keras.optimizers.schedules.CosineDecay(rate, steps - warmup_steps)
    multipliers: dict[str, float] = {}
    for encoder in (model.image_encoder, model.text_encoder):
        multipliers |= depth_multipliers(encoder, depth_decay)
    return AdamW(
        LinearWarmup(cosine, warmup_steps, rate / (warmup_steps + 1)),
        weight_decay=_WEIGHT_DECAY,
        learning_rate_multipliers=multipliers,
    )


def depth_multipliers(encoder: Any, decay: float) -> dict[str, float]:
    """Returns learning-rate multipliers that decrease from the output to the input.

    The layers after the blocks have the full rate. The last block has the factor
    `decay`, the block before it `decay`², and so on. The layers before the blocks
    follow the first block.

    Args:
        encoder: `ImageEncoder` or `TextEncoder`.
        decay: float in (0, 1].

    Returns:
        dict from regular expression to factor, for `AdamW`.

    Example:

    >>> import align_keras
    >>> model = align_keras.ALIGN.from_preset("align_nano", vocabulary_size=100)
    >>> list(depth_multipliers(model.text_encoder, 0.5).values())
    [0.5, 0.25, 0.125]
    """
    blocks = list(encoder.blocks)
    multipliers: dict[str, float] = {}
    block_ids = set()
    for depth, block in enumerate(reversed(blocks), start=1):
        start, _, _ = block.weights[0].path.partition(f"/{block.name}/")
        multipliers[f"^{re.escape(f'{start}/{block.name}/')}"] = decay**depth
        block_ids |= {id(weight) for weight in block.weights}
    first_block = next(
        row for row, weight in enumerate(encoder.weights) if id(weight) in block_ids
    )
    early = [weight.path for weight in encoder.weights[:first_block]]
    if early:
        pattern = "|".join(re.escape(path) for path in early)
        multipliers[f"^({pattern})$"] = decay ** (len(blocks) + 1)
    return multipliers
