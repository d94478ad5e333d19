"""Frozen dataclasses, strict YAML and dotted overrides, as TF Model Garden's.

From an option to its value: the classes in `experiment.py`, `load.py`, and the rules
between options in `rules.py`.
"""

from align_keras.config.corpus import (
    CorpusConfig,
    DuplicatesConfig,
    FilterConfig,
    ImagesConfig,
    ShardsConfig,
    VocabularyConfig,
)
from align_keras.config.experiment import (
    AdamWConfig,
    ConstantConfig,
    ContrastiveLossConfig,
    CosineDecayConfig,
    DataConfig,
    EvaluationConfig,
    ExperimentConfig,
    ImageEncoderConfig,
    LambConfig,
    LearningRateConfig,
    LinearDecayConfig,
    LinearWarmupConfig,
    LossConfig,
    ModelConfig,
    OptimizationConfig,
    OptimizerConfig,
    RuntimeConfig,
    SigmoidLossConfig,
    TaskConfig,
    TextEncoderConfig,
    TrainerConfig,
    WarmupConfig,
)
from align_keras.config.fields import as_dict, changed_keys
from align_keras.config.fine_tuning import (
    FineTuningConfig,
    FullStageConfig,
    HeadStageConfig,
    SweepConfig,
)
from align_keras.config.load import (
    experiments,
    find_experiment,
    is_same_table,
    load_config,
    load_corpus_config,
    load_recipe,
    resolve_config,
    save_config,
    validate,
)
