"""The whole configuration of a run."""

import dataclasses

from align_keras.config.runtime import RuntimeConfig
from align_keras.config.task import TaskConfig
from align_keras.config.trainer import TrainerConfig


@dataclasses.dataclass(frozen=True)
class ExperimentConfig:
    """Task, trainer and runtime, as TF Model Garden divides them.

    Attributes:
        task: `TaskConfig`, what is learned, from what, and how it is judged.
        trainer: `TrainerConfig`, steps, intervals, optimizer.
        runtime: `RuntimeConfig`, devices and precision.

    Example:

    >>> config = ExperimentConfig()
    >>> config.trainer.optimizer_config.optimizer.get().weight_decay
    1e-05
    """

    task: TaskConfig = TaskConfig()
    trainer: TrainerConfig = TrainerConfig()
    runtime: RuntimeConfig = RuntimeConfig()
