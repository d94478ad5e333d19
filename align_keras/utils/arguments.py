"""Arguments that a function doesn't take, or of other kinds, are refused by name."""

import difflib
import inspect
import math
import numbers
from collections.abc import Callable, Collection, Iterable
from typing import Any

from align_keras.utils.errors import InputError


def parameters_of(function: Callable) -> list[str]:
    """The names of a function's parameters, without `self` and `**kwargs`."""
    parameters = inspect.signature(function).parameters.values()
    varying = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.kind not in varying and p.name != "self"]


def _kept(cls: Any) -> list[str]:
    """A class's arguments but those that every Keras layer keeps by itself."""
    return sorted({*parameters_of(cls.__init__)} - {"dtype", "trainable", "name"})


def arguments_of(instance: object, cls: Any) -> dict[str, object]:
    """Returns a class's arguments from the attributes of the same names."""
    return {name: getattr(instance, name) for name in _kept(cls)}


def refuse_unknown(where: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raises unless all arguments of `where` are known; suggests the nearest or all."""
    known = list(known)
    for name in given:
        if name in known:
            continue
        near = difflib.get_close_matches(name, known, n=1)
        remedy = (
            f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(known)}."
        )
        raise InputError(f"{where} has no argument {name!r}; {remedy}")


def check_choice(
    name: str, value: object, choices: Collection[str], remedy: str = "choose one"
) -> None:
    """Raises unless the value is one of the choices."""
    if value not in choices:
        raise InputError(
            f"{name} must be one of {', '.join(choices) or 'none'}, received "
            f"{value!r}; {remedy}."
        )


def check_number(
    name: str,
    value: Any,
    least: float,
    most: float,
    whole: bool = False,
    remedy: str = "correct it",
) -> None:
    """Raises unless a value is a number of a range, or a whole one; NaN is none."""
    kind = numbers.Integral if whole else numbers.Real
    is_number = isinstance(value, kind) and not isinstance(value, bool)
    if not is_number or not least <= value <= most:
        what = "a whole number" if whole else "a number"
        span = f"from {least:g} to {most:g}"
        if most == math.inf:
            span = f"of at least {least:g}"
        raise InputError(
            f"{name} must be {what} {span}, received {value!r:.80}; {remedy}."
        )
