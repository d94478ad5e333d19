"""Finds, merges, checks and saves configurations; the order is Model Garden's."""

import dataclasses
import difflib
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

from align_keras.config.corpus import CORPUS_RULES, CorpusConfig
from align_keras.config.experiment import ContrastiveLossConfig, ExperimentConfig
from align_keras.config.fields import (
    WrongTypeError,
    as_dict,
    changed_keys,
    coerce,
    describe,
    leaves,
    out_of_range,
)
from align_keras.config.fine_tuning import FINE_TUNING_RULES, FineTuningConfig
from align_keras.config.rules import RULES, SETTLED_BY_PRESET, Report
from align_keras.config.yaml_source import (
    Given,
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

# Where options were, a pattern of their keys, and what stands in its place now.
_RENAMED: dict[type, tuple[str, str]] = {
    CorpusConfig: (r"^pictures\b", "images"),
    ExperimentConfig: (
        rf"^task\.loss\.(?={'|'.join(vars(ContrastiveLossConfig()))})",
        "task.loss.contrastive.",
    ),
}
_VALIDATION_PAIRS = "task.validation_data.pairs"
_VALIDATION_SPLIT = "task.validation_data.tfds_split"
_HEADER = "# The effective configuration: every option with its value.\n"


def load_config(
    experiment: Path | None = None,
    config_files: Sequence[Path] = (),
    params_override: Override | Sequence[Override] = "",
) -> ExperimentConfig:
    """Loads a configuration.

    The defaults are the paper's; an experiment is laid over them, then the
    files in their order, then the overrides.

    Args:
        experiment: a name in experiments/ or a file, or None.
        config_files: YAML files.
        params_override: str such as `"trainer.seed=1,task.evaluation.ks=[1, 5]"`, whose
            values are YAML; path of a further .yaml file; dict from dotted key to plain
            value; or a sequence of these.

    Raises:
        InputError: for an unknown key, a wrong type, a value out of range or
            an unreadable file; the message names the place.

    Example:
    >>> config = load_config(params_override="task.train_data.random_zoom=1e-3")
    >>> config.task.train_data.random_zoom
    0.001
    """
    files = [] if experiment is None else [find_experiment(experiment)]
    return _load(ExperimentConfig(), [*files, *config_files], params_override, RULES)


def resolve_config(
    config: ExperimentConfig | Path, params_override: Override | Sequence[Override] = ()
) -> ExperimentConfig:
    """Returns a configuration with overrides.

    Args:
        config: `ExperimentConfig`, a name in experiments/ or a YAML file.
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
        # A table without a split would replace the default split.
        values[_VALIDATION_SPLIT] = config.task.validation_data.tfds_split
    return load_config(params_override=[values, *params_override])


def load_recipe(
    name: str,
    config_files: Sequence[Path] = (),
    params_override: Override | Sequence[Override] = "",
) -> FineTuningConfig:
    """Loads a recipe of experiments/evaluation/, such as `"fine_grained"`; the other
    arguments and errors are those of `load_config`.

    Example:
    >>> load_recipe("imagenet_frozen").head.learning_rate
    0.1
    """
    path = experiments("evaluation").get(name)
    if path is None:
        raise InputError(
            f"no recipe {name}.yaml in experiments/evaluation; install the package "
            "again, or run in a clone."
        )
    files = [path, *config_files]
    return _load(FineTuningConfig(), files, params_override, FINE_TUNING_RULES)


def load_corpus_config(
    config_files: Sequence[Path] = (),
    params_override: Override | Sequence[Override] = "",
) -> CorpusConfig:
    """Loads how a corpus is built; arguments and errors are those of `load_config`.

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
    pattern, new = _RENAMED.get(type(defaults), ("^$", ""))
    layers = [
        {re.sub(pattern, new, key): given for key, given in layer.items()}
        for layer in layers
    ]
    values: dict[str, Any] = {}
    places: dict[str, str] = {}
    split_is_separate = False
    # Each layer is checked by itself: an error that a later one covers is still one.
    for layer in layers:
        places |= {key: given.where for key, given in layer.items()}
        layer_values = _with_one_source(_checked(layer, defaults), values)
        if _names_split_alone(layer_values):
            split_is_separate = True
        if layer_values.get(_VALIDATION_PAIRS) is not None and not split_is_separate:
            layer_values = {_VALIDATION_SPLIT: None, **layer_values}
        values |= layer_values
    return validate(_replace(defaults, _with_validation_split(values)), places, rules)


def _names_split_alone(layer: Mapping[str, Any]) -> bool:
    """Returns True if a layer gives the validation split without naming the data."""
    names = ("corpus", "pairs")
    names_data = any(layer.get(f"task.validation_data.{name}") for name in names)
    return _VALIDATION_SPLIT in layer and not names_data


def _with_validation_split(values: dict[str, Any]) -> dict[str, Any]:
    """Replaces a validation split of None, which belongs to a table without a split.

    A table that only validation reads is measured whole. Where training reads the same
    table, the default split divides it.
    """
    if values.get(_VALIDATION_SPLIT, "") is not None:
        return values
    settled = {key: value for key, value in values.items() if key != _VALIDATION_SPLIT}
    table = values[_VALIDATION_PAIRS]
    if table is not None and not is_same_table(
        table, values.get("task.train_data.pairs")
    ):
        settled[_VALIDATION_SPLIT] = "all"
    return settled


def is_same_table(path: str, other: str | None) -> bool:
    """Returns True if two paths or addresses name one table or folder."""
    return other is not None and os.path.realpath(path) == os.path.realpath(other)


def _with_one_source(layer: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """Lets a corpus, pairs or a source replace what an earlier layer named."""
    for section in ("task.train_data", "task.validation_data"):
        corpus, pairs, source = (
            f"{section}.{name}" for name in ("corpus", "pairs", "source")
        )
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


def _checked(layer: dict[str, Given], defaults: Any) -> dict[str, Any]:
    """A layer's values by dotted key; refuses unknown keys and wrong types."""
    hints = {key: field.type for key, _, field in leaves(defaults)}
    sections = _sections(hints)
    values = {}
    for key, given in layer.items():
        names = key.split(".")
        for level, name in enumerate(names):
            section = ".".join(names[:level])
            if section in hints:
                _typed(section, Given({}, given.where), hints[section])
            if name not in sections[section]:
                _refuse_key(section, name, given, sections)
        if key in hints:
            values[key] = _typed(key, given, hints[key])
        elif given.value != {}:
            raise InputError(
                f"{given.where}: '{key}' must hold keys ({', '.join(sections[key])}), "
                f"received {describe(given.value)}; write the key below it."
            )
    return values


def _sections(keys: Iterable[str]) -> dict[str, list[str]]:
    """The names that stand below each dotted key of a section."""
    sections: dict[str, list[str]] = {}
    for key in keys:
        names = key.split(".")
        for level, name in enumerate(names):
            below = sections.setdefault(".".join(names[:level]), [])
            if name not in below:
                below.append(name)
    return sections


def _refuse_key(section: str, name: str, given: Given, sections: dict) -> NoReturn:
    near = _nearest(name, section, sections)
    hint = f"did you mean '{near}'? " if near else ""
    level = f"'{section}'" if section else "a configuration"
    key = f"{section}.{name}" if section else name
    raise InputError(
        f"{given.where}: unknown key '{key}'; {hint}The keys of {level} are "
        f"{', '.join(sections[section])}."
    )


def _nearest(name: str, section: str, sections: dict[str, list[str]]) -> str | None:
    """The known dotted key or sibling that an unknown name may mean."""
    dotted: dict[str, str] = {}
    for parent, names in sections.items():
        for known in names:
            dotted.setdefault(known, f"{parent}.{known}".lstrip("."))
    # The right name at the wrong level, such as train_steps beside trainer.
    if name in dotted:
        return dotted[name]
    near = difflib.get_close_matches(name, sections[section], n=1)
    if near:
        return near[0]
    near = difflib.get_close_matches(name, dotted, n=1, cutoff=0.8)
    return dotted[near[0]] if near else None


def _typed(key: str, given: Given, hint: Any) -> Any:
    try:
        return coerce(hint, given.value)
    except WrongTypeError as error:
        raise InputError(
            f"{given.where}: '{key}' must be {error}, received "
            f"{describe(given.value)}; {_remedy(given.value, hint)}."
        ) from None


def _unquoted(value: Any) -> Any:
    if isinstance(value, list):
        return list(map(_unquoted, value))
    return parse_scalar(value) if isinstance(value, str) else value


def _remedy(value: Any, hint: Any) -> str:
    """How to mend the usual slips: quotes, 1e4 for an integer, yes for true."""

    def fits(other):
        try:
            coerce(hint, other)
        except WrongTypeError:
            return False
        return True

    if fits(_unquoted(value)):
        return "remove the quotes"
    if isinstance(value, float) and value.is_integer() and fits(int(value)):
        return f"write {int(value)}"
    words = {"yes": "true", "on": "true", "no": "false", "off": "false"}
    if isinstance(value, str) and value.lower() in words and fits(True):
        return f"write {words[value.lower()]}"
    if isinstance(value, int | float | bool) and fits(str(value)):
        return "put it in quotes"
    if not isinstance(value, list | dict) and fits([value]):
        return f"write [{value}]"
    return "change the value"


def validate(
    config: Config, places: dict[str, str] | None = None, rules: Rules = RULES
) -> Config:
    """Checks types, ranges and the rules between options, and returns the config.

    Args:
        config: `ExperimentConfig`, or another with its rules.
        places: dict from dotted key to the place where it was given, or None;
            messages name it.
        rules: functions of the config and of what refuses a value.

    Raises:
        InputError: for the first rule that is broken.

    Example:
    >>> from align_keras.config import ExperimentConfig, RuntimeConfig
    >>> validate(ExperimentConfig(runtime=RuntimeConfig(num_replicas=0)))
    Traceback (most recent call last):
    align_keras.utils.errors.InputError: 'runtime.num_replicas' must be >= 1,
    received 0; choose a value in that range.
    """
    report = Report(config, places or {})
    _check_sections(config, "", report)
    for key, value, field in leaves(config):
        try:
            coerce(field.type, value)
        except WrongTypeError as error:
            report.refuse(key, str(error), "change the value")
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
                report.refuse(key, f"a {section.__name__}", "construct one")
            _check_sections(value, f"{key}.", report)


def save_config(config: Any, path: Path) -> None:
    """Writes a configuration whole, but for what a `preset` settles."""
    tree = as_dict(config)
    model = tree.get("task", {}).get("model", {})
    if model.get("preset") is not None:
        for key in SETTLED_BY_PRESET:
            *section, name = key.split(".")
            del (model[section[0]] if section else model)[name]
    with atomic_write(path) as file:
        file.write(_HEADER + dump_yaml(tree))


def find_experiment(name: Path) -> pathlib.Path:
    """Finds an experiment's file by its path, or its name in experiments/.

    Raises:
        InputError: if there is none; the message lists the known names.

    Example:
    >>> find_experiment("align_b7_base").name
    'align_b7_base.yaml'
    """
    path = pathlib.Path(name)
    if path.is_file():
        return path
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        raise InputError(f"no experiment file {path}; check the path.")
    known = experiments()
    if path.name not in known:
        near = difflib.get_close_matches(path.name, known, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        names = ", ".join(known) or "none, since no experiments folder is installed"
        raise InputError(
            f"unknown experiment '{name}'; {hint}Known are {names}; or give a file."
        )
    return known[path.name]


def experiments(subfolder: str = ".") -> dict[str, pathlib.Path]:
    """Returns the clone's or installed files of experiments/, or a folder of it."""
    folder = shared_folder("experiments")
    if folder is None:
        return {}
    return {path.stem: path for path in sorted((folder / subfolder).glob("*.yaml"))}
