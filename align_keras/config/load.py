"""Finds, merges, checks and saves configurations."""

import difflib
import pathlib
import site
import sysconfig

import yaml

from align_keras.config.build import build, merge
from align_keras.config.corpus import CORPUS_RULES, CorpusConfig
from align_keras.config.experiment import ExperimentConfig
from align_keras.config.fine_tuning import FINE_TUNING_RULES, FineTuningConfig
from align_keras.config.overrides import overrides_of, parse_overrides
from align_keras.config.rules import RULES, SETTLED_BY_PRESET
from align_keras.config.tree import as_dict
from align_keras.config.validate import validate
from align_keras.config.yaml_source import Located, parse_scalar, read_yaml
from align_keras.utils.errors import InputError
from align_keras.utils.files import atomic_write

_SUFFIXES = (".yaml", ".yml")
_CLONE = pathlib.Path(__file__).resolve().parents[2]
_HEADER = "# The effective configuration: every option with its value.\n"


def load_config(experiment=None, config_files=(), params_override=""):
    """Loads a configuration.

    The defaults are the paper's; an experiment is laid over them, then the
    files in their order, then the overrides.

    Args:
        experiment: str or path, a name in experiments/ or a file, or None.
        config_files: sequence of paths.
        params_override: str such as
            `"trainer.train_steps=10,task.evaluation.ks=[1, 5]"`, whose values
            are YAML; path of a further .yaml file; dict from dotted key to
            plain value; or a sequence of these.

    Returns:
        `ExperimentConfig`, frozen.

    Raises:
        InputError: for an unknown key, a wrong type, a value out of range or
            an unreadable file; the message names the place.

    Example:

    >>> config = load_config(params_override="task.loss.label_smoothing=1e-3")
    >>> config.task.loss.label_smoothing
    0.001
    """
    files = [] if experiment is None else [find_experiment(experiment)]
    return _lay_over(ExperimentConfig(), [*files, *config_files], params_override)


def load_recipe(name, config_files=(), params_override=""):
    """Loads a recipe of experiments/evaluation/.

    Args:
        name: str, such as `"fine_grained"`.
        config_files: as `load_config`.
        params_override: as `load_config`.

    Returns:
        `FineTuningConfig`, frozen.

    Raises:
        InputError: as `load_config`.

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
    return _lay_over(FineTuningConfig(), files, params_override, FINE_TUNING_RULES)


def load_corpus_config(config_files=(), params_override=""):
    """Loads how a corpus is built.

    Args:
        config_files: as `load_config`.
        params_override: as `load_config`.

    Returns:
        `CorpusConfig`, frozen.

    Raises:
        InputError: as `load_config`.

    Example:

    >>> load_corpus_config(params_override="filter.max_unigrams=30").filter.max_unigrams
    30
    """
    return _lay_over(CorpusConfig(), config_files, params_override, CORPUS_RULES)


def _lay_over(defaults, files, params_override, rules=RULES):
    if isinstance(params_override, str | dict):
        params_override = [params_override]
    trees = [read_yaml(pathlib.Path(path)) for path in files]
    trees += [_override(item) for item in params_override]
    # Each tree is checked by itself too: an error that a later one covers is
    # still an error.
    for tree in trees:
        build(defaults, tree, {})
    merged = Located({}, "configuration")
    for tree in trees:
        merged = merge(*_with_one_source(merged, tree))
    places = {}
    return validate(build(defaults, merged, places), places, rules)


def _with_one_source(base, given):
    """Lets a corpus replace the pairs of an earlier layer, and pairs a corpus.

    Args:
        base: `Located`, what came before.
        given: `Located`, which is laid over it.

    Returns:
        (base, given), without `pairs` in a section of `base` where `given` names a
        corpus, and with `corpus: pairs` in one of `given` that names pairs alone.
    """
    for section in ("train_data", "validation_data"):
        named = _section(given, section)
        corpus, pairs = named.get("corpus"), named.get("pairs")
        if pairs is not None and pairs.value is not None and corpus is None:
            given = merge(
                given, _nested(section, "corpus", Located("pairs", pairs.where))
            )
        elif corpus is not None and corpus.value != "pairs" and pairs is None:
            if "pairs" in _section(base, section):
                base = merge(
                    base, _nested(section, "pairs", Located(None, corpus.where))
                )
    return base, given


def _section(tree, name):
    """What a tree holds of a data section, a dict from name to `Located`."""
    for key in ("task", name):
        if tree is None or not isinstance(tree.value, dict):
            return {}
        tree = tree.value.get(key)
    return tree.value if tree is not None and isinstance(tree.value, dict) else {}


def _nested(section, name, value):
    for key in (name, section, "task"):
        value = Located({key: value}, value.where)
    return value


def _override(item):
    if isinstance(item, dict):
        return overrides_of(item)
    if item.endswith(_SUFFIXES) and "=" not in item:
        return read_yaml(pathlib.Path(item))
    return parse_overrides(item)


def save_config(config, path):
    """Writes a configuration, whole and in a fixed order, under its final name.

    Of a model by `preset` the options that the preset settles are left out.

    Args:
        config: `ExperimentConfig`.
        path: str or `pathlib.Path`, such as RUN/params.yaml. Loading it with
            `load_config(config_files=[path])` gives an equal config.
    """
    text = yaml.dump(
        _without_settled(as_dict(config)),
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=False,
    )
    with atomic_write(path) as file:
        file.write(_HEADER + text)


def _without_settled(tree):
    model = tree.get("task", {}).get("model", {})
    if model.get("preset") is not None:
        for key in SETTLED_BY_PRESET:
            *section, name = key.split(".")
            del (model[section[0]] if section else model)[name]
    return tree


def find_experiment(name):
    """Finds an experiment's file.

    Args:
        name: str or path: a file, or the name of one in experiments/.

    Returns:
        `pathlib.Path` of an existing file.

    Raises:
        InputError: if there is none; the message lists the known names.

    Example:

    >>> find_experiment("align_b7_base").name
    'align_b7_base.yaml'
    """
    path = pathlib.Path(name)
    if path.is_file():
        return path
    if path.suffix in _SUFFIXES or len(path.parts) > 1:
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


def experiments(subfolder="."):
    """Returns the known experiments.

    Args:
        subfolder: str, a folder of experiments/.

    Returns:
        dict from name to `pathlib.Path`, sorted by name: those of the clone,
        or those that were installed with the package.
    """
    folder = next((folder for folder in _folders() if folder.is_dir()), None)
    if folder is None:
        return {}
    return {path.stem: path for path in sorted((folder / subfolder).glob("*.yaml"))}


def _folders():
    if (_CLONE / "setup.cfg").is_file():
        yield _CLONE / "experiments"
    # Where setup.cfg's data_files go.
    for root in (sysconfig.get_path("data"), site.getuserbase()):
        yield pathlib.Path(root) / "share" / "align_keras" / "experiments"


class _Dumper(yaml.SafeDumper):
    """Quotes the strings that YAML 1.2 would read as something else."""

    def ignore_aliases(self, data):
        return True


def _represent_string(dumper, text):
    ambiguous = not isinstance(parse_scalar(text), str)
    style = "'" if ambiguous else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_string)
