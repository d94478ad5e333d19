"""Checks of arguments. Their errors state the rule, the received value and a remedy."""

import math
import numbers
import os
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from align_keras.utils.errors import InputError


def parameters_of(function: Callable) -> list[str]:
    """Returns the names of a function's parameters without `self` and `**kwargs`."""
    import inspect

    parameters = inspect.signature(function).parameters.values()
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.kind not in variadic and p.name != "self"]


def _stored_arguments(cls: Any) -> list[str]:
    """Returns the arguments of a class that `keras.layers.Layer` does not store."""
    return sorted({*parameters_of(cls.__init__)} - {"dtype", "trainable", "name"})


def arguments_of(instance: object, cls: Any) -> dict[str, object]:
    """Reads the constructor arguments of a class from attributes of the same names.

    Args:
        instance: object that stores the arguments as attributes.
        cls: class whose `__init__` defines the arguments.

    Returns:
        dict from argument name to value, for `get_config`.
    """
    return {name: getattr(instance, name) for name in _stored_arguments(cls)}


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Returns a question with the most similar choice, or "" if none is similar.

    >>> did_you_mean("--modle", ["--model", "--runtime"])
    'Did you mean --model?'
    """
    import difflib

    matches = difflib.get_close_matches(word, list(choices), n=1)
    return f"Did you mean {matches[0]}?" if matches else ""


def refuse_unknown(
    function: str, arguments: Iterable[str], allowed_arguments: Iterable[str]
) -> None:
    """Raises `InputError` if a function doesn't have one of the arguments.

    The message suggests the most similar argument, or lists all of them.

    Args:
        function: name of the function or class for the message.
        arguments: names of the received arguments.
        allowed_arguments: names of the arguments that the function has.
    """
    allowed_arguments = list(allowed_arguments)
    for name in arguments:
        if name in allowed_arguments:
            continue
        remedy = did_you_mean(name, allowed_arguments) or (
            f"Its arguments are {', '.join(allowed_arguments)}."
        )
        raise InputError(f"{function} has no argument {name!r}. {remedy}")


def check_choice(
    name: str,
    value: object,
    choices: Collection[str],
    remedy: str = "Choose one of them.",
) -> None:
    """Raises `InputError` unless the value is one of the choices.

    Args:
        name: name of the argument for the message.
        value: received value.
        choices: allowed values.
        remedy: last sentence of the message.
    """
    if value not in choices:
        raise InputError(
            f"{name} must be one of {', '.join(choices) or 'none'}. Received: "
            f"{_assignment(name, repr(value))}. {remedy}"
        )


def check_number(
    name: str,
    value: Any,
    least: float,
    most: float,
    whole: bool = False,
    remedy: str = "Pass a number in this range.",
) -> None:
    """Raises `InputError` unless the value is a number in a range.

    Booleans and NaN are refused.

    Args:
        name: name of the argument for the message.
        value: received value.
        least: smallest allowed value.
        most: largest allowed value, or `math.inf`.
        whole: True to require an integer.
        remedy: last sentence of the message.
    """
    kind = numbers.Integral if whole else numbers.Real
    is_number = isinstance(value, kind) and not isinstance(value, bool)
    if not is_number or not least <= value <= most:
        description = "a whole number" if whole else "a number"
        span = f"from {least:g} to {most:g}"
        if most == math.inf:
            span = f"of at least {least:g}"
        raise InputError(
            f"{name} must be {description} {span}. Received: "
            f"{_assignment(name, f'{value!r:.80}')}. {remedy}"
        )


def _assignment(name: str, value_text: str) -> str:
    """Returns `name=value` if the name is an identifier, and the value alone if not."""
    argument = name.strip("`")
    return f"{argument}={value_text}" if argument.isidentifier() else value_text


def check_is_sequence(name: str, kinds: str, values: Any) -> None:
    """Raises if an argument is a single image or text, or has no length.

    Args:
        name: name of the argument.
        kinds: types of the items for the message.
        values: value of the argument.
    """
    is_single = isinstance(values, str | bytes | os.PathLike)
    if is_single or not hasattr(values, "__len__"):
        raise InputError(
            f"`{name}` must be a list of {kinds}. Received: "
            f"{'a single ' if is_single else ''}{type(values).__name__}. Pass a list, "
            f"[{name[:-1]}]."
        )


def check_texts(texts: Sequence[str]) -> None:
    """Raises unless all values are str."""
    check_is_sequence("texts", "str", texts)
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(
                f"`texts` must be a list of str. Received: {type(text).__name__} at "
                f"position {position}. Convert it to str."
            )
