"""Loads, merges, checks and saves configurations.

The order of files and overrides is that of TF Model Garden.
"""

import dataclasses
import difflib
import os
import pathlib
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

from align_keras.config.corpus_config import CORPUS_RULES, CorpusConfig
from align_keras.config.experiment_config import ContrastiveLossConfig, ExperimentConfig
from align_keras.config.fields import (
    WrongTypeError,
    as_dict,
    changed_keys,
    coerce,
    describe_value,
    leaves,
    member_of,
    out_of_range,
)
from align_keras.config.fine_tuning_config import FINE_TUNING_RULES, FineTuningConfig
from align_keras.config.rules import EXPERIMENT_RULES, PRESET_KEYS, Report
from align_keras.config.yaml_source import (
    LocatedValue,
    dump_yaml,
    parse_scalar,
    read_overrides,
    read_yaml,
)
from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_write
from align_keras.utils.shared_data import shared_folder

Config = TypeVar("Config", ExperimentConfig, FineTuningConfig, CorpusConfig)
Path = str | os.PathLike
Override = Path | Mapping[str, Any]
Rules = Iterable[Callable[[Any, Report], None]]

# Old keys of the contrastive loss, which the run folders of version 0.1 contain.
_OLD_LOSS_KEYS = {
    f"task.loss.{field.name}": f"task.loss.contrastive.{field.name}"
    for field in dataclasses.fields(ContrastiveLossConfig)
}
_VALIDATION_PAIRS = "task.validation_data.pairs"
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
    return _load(
        ExperimentConfig(), [*files, *config_files], params_override, EXPERIMENT_RULES
    )


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
    if isinstance(params_override, str | os.PathLike | Mapping):
        params_override = [params_override]
    changes = changed_keys(load_config(), config)
    values = {key: value for key, (_, value) in changes.items()}
    if "task.validation_data.corpus" in values or _VALIDATION_PAIRS in values:
        # Without this value, the validation table would reset the split.
        values[_VALIDATION_SPLIT] = config.task.validation_data.tfds_split
    return load_config(params_override=[values, *params_override])


