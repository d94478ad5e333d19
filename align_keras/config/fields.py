"""Fields of configurations: their types, their ranges, and how both are said."""

import dataclasses
import math
import operator
import types
import typing
from collections.abc import Iterator
from typing import Any

# The sign, what it asks, and JSON Schema's word for it.
BOUNDS = {
    "at_least": (">=", operator.ge, "minimum"),
    "above": (">", operator.gt, "exclusiveMinimum"),
    "at_most": ("<=", operator.le, "maximum"),
    "below": ("<", operator.lt, "exclusiveMaximum"),
}
_WORDS = {bool: "true or false", int: "an integer", float: "a number", str: "a string"}


class WrongTypeError(ValueError):
    """A value doesn't fit its field; the message says what the field takes."""


def number_field(default: Any, **bounds: float) -> Any:
    """Makes a dataclass field whose value, or each of whose items, has a range."""
    return dataclasses.field(default=default, metadata={"bounds": bounds})


def fraction_field(default: Any) -> Any:
    """Makes a dataclass field in [0, 1)."""
    return number_field(default, at_least=0, below=1)


def count_field(default: Any, at_least: float = 1) -> Any:
    """Makes a dataclass field that counts: `at_least` or more."""
    return number_field(default, at_least=at_least)


def out_of_range(field: dataclasses.Field, value: Any) -> tuple[str, str, Any] | None:
    """Finds what a field's range refuses: the rule in words, the remedy, the item.

    Example:
    >>> from align_keras.config import ContrastiveLossConfig
    >>> label_smoothing, *_ = dataclasses.fields(ContrastiveLossConfig)
    >>> out_of_range(label_smoothing, 1.0)
    ('>= 0 and < 1', 'choose a value in that range', 1.0)
    """
    bounds = field.metadata.get("bounds", {})
    for item in value if isinstance(value, tuple) else (value,):
        if isinstance(item, float) and not math.isfinite(item):
            return "finite", "write a number", item
        if item == "":
            return "a non-empty string", "write null to leave it out", item
        if item is not None and not all(
            BOUNDS[name][1](item, bound) for name, bound in bounds.items()
        ):
            signs = (f"{BOUNDS[name][0]} {bound}" for name, bound in bounds.items())
            return " and ".join(signs), "choose a value in that range", item
    return None


def coerce(hint: Any, value: Any) -> Any:
    """Returns a plain value as a field of a type keeps it, or raises WrongTypeError.

    An int becomes a float in a float field, a list a tuple; a type is a scalar, a
    `Literal`, `tuple[X, ...]`, or one of these with `None`.

    Example:
    >>> coerce(float | None, 1), coerce(tuple[int, ...], [1, 5])
    (1.0, (1, 5))
    """
    member, or_none = member_of(hint)
    arguments = typing.get_args(member)
    if value is None and or_none:
        return None
    if typing.get_origin(member) is typing.Literal:
        words, fits = f"one of {', '.join(arguments)}", value in arguments
    elif typing.get_origin(member) is tuple and dataclasses.is_dataclass(arguments[0]):
        return _records(arguments[0], value)
    elif typing.get_origin(member) is tuple:
        words = f"a list such as {'[1, 5, 10]' if arguments[0] is int else '[a, b]'}"
        fits = isinstance(value, list | tuple)
        try:
            value = tuple(coerce(arguments[0], item) for item in value if fits)
        except (TypeError, WrongTypeError):
            fits = False
    else:
        # bool is a subclass of int, but true is no number of steps.
        words, fits = _WORDS[member], type(value) is member
        # A float holds no integer of more than 308 digits.
        if member is float and type(value) is int and abs(value) < 2**1023:
            value, fits = float(value), True
    if not fits:
        raise WrongTypeError(f"{words}, or null" if or_none else words)
    return value


def _records(cls: Any, value: Any) -> tuple:
    """Makes dataclasses of a list of mappings, or one of a word, its first field."""
    fields = {field.name: field for field in dataclasses.fields(cls)}
    first = next(iter(fields))
    words = f"a {first}, or a list of {{{', '.join(fields)}}}"
    if not isinstance(value, str | list | tuple):
        raise WrongTypeError(words)
    records = []
    for item in [value] if isinstance(value, str) else value:
        if isinstance(item, cls):
            item = vars(item)
        elif isinstance(item, str):
            item = {first: item}
        if not isinstance(item, dict) or not {first} <= set(item) <= set(fields):
            raise WrongTypeError(words)
        values = {name: coerce(fields[name].type, item[name]) for name in item}
        for name, one in values.items():
            if refused := out_of_range(fields[name], one):
                raise WrongTypeError(f"{words} with {name} {refused[0]}")
        records.append(cls(**values))
    if not records:
        raise WrongTypeError(words)
    return tuple(records)


def member_of(hint: Any) -> tuple[Any, bool]:
    """Splits a type such as `int | None` into `int` and whether None is one too."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        (member,) = (one for one in typing.get_args(hint) if one is not type(None))
        return member, True
    return hint, False


def describe_value(value: Any) -> str:
    """Names a value in a message: what it is, and itself where it's short."""
    if isinstance(value, dict):
        return "keys and values"
    if isinstance(value, list | tuple):
        return "a list"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return f"the boolean {str(value).lower()}"
    text = repr(value)
    text = text if len(text) <= 60 else f"{text[:57]}..."
    return f"the string {text}" if isinstance(value, str) else text


def leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yields the dotted key, the value and the field of every option, in order."""
    for field in dataclasses.fields(config):
        value, key = getattr(config, field.name), f"{prefix}{field.name}"
        if dataclasses.is_dataclass(field.type):
            yield from leaves(value, f"{key}.")
        else:
            yield key, value, field


def as_dict(config: Any) -> Any:
    """Returns a config as nested dicts, ready for YAML or JSON; tuples become lists.

    Example:
    >>> from align_keras.config import ExperimentConfig
    >>> as_dict(ExperimentConfig())["task"]["evaluation"]
    {'ks': [1, 5, 10]}
    """
    if dataclasses.is_dataclass(config):
        fields = dataclasses.fields(config)
        return {field.name: as_dict(getattr(config, field.name)) for field in fields}
    return list(map(as_dict, config)) if isinstance(config, tuple) else config


def changed_keys(old: Any, new: Any) -> dict[str, tuple[Any, Any]]:
    """Returns the options in which two configs differ, dotted key to (old, new value).

    Example:
    >>> from align_keras.config import load_config
    >>> changed_keys(load_config(), load_config(params_override="trainer.seed=7"))
    {'trainer.seed': (0, 7)}
    """
    after = {key: value for key, value, _ in leaves(new)}
    return {
        key: (value, after[key]) for key, value, _ in leaves(old) if value != after[key]
    }
