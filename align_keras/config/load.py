"""Loads, merges, checks and saves configurations.

The order of files and overrides is that of TF Model Garden.
"""

import difflib
import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import pydantic

from align_keras.config.corpus_config import CorpusConfig
from align_keras.config.data_config import DataConfig, ValidationDataConfig
from align_keras.config.experiment_config import ExperimentConfig
from align_keras.config.fields import changed_keys, subsection_of
from align_keras.config.model_config import PRESET_KEYS
from align_keras.config.recipe_config import FineTuningConfig
from align_keras.config.section import Section, check_rules, describe_value
from align_keras.config.yaml_source import dump_yaml, read_overrides, read_yaml
from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_write
from align_keras.utils.shared_data import shared_folder

Config = TypeVar("Config", ExperimentConfig, FineTuningConfig, CorpusConfig)
Path = str | os.PathLike
Override = Path | Mapping[str, Any]
Values = dict[str, Any]

# Rules in the words of YAML, by the type of the error of Pydantic.
_YAML_RULES = {
    "model_type": "must contain keys and values",
    "too_short": "must not be empty",
    "tuple_type": "must be a list such as [a, b]",
    "dict_type": "must be names with values such as {name: value}",
    "missing": "must be set",
    "string_type": "must be a string, in quotes if it looks like a number",
    "string_too_short": "must be a non-empty string",
}
_VALIDATION_SPLIT = "task.validation_data.tfds_split"
_HEADER = "# The effective configuration: every option with its value.\n"


def load_config(
    experiment: Path | None = None,
    config_files: Sequence[Path] = (),
    params_override: Override | Sequence[Override] = "",
) -> ExperimentConfig:
    """Loads the configuration of an experiment.

    The defaults are those of the paper. The experiment, the files and the overrides
    replace them in this order.

    Args:
        experiment: name in experiments/ or path of a YAML file, or None.
        config_files: paths of YAML files.
        params_override: str such as `"trainer.seed=1,task.evaluation.ks=[1, 5]"` with
            YAML values, path of another .yaml file, dict from dotted key to plain
            value, or a sequence of these.

    Returns:
        `ExperimentConfig`.

    Raises:
        InputError: if a key is unknown, a value has a wrong type or is out of range, or
            a file is unreadable. The message contains the file and the line.

    Example:
    >>> config = load_config(params_override="task.train_data.random_zoom=1e-3")
    >>> config.task.train_data.random_zoom
    0.001
    """
    files = [] if experiment is None else [find_experiment(experiment)]
    return _load(ExperimentConfig, [*files, *config_files], params_override)


def resolve_config(
    config: ExperimentConfig | Path, params_override: Override | Sequence[Override] = ()
) -> ExperimentConfig:
    """Applies overrides to a configuration and checks it.

    Args:
        config: `ExperimentConfig`, name in experiments/ or path of a YAML file.
        params_override: as in `load_config`.

    Raises:
        InputError: as `load_config`.

    Example:
    >>> config = resolve_config(load_config(), "trainer.seed=7")
    >>> config.trainer.seed
    7
    """
    if not isinstance(config, ExperimentConfig):
        return load_config(config, params_override=params_override)
    if not params_override:
        return validate(config)
    changes = changed_keys(ExperimentConfig(), config)
    values = {key: value for key, (_, value) in changes.items()}
    # Without this value, a validation table would reset the split.
    values[_VALIDATION_SPLIT] = config.task.validation_data.tfds_split
    return load_config(params_override=[values, *_listed(params_override)])


def load_recipe(
    name: str,
    config_files: Sequence[Path] = (),
    params_override: Override | Sequence[Override] = "",
) -> FineTuningConfig:
    """Loads a recipe of `align-keras evaluate`.

    Args:
        name: name in experiments/evaluation/, such as `"fine_grained"`.
        config_files: paths of YAML files.
        params_override: as in `load_config`.

    Raises:
        InputError: if the recipe doesn't exist, or as in `load_config`.

    Example:
    >>> load_recipe("imagenet_frozen").head.learning_rate
    0.1
    """
    path = experiments("evaluation").get(name)
    if path is None:
        raise InputError(
            f"Recipe {name}.yaml was not found in experiments/evaluation. Install the "
            "package again, or use a clone of the repository."
        )
    files = [path, *config_files]
    return _load(FineTuningConfig, files, params_override)


