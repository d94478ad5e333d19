"""Columns of user tables: their names in conditions, and their kinds.

Cells of user tables are stored as their original text, so that "00123" or an ISBN of 20
digits does not change. A column is compared as numbers if `kind_of` recognizes a plain
number in each of its cells.
"""

import math
import re
from collections.abc import Iterable
from typing import Any

from align_keras.search.index.schema import INDEX_COLUMNS
from align_keras.utils.condition_columns import NUMBER, TEXT

# Names that a column of a user table cannot have. It gets an underscore at the end of
# its name.
_RESERVED = ("id", *INDEX_COLUMNS)
# Kinds of the columns of user tables, in addition to `NUMBER` and `TEXT`. Numbers and
# decimals are both compared as numbers. A hit has the value of a number column as a
# number, and the value of a decimal column as its original text ("4.50").
DECIMAL = "decimal"
_KINDS = (NUMBER, DECIMAL, TEXT)
_PLAIN_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?")
# Maximum number of characters of a number. Longer numbers are text, because `float` is
# slow for a million digits.
_MAX_DIGITS = 400
# Largest integer that JavaScript and all JSON readers represent exactly.
_MAX_INTEGER = 2**53


def as_text(value: Any) -> str | None:
    """Returns the text to store for a cell, or None if the value is not stored.

    NUL and lone surrogates become U+FFFD, because databases cannot store them.

    >>> [as_text(value) for value in ("00123", 4.5, True, float("nan"), ["a"])]
    ['00123', '4.5', 'true', None, None]
    """
    if isinstance(value, str):
        if value.isascii() and "\0" not in value:
            return value
        return re.sub("[\0\ud800-\udfff]", "\ufffd", value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        return repr(value)
    return None


def kind_of(values: Iterable[Any]) -> str | None:
    """Returns the kind of a column, or None if all its cells are blank.

    A cell counts as a number if it is an integer of at most 2^53 or a decimal fraction
    that float64 represents without a change of its digits. Numbers with leading zeros,
    an exponent or a plus sign count as text.

    >>> kind_of(["1", "-20", "", 3.5]), kind_of(["4.50"]), kind_of(["1", "007"])
    ('number', 'decimal', 'text')
    """
    kinds = set()
    texts = set()
    for value in values:
        if isinstance(value, str):
            if value in texts:
                continue
            texts.add(value)
        kind = _kind_of_cell(value)
        if kind == TEXT:
            return TEXT
        kinds.add(kind)
    return next((kind for kind in reversed(_KINDS) if kind in kinds), None)


def _kind_of_cell(value: Any) -> str | None:
    if isinstance(value, bool):
        return TEXT
    if isinstance(value, int):
        return NUMBER if abs(value) <= _MAX_INTEGER else TEXT
    if isinstance(value, float):
        return NUMBER if math.isfinite(value) else None
    if not isinstance(value, str):
        return None
    stripped = value.strip(" ")
    if not stripped:
        return None
    is_plain = len(stripped) <= _MAX_DIGITS and _PLAIN_NUMBER.fullmatch(stripped)
    if not is_plain or stripped == "-0":
        return TEXT
    if "." not in stripped:
        if abs(int(stripped)) > _MAX_INTEGER:
            return TEXT
        return NUMBER if stripped == value else DECIMAL
    shortest = repr(float(stripped))
    if shortest == value:
        return NUMBER
    # A search does not need this import.
    import decimal

    is_exact = decimal.Decimal(shortest) == decimal.Decimal(stripped)
    return DECIMAL if is_exact else TEXT


def combined_kind(kinds: Iterable[str | None]) -> str:
    """Returns the kind of a column that occurs in several tables."""
    known_kinds = [kind for kind in kinds if kind in _KINDS]
    return max(known_kinds, key=_KINDS.index, default=TEXT)


def value_of_cell(text: str | None, kind: str) -> str | int | float | None:
    """Converts a stored cell to its value in a hit.

    A cell that is not a finite number stays text, even in a column of numbers.

    >>> value_of_cell("5", "number"), value_of_cell("4.50", "decimal")
    (5, '4.50')
    >>> value_of_cell("n/a", "number"), value_of_cell("inf", "number")
    ('n/a', 'inf')
    """
    if text is None or kind != NUMBER:
        return text
    if not text.strip(" "):
        return None
    try:
        if re.fullmatch("-?[0-9]+", text):
            return int(text)
        number = float(text)
    except ValueError:
        return text
    return number if math.isfinite(number) else text


def plain_name(name: str) -> str:
    """Returns a name in lower-case letters, digits and underscores.

    >>> plain_name("My Column!")
    'my_column'
    """
    return re.sub(r"\W+", "_", name.lower()).strip("_") or "column"


def names_in_conditions(names: Iterable[str]) -> dict[str, str]:
    """Returns a dict from the columns of a user table to their names in conditions.

    >>> names_in_conditions(["Loc!", "loc?", "path"])
    {'Loc!': 'loc', 'loc?': 'loc_2', 'path': 'path_'}
    """
    condition_names: dict[str, str] = {}
    for name in names:
        plain = plain_name(name)
        candidate = f"{plain}_" if plain in _RESERVED else plain
        number = 1
        while candidate in condition_names.values():
            number += 1
            candidate = f"{plain}_{number}"
        condition_names[name] = candidate
    return condition_names
