"""Configurations as frozen Pydantic models with YAML files and dotted overrides.

The structure follows TF Model Garden. The options are the fields of the sections,
which also describe and check them. `load.py` sets their values.
"""

from align_keras.config.corpus_config import CorpusConfig
from align_keras.config.experiment_config import ExperimentConfig, TrainerConfig
from align_keras.config.fields import changed_keys
from align_keras.config.load import (
    experiments,
    find_experiment,
    load_config,
    load_corpus_config,
    load_recipe,
    resolve_config,
    validate,
    write_config_file,
)
from align_keras.config.recipe_config import FineTuningConfig

__all__ = [
    "CorpusConfig",
    "ExperimentConfig",
    "FineTuningConfig",
    "TrainerConfig",
    "changed_keys",
    "experiments",
    "find_experiment",
    "load_config",
    "load_corpus_config",
    "load_recipe",
    "resolve_config",
    "validate",
    "write_config_file",
]