def load_corpus_config(
    config_files: Sequence[Path] = (),
    params_override: Override | Sequence[Override] = "",
) -> CorpusConfig:
    """Loads the configuration of a corpus.

    The arguments and errors are those of `load_config`.

    Example:
    >>> load_corpus_config(params_override="filter.max_unigrams=30").filter.max_unigrams
    30
    """
    return _load(CorpusConfig, config_files, params_override)


def _load(
    cls: type[Config],
    files: Sequence[Path],
    params_override: Override | Sequence[Override],
) -> Config:
    layers = [read_yaml(path) for path in files]
    layers += [read_overrides(item) for item in _listed(params_override)]
    values: Values = {}
    locations: dict[str, str] = {}
    for layer in layers:
        values = _merge(values, layer.values, cls)
        locations |= layer.locations
    if cls is ExperimentConfig:
        _complete_validation_data(values)
    return _checked(cls, values, locations)


def _listed(overrides: Override | Sequence[Override]) -> Sequence[Override]:
    if isinstance(overrides, str | os.PathLike | Mapping):
        return [overrides]
    return overrides


def _merge(old: Values, new: Values, section: type[Section]) -> Values:
    """Replaces the options of a section by those of a later file or override."""
    if issubclass(section, DataConfig):
        new = _without_old_data(old, new, section)
    merged = dict(old)
    for name, value in new.items():
        subsection = subsection_of(section, name)
        if subsection and isinstance(value, dict):
            old_value = old.get(name)
            old_values = old_value if isinstance(old_value, dict) else {}
            value = _merge(old_values, value, subsection)
        merged[name] = value
    return merged


def _without_old_data(old: Values, new: Values, section: type[Section]) -> Values:
    """Resets the data of earlier layers if a layer sets a corpus, pairs or a source."""
    names = ("corpus", "pairs", "source")
    new_names = [name for name in names if new.get(name) is not None]
    if not new_names or (new_names == ["corpus"] and new["corpus"] == "pairs"):
        return new
    reset: Values = dict.fromkeys((*names, "corpus_repeats"))
    if "pairs" in new_names:
        reset["corpus"] = "pairs"
    has_old_data = any(old.get(name) for name in names)
    if section is ValidationDataConfig and has_old_data:
        reset["tfds_split"] = None
    return reset | new


def _complete_validation_data(values: Values) -> None:
    """Sets the split and the caption sources of a table that validation uses.

    If only validation uses a table, all of its rows are evaluated. If training uses the
    same table, the default split divides it, and both have the same caption sources.
    """
    train = _section_values(values, "task", "train_data")
    validation = _section_values(values, "task", "validation_data")
    table = validation.get("pairs")
    is_shared = is_same_table(table, train.get("pairs"))
    if validation.get("tfds_split") is None:
        validation.pop("tfds_split", None)
        if table is not None and not is_shared:
            validation["tfds_split"] = "all"
    if is_shared and "caption_sources" in train:
        validation.setdefault("caption_sources", train["caption_sources"])


def _section_values(values: Values, *names: str) -> Values:
    for name in names:
        section = values.get(name)
        values = section if isinstance(section, dict) else {}
    return values


def is_same_table(path: Any, other: Any) -> bool:
    """Returns True if two paths refer to the same table or folder."""
    if not isinstance(path, str) or not isinstance(other, str):
        return False
    return os.path.realpath(path) == os.path.realpath(other)


def _describe(error: Any, cls: type[Section], locations: dict[str, str]) -> str:
    """Describes an error of Pydantic in one line with the location of the option."""
    names = [str(name) for name in error["loc"]]
    key = ".".join(names)
    prefixes = (".".join(names[:length]) for length in range(len(names), 0, -1))
    location = next((locations[name] for name in prefixes if name in locations), "")
    start = f"{location}: " if location else ""
    if error["type"] == "extra_forbidden":
        return f"{start}unknown key '{key}'. {_known_keys(names[-1], names[:-1], cls)}"
    rule = _YAML_RULES.get(error["type"], error["msg"])
    rule = rule.replace("Input should ", "must ", 1)
    return f"{start}'{key}' {rule}. Received: {describe_value(error['input'])}."


