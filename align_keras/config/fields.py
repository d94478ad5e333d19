"""Types and ranges of configuration fields, with their error messages."""

import dataclasses
import math
import operator
import types
import typing
from collections.abc import Iterator
from typing import Any, TypeVar

from align_keras.utils.addresses import without_query

_Config = TypeVar("_Config")

# Dict from a bound to its sign in messages, its comparison and its keyword in JSON
# Schema.
BOUNDS = {
    "at_least": (">=", operator.ge, "minimum"),
    "above": (">", operator.gt, "exclusiveMinimum"),
    "at_most": ("<=", operator.le, "maximum"),
    "below": ("<", operator.lt, "exclusiveMaximum"),
}
_TYPE_NAMES = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a string",
}
# Characters of a value in a message.
_MAX_DESCRIPTION = 60
# Rules for mappings by the type of their values.
_MAPPING_RULES = {
    float: "names with numbers, such as {alt: 0.7, synthetic: 0.3}",
    str: "names with strings, such as {name: value}",
}


class WrongTypeError(ValueError):
    """Error for a value of a wrong type. The message describes the expected type."""


def number_field(default: Any, **bounds: float) -> Any:
    """Makes a dataclass field for a number, or a tuple of numbers, within bounds.

    Args:
        default: default value.
        bounds: keys of `BOUNDS` with their values, such as `at_least=0`.
    """
    return dataclasses.field(default=default, metadata={"bounds": bounds})


def fraction_field(default: Any) -> Any:
    """Makes a dataclass field for a number in [0, 1)."""
    return number_field(default, at_least=0, below=1)


def count_field(default: Any, at_least: float = 1) -> Any:
    """Makes a dataclass field for a count that is `at_least` or larger."""
    return number_field(default, at_least=at_least)


def out_of_range(field: dataclasses.Field, value: Any) -> tuple[str, str, Any] | None:
    """Checks a value, or each item of a tuple, against the range of a field.

    Returns:
        None if the value is in the range, and else the rule, the remedy and the refused
        value or item.

    Example:
    >>> from align_keras.config import ContrastiveLossConfig
    >>> label_smoothing, *_ = dataclasses.fields(ContrastiveLossConfig)
    >>> out_of_range(label_smoothing, 1.0)
    ('>= 0 and < 1', 'Choose a value in this range.', 1.0)
    """
    bounds = field.metadata.get("bounds", {})
    items = value.values() if isinstance(value, dict) else value
    for item in items if isinstance(value, tuple | dict) else (value,):
        if isinstance(item, float) and not math.isfinite(item):
            return "finite", "Write a finite number.", item
        if item == "":
            return "a non-empty string", "Write null to leave it out.", item
        if item is not None and not all(
            BOUNDS[name][1](item, bound) for name, bound in bounds.items()
        ):
            signs = (f"{BOUNDS[name][0]} {bound}" for name, bound in bounds.items())
            return " and ".join(signs), "Choose a value in this range.", item
    return None


def coerce(hint: Any, value: Any) -> Any:
    """Converts a plain value to the type of a field.

    An int is converted to a float for a float field, and a list to a tuple.

    Args:
        hint: type of the field. It is bool, int, float, str, a `Literal`,
            `tuple[X, ...]`, `dict[str, X]`, or a union of one of these with `None`.
        value: value from YAML or Python.

    Raises:
        WrongTypeError: if the value doesn't have the type.

    Example:
    >>> coerce(float | None, 1), coerce(tuple[int, ...], [1, 5])
    (1.0, (1, 5))
    """
    member, is_optional = member_of(hint)
    arguments = typing.get_args(member)
    if value is None and is_optional:
        return None
    if typing.get_origin(member) is typing.Literal:
        rule, fits = f"one of {', '.join(arguments)}", value in arguments
    elif typing.get_origin(member) is dict:
        rule = _MAPPING_RULES[arguments[1]]
        fits = isinstance(value, dict) and bool(value)
        try:
            value = {name: coerce(arguments[1], value[name]) for name in value if fits}
        except (TypeError, WrongTypeError):
            fits = False
    elif typing.get_origin(member) is tuple and dataclasses.is_dataclass(arguments[0]):
        return _records(arguments[0], value)
    elif typing.get_origin(member) is tuple:
        rule = _list_rule(arguments[0])
        fits = isinstance(value, list | tuple)
        try:
            value = tuple(coerce(arguments[0], item) for item in value if fits)
        except (TypeError, WrongTypeError):
            fits = False
    else:
        # bool is a subclass of int, so `isinstance` would accept true for an integer.
        rule, fits = _TYPE_NAMES[member], type(value) is member
        # An integer with more than 308 digits doesn't fit into a float.
        if member is float and type(value) is int and abs(value) < 2**1023:
            value, fits = float(value), True
    if not fits:
        raise WrongTypeError(f"{rule}, or null" if is_optional else rule)
    return value