def load_recipe(
    name: str,
    config_files: Sequence[Path] = (),
    params_override: Override | Sequence[Override] = "",
) -> FineTuningConfig:
    """Loads a recipe of `align-keras evaluate`.

    Args:
        name: str, name in experiments/evaluation/, such as `"fine_grained"`.
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
    return _load(FineTuningConfig(), files, params_override, FINE_TUNING_RULES)


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
    return _load(CorpusConfig(), config_files, params_override, CORPUS_RULES)


def _load(
    defaults: Config,
    files: Sequence[Path],
    params_override: Override | Sequence[Override],
    rules: Rules,
) -> Config:
    if isinstance(params_override, str | os.PathLike | Mapping):
        params_override = [params_override]
    layers = [read_yaml(path) for path in files]
    layers += [read_overrides(item) for item in params_override]
    if isinstance(defaults, ExperimentConfig):
        layers = [
            {_OLD_LOSS_KEYS.get(key, key): value for key, value in layer.items()}
            for layer in layers
        ]
    layers = [_with_mappings(layer, defaults) for layer in layers]
    values: dict[str, Any] = {}
    locations: dict[str, str] = {}
    split_is_set = False
    # Each layer is checked separately, so that a wrong value raises an error even if a
    # later layer overrides it.
    for layer in layers:
        locations |= {key: located.location for key, located in layer.items()}
        layer_values = _with_one_source(_check_layer(layer, defaults), values)
        if _sets_only_split(layer_values):
            split_is_set = True
        if layer_values.get(_VALIDATION_PAIRS) is not None and not split_is_set:
            layer_values = {_VALIDATION_SPLIT: None, **layer_values}
        values |= layer_values
    values = _with_caption_sources(_with_validation_split(values))
    config = _replace(defaults, values)
    return validate(config, locations, rules)


def _sets_only_split(layer: Mapping[str, Any]) -> bool:
    """Returns True if a layer sets the validation split but not the validation data."""
    names = ("corpus", "pairs")
    sets_data = any(layer.get(f"task.validation_data.{name}") for name in names)
    return _VALIDATION_SPLIT in layer and not sets_data


def _with_validation_split(values: dict[str, Any]) -> dict[str, Any]:
    """Replaces a validation split of None, the mark of a table without a split.

    If only validation uses the table, all of its rows are evaluated. If training uses
    the same table, the default split divides it.
    """
    if values.get(_VALIDATION_SPLIT, "") is not None:
        return values
    new_values = {key: values[key] for key in values if key != _VALIDATION_SPLIT}
    table = values[_VALIDATION_PAIRS]
    if table is not None and not is_same_table(
        table, values.get("task.train_data.pairs")
    ):
        new_values[_VALIDATION_SPLIT] = "all"
    return new_values


def _with_caption_sources(values: dict[str, Any]) -> dict[str, Any]:
    """Uses the caption sources of training for a validation with the same table."""
    sources = values.get("task.train_data.caption_sources")
    key = "task.validation_data.caption_sources"
    table = values.get(_VALIDATION_PAIRS)
    if sources is None or key in values or table is None:
        return values
    if is_same_table(table, values.get("task.train_data.pairs")):
        return {**values, key: sources}
    return values


def is_same_table(path: str, other: str | None) -> bool:
    """Returns True if two paths refer to the same table or folder."""
    return other is not None and os.path.realpath(path) == os.path.realpath(other)


def _with_one_source(layer: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """Resets the data of earlier layers if a layer sets a corpus, pairs or a source."""
    for section in ("task.train_data", "task.validation_data"):
        corpus, pairs, source = (
            f"{section}.{name}" for name in ("corpus", "pairs", "source")
        )
        repeats = f"{section}.corpus_repeats"
        if repeats in values and not layer.keys().isdisjoint({corpus, pairs, source}):
            layer = {repeats: None, **layer}
        if layer.get(source) is not None:
            layer = {corpus: None, pairs: None, **layer}
        elif layer.get(pairs) is not None:
            layer = {corpus: "pairs", source: None, **layer}
        elif layer.get(corpus, "pairs") != "pairs":
            layer = {source: None, **layer}
            if pairs in values:
                layer = {pairs: None, **layer}
    return layer


def _replace(config: Any, values: dict[str, Any], prefix: str = "") -> Any:
    changes = {}
    for field in dataclasses.fields(config):
        key, value = f"{prefix}{field.name}", getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            changes[field.name] = _replace(value, values, f"{key}.")
        elif key in values:
            changes[field.name] = values[key]
    return dataclasses.replace(config, **changes)


def _check_layer(layer: dict[str, LocatedValue], defaults: Any) -> dict[str, Any]:
    """Returns the values of a file or override by dotted key.

    Raises:
        InputError: if a key is unknown or a value has a wrong type.
    """
    hints = {key: field.type for key, _, field in leaves(defaults)}
    sections = _sections(hints)
    values = {}
    for key, located in layer.items():
        names = key.split(".")
        for level, name in enumerate(names):
            section = ".".join(names[:level])
            if section in hints:
                _coerce(section, LocatedValue({}, located.location), hints[section])
            if name not in sections[section]:
                _refuse_key(section, name, located, sections)
        if key in hints:
            values[key] = _coerce(key, located, hints[key])
        elif located.value != {}:
            raise InputError(
                f"{located.location}: '{key}' must contain keys "
                f"({', '.join(sections[key])}). Received: "
                f"{describe_value(located.value)}. Write one of these keys in this "
                "section."
            )
    return values


def _with_mappings(
    layer: dict[str, LocatedValue], defaults: Any
) -> dict[str, LocatedValue]:
    """Collects the keys below an option of type dict, such as `caption_sources.alt`."""
    mappings = [
        key
        for key, _, field in leaves(defaults)
        if typing.get_origin(member_of(field.type)[0]) is dict
    ]
    new_layer: dict[str, LocatedValue] = {}
    for key, located in layer.items():
        option = next((name for name in mappings if key.startswith(f"{name}.")), None)
        if option is None:
            new_layer[key] = located
            continue
        before = new_layer.get(option)
        items = dict(before.value) if before and isinstance(before.value, dict) else {}
        items[key.removeprefix(f"{option}.")] = located.value
        new_layer[option] = LocatedValue(items, (before or located).location)
    return new_layer


def _sections(keys: Iterable[str]) -> dict[str, list[str]]:
    """Returns the names of the options and subsections of each section."""
    sections: dict[str, list[str]] = {}
    for key in keys:
        names = key.split(".")
        for level, name in enumerate(names):
            children = sections.setdefault(".".join(names[:level]), [])
            if name not in children:
                children.append(name)
    return sections


def _refuse_key(
    section: str, name: str, located: LocatedValue, sections: dict
) -> NoReturn:
    similar_key = _find_similar_key(name, section, sections)
    hint = f"Did you mean '{similar_key}'? " if similar_key else ""
    level = f"'{section}'" if section else "a configuration"
    key = f"{section}.{name}" if section else name
    raise InputError(
        f"{located.location}: unknown key '{key}'. {hint}The keys of {level} are "
        f"{', '.join(sections[section])}."
    )


def _find_similar_key(
    name: str, section: str, sections: dict[str, list[str]]
) -> str | None:
    """Returns the key that is most similar to an unknown name, or None."""
    dotted_keys: dict[str, str] = {}
    for parent, names in sections.items():
        for sibling in names:
            dotted_keys.setdefault(sibling, f"{parent}.{sibling}".lstrip("."))
    # The name may be right but in a wrong section, such as train_steps outside trainer.
    if name in dotted_keys:
        return dotted_keys[name]
    matches = difflib.get_close_matches(name, sections[section], n=1)
    if matches:
        return matches[0]
    matches = difflib.get_close_matches(name, dotted_keys, n=1, cutoff=0.8)
    return dotted_keys[matches[0]] if matches else None


def _coerce(key: str, located: LocatedValue, hint: Any) -> Any:
    try:
        return coerce(hint, located.value)
    except WrongTypeError as error:
        raise InputError(
            f"{located.location}: '{key}' must be {error}. Received: "
            f"{describe_value(located.value)}. {_remedy(located.value, hint)}"
        ) from None


def _unquoted(value: Any) -> Any:
    """Parses a string, or each string of a list, as YAML without quotes."""
    if isinstance(value, list):
        return list(map(_unquoted, value))
    return parse_scalar(value) if isinstance(value, str) else value


def _remedy(value: Any, hint: Any) -> str:
    """Returns the remedy for a common mistake, such as quotes or yes for true."""

    def fits(candidate: Any) -> bool:
        try:
            coerce(hint, candidate)
        except WrongTypeError:
            return False
        return True

    if fits(_unquoted(value)):
        return "Remove the quotes."
    if isinstance(value, float) and value.is_integer() and fits(int(value)):
        return f"Write {int(value)}."
    booleans = {"yes": "true", "on": "true", "no": "false", "off": "false"}
    if isinstance(value, str) and value.lower() in booleans and fits(True):
        return f"Write {booleans[value.lower()]}."
    if isinstance(value, int | float | bool) and fits(str(value)):
        return "Put it in quotes."
    if not isinstance(value, list | dict) and fits([value]):
        return f"Write [{value}]."
    return "Change the value."


def validate(
    config: Config,
    locations: dict[str, str] | None = None,
    rules: Rules = EXPERIMENT_RULES,
) -> Config:
    """Checks the types, the ranges and the rules between options.

    Args:
        config: `ExperimentConfig`, or another configuration with its rules.
        locations: dict from dotted key to the location where the option was set, for
            messages, or None.
        rules: functions that take the configuration and a `Report`.

    Returns:
        `config`.

    Raises:
        InputError: for the first violated rule.

    Example:
    >>> from align_keras.config import ExperimentConfig, RuntimeConfig
    >>> validate(ExperimentConfig(runtime=RuntimeConfig(num_replicas=0)))
    Traceback (most recent call last):
    align_keras.utils.errors.InputError: 'runtime.num_replicas' must be >= 1. Received:
    0. Choose a value in this range.
    """
    report = Report(config, locations or {})
    _check_sections(config, "", report)
    for key, value, field in leaves(config):
        try:
            coerce(field.type, value)
        except WrongTypeError as error:
            report.refuse(key, str(error), "Change the value.")
        if refused := out_of_range(field, value):
            rule, remedy, item = refused
            report.refuse(key, rule, remedy, value=item)
    for check in rules:
        check(config, report)
    return config


def _check_sections(config: Any, prefix: str, report: Report) -> None:
    for field in dataclasses.fields(config):
        section = field.type
        if isinstance(section, type) and dataclasses.is_dataclass(section):
            key, value = f"{prefix}{field.name}", getattr(config, field.name)
            if not isinstance(value, section):
                report.refuse(key, f"a {section.__name__}", "Pass an instance of it.")
            _check_sections(value, f"{key}.", report)


def write_config_file(config: Any, path: Path) -> None:
    """Writes all options of a configuration to a YAML file.

    Options that a `preset` determines are omitted.

    Example:

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "experiment.yaml")
    >>> write_config_file(load_config(params_override="trainer.seed=7"), path)
    >>> load_config(config_files=[path]).trainer.seed
    7
    """
    tree = as_dict(config)
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
    if path.is_file():
        return path
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        raise InputError(f"Experiment file {path} was not found. Check the path.")
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
