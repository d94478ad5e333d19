"""Configurations as frozen Pydantic models with YAML files and dotted overrides.

The structure follows TF Model Garden. The options are the fields of the classes in
`experiment_config.py`, `fine_tuning_config.py` and `corpus_config.py`, which also
describe them. `load.py` sets their values, and `rules.py` checks the rules between
options.
"""

from align_keras.config.corpus_config import CorpusConfig
from align_keras.config.experiment_config import ExperimentConfig, TrainerConfig
from align_keras.config.fields import changed_keys
from align_keras.config.fine_tuning_config import FineTuningConfig
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