def _list_rule(item_type: Any) -> str:
    """Returns the rule for a list with items of a type."""
    if typing.get_origin(item_type) is typing.Literal:
        return f"a list of {', '.join(typing.get_args(item_type))}"
    return f"a list such as {'[1, 5, 10]' if item_type is int else '[a, b]'}"


def _records(cls: Any, value: Any) -> tuple:
    """Converts a value to a tuple of dataclass instances.

    Args:
        cls: dataclass.
        value: list of mappings or strings, or a single string. A string is the value of
            the first field.

    Raises:
        WrongTypeError: if the value can't be converted or the list is empty.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}
    first = next(iter(fields))
    rule = f"a {first}, or a list of {{{', '.join(fields)}}}"
    if not isinstance(value, str | list | tuple):
        raise WrongTypeError(rule)
    records = []
    for item in [value] if isinstance(value, str) else value:
        if isinstance(item, cls):
            item = vars(item)
        elif isinstance(item, str):
            item = {first: item}
        if not isinstance(item, dict) or not {first} <= set(item) <= set(fields):
            raise WrongTypeError(rule)
        values = {name: coerce(fields[name].type, item[name]) for name in item}
        for name, field_value in values.items():
            if refused := out_of_range(fields[name], field_value):
                raise WrongTypeError(f"{rule} with {name} {refused[0]}")
        records.append(cls(**values))
    if not records:
        raise WrongTypeError(rule)
    return tuple(records)


def member_of(hint: Any) -> tuple[Any, bool]:
    """Splits a type such as `int | None` into `int` and True.

    The second value is False for a type without None.
    """
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        (member,) = (part for part in typing.get_args(hint) if part is not type(None))
        return member, True
    return hint, False


def describe_value(value: Any) -> str:
    """Describes a value in a message by its type and, if it is short, its content."""
    if isinstance(value, dict):
        items = ", ".join(f"{key}: {item}" for key, item in value.items())
        is_short = value and len(items) <= _MAX_DESCRIPTION
        return f"{{{items}}}" if is_short else "keys and values"
    if isinstance(value, list | tuple):
        return "a list"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return f"the boolean {str(value).lower()}"
    text = repr(value)
    if len(text) > _MAX_DESCRIPTION:
        text = f"{text[: _MAX_DESCRIPTION - 3]}..."
    return f"the string {text}" if isinstance(value, str) else text


def leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yields the dotted key, the value and the field of every option in order."""
    for field in dataclasses.fields(config):
        value, key = getattr(config, field.name), f"{prefix}{field.name}"
        if dataclasses.is_dataclass(field.type):
            yield from leaves(value, f"{key}.")
        else:
            yield key, value, field


def as_dict(config: Any) -> Any:
    """Converts a configuration to nested dicts with lists for YAML or JSON.

    Example:
    >>> from align_keras.config import ExperimentConfig
    >>> as_dict(ExperimentConfig())["task"]["evaluation"]
    {'ks': [1, 5, 10]}
    """
    if dataclasses.is_dataclass(config):
        fields = dataclasses.fields(config)
        return {field.name: as_dict(getattr(config, field.name)) for field in fields}
    return list(map(as_dict, config)) if isinstance(config, tuple) else config


def without_queries(config: _Config) -> _Config:
    """Removes the query strings of the addresses in a configuration.

    `align_keras.utils.addresses.with_query` adds them to requests.

    Example:
    >>> from align_keras.config import DataConfig
    >>> without_queries(DataConfig(pairs="https://host/table.csv?sig=a1")).pairs
    'https://host/table.csv'
    """
    return _without_queries(config)


def _without_queries(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        values = {
            field.name: _without_queries(getattr(value, field.name))
            for field in dataclasses.fields(value)
        }
        return dataclasses.replace(value, **values)
    if isinstance(value, tuple):
        return tuple(map(_without_queries, value))
    return without_query(value) if isinstance(value, str) else value


def changed_keys(old: Any, new: Any) -> dict[str, tuple[Any, Any]]:
    """Returns the options in which two configurations differ.

    Returns:
        dict from dotted key to a tuple of the old and the new value.

    Example:
    >>> from align_keras.config import load_config
    >>> changed_keys(load_config(), load_config(params_override="trainer.seed=7"))
    {'trainer.seed': (0, 7)}
    """
    new_values = {key: value for key, value, _ in leaves(new)}
    return {
        key: (value, new_values[key])
        for key, value, _ in leaves(old)
        if value != new_values[key]
    }
