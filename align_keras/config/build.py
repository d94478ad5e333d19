"""From located values to a config: unknown keys and wrong types are refused."""

import dataclasses
import typing

from align_keras.config.tree import fields_of, members_of, suggest
from align_keras.config.yaml_source import Located, describe, parse_scalar
from align_keras.utils.errors import InputError


class WrongTypeError(ValueError):
    """A value doesn't fit its field; the message says what the field takes."""


def merge(base, given):
    """Lays one tree of `Located` values over another; lists are replaced.

    Args:
        base: `Located`.
        given: `Located`, which wins.

    Returns:
        `Located`.
    """
    if not (isinstance(base.value, dict) and isinstance(given.value, dict)):
        return given
    merged = dict(base.value)
    for key, value in given.value.items():
        merged[key] = merge(merged[key], value) if key in merged else value
    return Located(merged, given.where)


def build(config, tree, places, prefix="", root=None):
    """Replaces options of a config by a tree's values.

    Args:
        config: config dataclass instance, the defaults.
        tree: `Located` whose value is a dict.
        places: dict, filled with the place of each dotted key that was given.
        prefix: str, the dotted key of `config`.
        root: the outermost config; only recursion passes it.

    Returns:
        config dataclass of the same class.

    Raises:
        InputError: for an unknown key or a value of the wrong type.
    """
    root = root or config
    known = fields_of(type(config))
    changes = {}
    for name, given in tree.value.items():
        key = f"{prefix}.{name}" if prefix else name
        if name not in known:
            _refuse_key(key, given, list(known), prefix, root)
        places[key] = given.where
        default = getattr(config, name)
        if dataclasses.is_dataclass(default):
            _check_section(key, given, default)
            changes[name] = build(default, given, places, key, root)
        else:
            changes[name] = _leaf(key, given, known[name][1])
    return dataclasses.replace(config, **changes)


def coerce(hint, value):
    """Checks a plain value against a type.

    Args:
        hint: type: a scalar, a `Literal`, `tuple[X, ...]`, or one with `None`.
        value: plain value.

    Returns:
        The value as the field keeps it: an int becomes a float in a float
        field, a list a tuple.

    Raises:
        WrongTypeError: if it doesn't fit; the message says what would.

    Example:

    >>> coerce(float | None, 1), coerce(tuple[int, ...], [1, 5])
    (1.0, (1, 5))
    >>> coerce(float, "1e-3")
    Traceback (most recent call last):
    align_keras.config.build.WrongTypeError: a number
    """
    members = members_of(hint)
    if value is None and type(None) in members:
        return None
    (member,) = [member for member in members if member is not type(None)]
    if typing.get_origin(member) is typing.Literal:
        fits = isinstance(value, str) and value in typing.get_args(member)
    elif typing.get_origin(member) is tuple:
        if isinstance(value, list | tuple):
            item = typing.get_args(member)[0]
            try:
                return tuple(coerce(item, one) for one in value)
            except WrongTypeError:
                pass
        fits = False
    elif member is float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            try:
                return float(value)
            except OverflowError:
                pass
        fits = False
    else:
        # bool is a subclass of int, but true is no number of steps.
        fits = type(value) is member
    if not fits:
        raise WrongTypeError(_wanted(hint))
    return value


def _wanted(hint):
    members = members_of(hint)
    (member,) = [member for member in members if member is not type(None)]
    origin, arguments = typing.get_origin(member), typing.get_args(member)
    if origin is typing.Literal:
        words = f"one of {', '.join(arguments)}"
    elif origin is tuple:
        words = f"a list such as {'[1, 5, 10]' if arguments[0] is int else '[a, b]'}"
    else:
        words = {
            bool: "true or false",
            int: "an integer",
            float: "a number",
            str: "a string",
        }[member]
    return f"{words}, or null" if type(None) in members else words


def _refuse_key(key, given, siblings, prefix, root):
    near = suggest(key, siblings, root)
    hint = f"did you mean '{near}'? " if near else ""
    level = f"'{prefix}'" if prefix else "a configuration"
    raise InputError(
        f"{given.where}: unknown key '{key}'; {hint}The keys of {level} are "
        f"{', '.join(siblings)}."
    )


def _check_section(key, given, default):
    if not isinstance(given.value, dict):
        names = ", ".join(field.name for field in dataclasses.fields(default))
        raise InputError(
            f"{given.where}: '{key}' must hold keys ({names}), received "
            f"{describe(given.value)}; write the key below it."
        )


def _plain(given):
    """The value without places: what a field can hold."""
    if isinstance(given, Located):
        return _plain(given.value)
    return [_plain(item) for item in given] if isinstance(given, list) else given


def _leaf(key, given, hint):
    value = _plain(given)
    try:
        return coerce(hint, value)
    except WrongTypeError as error:
        raise InputError(
            f"{given.where}: '{key}' must be {error}, received {describe(value)}; "
            f"{_remedy(given, hint, value)}."
        ) from None


def _unquoted(given):
    """The value as it would be read without its quotes."""
    if isinstance(given, Located):
        if given.quoted:
            return parse_scalar(given.value)
        given = given.value
    return [_unquoted(item) for item in given] if isinstance(given, list) else given


def _remedy(given, hint, value):
    """How to mend the usual slips: quotes, 1e4 for an integer, yes for true."""

    def fits(other):
        try:
            coerce(hint, other)
        except WrongTypeError:
            return False
        return True

    if fits(_unquoted(given)):
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
