"""Configurations as frozen dataclasses with strict YAML files and dotted overrides.

The structure follows TF Model Garden. The options are the fields of the classes in
`experiment_config.py`, `fine_tuning_config.py` and `corpus_config.py`. `load.py` sets
their values, and `rules.py` checks the rules between options.
"""

from align_keras.config.corpus_config import (
    CorpusConfig,
    DuplicatesConfig,
    FilterConfig,
    ImagesConfig,
    ShardsConfig,
    VocabularyConfig,
)
from align_keras.config.experiment_config import (
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
from align_keras.config.fields import as_dict, changed_keys, without_passwords
from align_keras.config.fine_tuning_config import (
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
    validate,
    write_config_file,
)
