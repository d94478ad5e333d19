"""Frozen dataclasses, strict YAML and dotted overrides.

The layout (task, trainer, runtime), the merge order and the one-of configs are
TF Model Garden's; the type checks are ours.
"""

from align_keras.config.corpus import (
    CorpusConfig,
    DuplicatesConfig,
    FilterConfig,
    PicturesConfig,
    ShardsConfig,
    VocabularyConfig,
)
from align_keras.config.experiment import ExperimentConfig
from align_keras.config.fine_tuning import (
    FineTuningConfig,
    FullStageConfig,
    HeadStageConfig,
    SweepConfig,
)
from align_keras.config.load import (
    experiments,
    find_experiment,
    load_config,
    load_corpus_config,
    load_recipe,
    save_config,
)
from align_keras.config.runtime import RuntimeConfig
from align_keras.config.task import (
    DataConfig,
    EvaluationConfig,
    ImageEncoderConfig,
    LossConfig,
    ModelConfig,
    TaskConfig,
    TextEncoderConfig,
)
from align_keras.config.trainer import (
    AdamWConfig,
    ConstantConfig,
    CosineDecayConfig,
    LambConfig,
    LearningRateConfig,
    LinearDecayConfig,
    LinearWarmupConfig,
    OptimizationConfig,
    OptimizerConfig,
    TrainerConfig,
    WarmupConfig,
)
from align_keras.config.tree import as_dict, changed_keys
from align_keras.config.validate import validate

__all__ = [
    "AdamWConfig",
    "ConstantConfig",
    "CorpusConfig",
    "CosineDecayConfig",
    "DataConfig",
    "DuplicatesConfig",
    "EvaluationConfig",
    "ExperimentConfig",
    "FilterConfig",
    "FineTuningConfig",
    "FullStageConfig",
    "HeadStageConfig",
    "ImageEncoderConfig",
    "LambConfig",
    "LearningRateConfig",
    "LinearDecayConfig",
    "LinearWarmupConfig",
    "LossConfig",
    "ModelConfig",
    "OptimizationConfig",
    "OptimizerConfig",
    "PicturesConfig",
    "RuntimeConfig",
    "ShardsConfig",
    "SweepConfig",
    "TaskConfig",
    "TextEncoderConfig",
    "TrainerConfig",
    "VocabularyConfig",
    "WarmupConfig",
    "as_dict",
    "changed_keys",
    "experiments",
    "find_experiment",
    "load_config",
    "load_corpus_config",
    "load_recipe",
    "save_config",
    "validate",
]
