"""Configurations as trees: their fields, their values, their differences."""

import dataclasses
import difflib
import types
import typing


def fields_of(cls):
    """Returns a config dataclass's fields.

    Args:
        cls: dataclass.

    Returns:
        dict from name to (`dataclasses.Field`, its resolved type).
    """
    hints = typing.get_type_hints(cls)
    return {field.name: (field, hints[field.name]) for field in dataclasses.fields(cls)}


def members_of(hint):
    """Returns a type's alternatives: `int | None` has two."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return typing.get_args(hint)
    return (hint,)


def leaves(config, prefix=""):
    """Yields the dotted key, the value and the field of every option.

    Args:
        config: config dataclass.
        prefix: str, the dotted key of `config` itself.

    Yields:
        (str, value, `dataclasses.Field`), in the order of the classes.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        key = f"{prefix}.{field.name}" if prefix else field.name
        if dataclasses.is_dataclass(value):
            yield from leaves(value, key)
        else:
            yield key, value, field


def as_dict(config):
    """Returns a config as nested dicts, ready for YAML or JSON.

    Args:
        config: config dataclass.

    Returns:
        dict of dicts and plain values; tuples become lists.

    Example:

    >>> from align_keras.config import ExperimentConfig
    >>> as_dict(ExperimentConfig())["task"]["evaluation"]
    {'ks': [1, 5, 10]}
    """
    if dataclasses.is_dataclass(config):
        return {
            field.name: as_dict(getattr(config, field.name))
            for field in dataclasses.fields(config)
        }
    return list(config) if isinstance(config, tuple) else config


def changed_keys(old, new):
    """Names the options in which two configs differ.

    Args:
        old: `ExperimentConfig`.
        new: `ExperimentConfig`.

    Returns:
        dict from dotted key to (old value, new value).

    Example:

    >>> from align_keras.config import load_config
    >>> changed_keys(load_config(), load_config(params_override="trainer.seed=7"))
    {'trainer.seed': (0, 7)}
    """
    after = {key: value for key, value, _ in leaves(new)}
    return {
        key: (value, after[key]) for key, value, _ in leaves(old) if value != after[key]
    }


def suggest(key, siblings, root):
    """Returns the known dotted key or sibling nearest to an unknown one.

    Args:
        key: str, the unknown dotted key.
        siblings: names that its level does know.
        root: config dataclass instance, searched where no sibling is near.

    Returns:
        str, or None where nothing is near.
    """
    name = key.rpartition(".")[2]
    by_name = {}
    for dotted in keys_of(type(root)):
        by_name.setdefault(dotted.rpartition(".")[2], dotted)
    # The right name at the wrong level, such as train_steps beside trainer.
    if name in by_name:
        return by_name[name]
    near = difflib.get_close_matches(name, siblings, n=1)
    if near:
        return near[0]
    near = difflib.get_close_matches(name, by_name, n=1, cutoff=0.8)
    return by_name[near[0]] if near else None


def keys_of(cls, prefix=""):
    """Yields every dotted key of a config dataclass, sections included."""
    for name, (_, hint) in fields_of(cls).items():
        key = f"{prefix}{name}"
        yield key
        if dataclasses.is_dataclass(hint):
            yield from keys_of(hint, f"{key}.")