def _known_keys(name: str, parents: list[str], cls: type[Section]) -> str:
    """Returns the key that is most similar to an unknown one, and all of its section.

    The name may be right but in a wrong section, such as train_steps outside trainer.
    """
    section: type[Section] | None = cls
    for parent in parents:
        section = section and subsection_of(section, parent)
    if section is None:
        return "Remove it."
    dotted_keys = {key.rpartition(".")[2]: key for key in _all_keys(cls)}
    similar = dotted_keys.get(name)
    if similar is None:
        matches = difflib.get_close_matches(name, section.model_fields, n=1)
        similar = matches[0] if matches else None
    hint = f"Did you mean '{similar}'? " if similar else ""
    level = f"'{'.'.join(parents)}'" if parents else "a configuration"
    return f"{hint}The keys of {level} are {', '.join(section.model_fields)}."


def _all_keys(section: type[Section], prefix: str = "") -> Iterator[str]:
    for name in section.model_fields:
        yield f"{prefix}{name}"
        subsection = subsection_of(section, name)
        if subsection:
            yield from _all_keys(subsection, f"{prefix}{name}.")


def validate(config: Config) -> Config:
    """Checks the types, the ranges and the rules between options.

    Returns:
        `config`.

    Raises:
        InputError: for the first wrong option.

    Example:
    >>> from align_keras.config import ExperimentConfig
    >>> validate(ExperimentConfig(runtime={"num_replicas": 2}))
    Traceback (most recent call last):
    align_keras.utils.errors.InputError: 'runtime.distribution_strategy' must be
    mirrored if runtime.num_replicas is set. Received: 'default'. Change it, or write
    runtime.num_replicas=null.
    """
    _checked(type(config), config.model_dump(warnings=False), {})
    return config


def _checked(cls: type[Config], values: Values, locations: dict[str, str]) -> Config:
    """Returns a configuration whose types, ranges and rules are checked."""
    # In strict JSON, 1 and [1] fit float and tuple, but true and "1" don't fit int.
    text = json.dumps(values, default=str)
    try:
        config = cls.model_validate_json(text, strict=True)
    except pydantic.ValidationError as error:
        message = _describe(error.errors()[0], cls, locations)
        raise InputError(message) from None
    check_rules(config, locations)
    return config


def write_config_file(config: Section, path: Path) -> None:
    """Writes all options of a configuration to a YAML file.

    Options that a `preset` determines are omitted.

    Example:

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "experiment.yaml")
    >>> write_config_file(load_config(params_override="trainer.seed=7"), path)
    >>> load_config(config_files=[path]).trainer.seed
    7
    """
    tree = config.model_dump(mode="json")
    model = tree.get("task", {}).get("model", {})
    if model.get("preset") is not None:
        for key in PRESET_KEYS:
            *section, name = key.split(".")
            del (model[section[0]] if section else model)[name]
    with atomic_write(path) as file:
        file.write(_HEADER + dump_yaml(tree))


def find_experiment(name: Path) -> pathlib.Path:
    """Returns the file of an experiment.

    Args:
        name: name in experiments/ or path of a YAML file.

    Raises:
        InputError: if it doesn't exist. The message lists all names.

    Example:
    >>> find_experiment("align_b7_base").name
    'align_b7_base.yaml'
    """
    path = pathlib.Path(name)
    is_path = path.suffix in (".yaml", ".yml") or len(path.parts) > 1
    if is_path or path.is_file():
        return path
    files = experiments()
    if path.name not in files:
        matches = difflib.get_close_matches(path.name, files, n=1)
        hint = f"Did you mean '{matches[0]}'? " if matches else ""
        if files:
            hint += f"The experiments are {', '.join(files)}. You can also pass a file."
        else:
            hint += "No experiments folder is installed. Pass a file instead."
        raise InputError(f"Experiment '{name}' was not found. {hint}")
    return files[path.name]


def experiments(subfolder: str = ".") -> dict[str, pathlib.Path]:
    """Returns the YAML files of experiments/ or a subfolder of it by name.

    The folder is that of the clone or of the installed package.

    Example:
    >>> "quickstart_icons" in experiments()
    True
    """
    folder = shared_folder("experiments")
    if folder is None:
        return {}
    return {path.stem: path for path in sorted((folder / subfolder).glob("*.yaml"))}
