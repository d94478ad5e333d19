"""Arguments that a function doesn't take, or of other kinds, are refused by name."""

import difflib
import inspect
import numbers
from collections.abc import Callable, Collection, Iterable
from typing import Any

from align_keras.utils.errors import InputError


def parameters_of(function: Callable) -> list[str]:
    """Returns the names of a function's parameters, without `self` and `**kwargs`.

    Example:

    >>> parameters_of(lambda a, *, b=1, **kwargs: None)
    ['a', 'b']
    """
    parameters = inspect.signature(function).parameters.values()
    varying = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    names = [one.name for one in parameters if one.kind not in varying]
    return [name for name in names if name != "self"]


def arguments_of(instance: object, cls: Any) -> dict[str, object]:
    """Returns a class's arguments from an instance's attributes of the same names.

    Those of every Keras layer (`dtype`, `trainable`, `name`) are left to its
    `get_config`.
    """
    names = set(parameters_of(cls.__init__)) - {"dtype", "trainable", "name"}
    return {name: getattr(instance, name) for name in sorted(names)}


def refuse_unknown(where: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raises unless all arguments are known.

    Args:
        where: str, what was called.
        given: names of arguments.
        known: names that it takes.

    Raises:
        InputError: at the first unknown name; suggests the nearest known one, or
            lists all where none is near.

    Example:

    >>> refuse_unknown("f", ["learn_temprature"], ["learn_temperature", "name"])
    Traceback (most recent call last):
    align_keras.utils.errors.InputError: f has no argument 'learn_temprature'; did you \
mean 'learn_temperature'?
    """
    known = list(known)
    for name in given:
        if name in known:
            continue
        near = difflib.get_close_matches(name, known, n=1)
        remedy = (
            f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(known)}."
        )
        raise InputError(f"{where} has no argument {name!r}; {remedy}")


def check_choice(name: str, value: object, choices: Collection[str]) -> None:
    """Raises unless the value is one of the choices."""
    if value not in choices:
        raise InputError(
            f"{name} must be one of {', '.join(choices)}, received {value!r}; choose "
            "one."
        )


def check_number(
    name: str, value: Any, least: float, most: float, whole: bool = False
) -> None:
    """Raises unless the value is a number of a range.

    Args:
        name: str, of the argument.
        value: what was given.
        least: float, the smallest allowed.
        most: float, the largest allowed.
        whole: bool, only integers.

    Raises:
        InputError: for NaN and what is no number too.

    Example:

    >>> check_number("dropout", float("nan"), 0, 1)
    Traceback (most recent call last):
    align_keras.utils.errors.InputError: dropout must be a number from 0 to 1, \
received nan; correct it.
    """
    kind = numbers.Integral if whole else numbers.Real
    is_number = isinstance(value, kind) and not isinstance(value, bool)
    if not is_number or not least <= value <= most:
        what = "a whole number" if whole else "a number"
        raise InputError(
            f"{name} must be {what} from {least:g} to {most:g}, received "
            f"{value!r:.80}; correct it."
        )
