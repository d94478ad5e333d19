"""Columns that a condition may name: those of every image, and those of users' tables.

A table's values are stored as the text in the table, so that "00123" and an ISBN of 20
digits do not change. A column compares as numbers if `kind_of` finds a plain number in
each of its cells.
"""

import decimal
import math
import re
from collections.abc import Container, Iterable
from typing import Any, NamedTuple

# Columns of every image, and their types in SQLite.
INDEX_COLUMNS = {
    "path": "TEXT",
    "folder": "TEXT",
    "name": "TEXT",
    "size": "INTEGER",
    "date": "TEXT",
    "year": "INTEGER",
    "width": "INTEGER",
    "height": "INTEGER",
    "camera": "TEXT",
    "captions": "TEXT",
}
# A column of a table with one of these names has an underscore added in conditions.
_RESERVED = (*INDEX_COLUMNS, "id", "root", "file", "row", "content")
# Maximum number of columns of all tables of an index.
MAX_COLUMNS = 2_000
# Kinds of a table's column. A hit has a number as a number, a decimal as its text
# ("4.50"). Both compare as numbers.
NUMBER = "number"
DECIMAL = "decimal"
TEXT = "text"
_KINDS = (NUMBER, DECIMAL, TEXT)
_PLAIN_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?")
# Longer numbers are text, since float(…) of a million digits takes long.
_MAX_DIGITS = 400
# JavaScript and JSON readers round larger integers.
_MAX_INTEGER = 2**53


class Column(NamedTuple):
    """A column in SQL.

    Attributes:
        sql: str, the expression that is compared.
        kind: str, `NUMBER` or `TEXT`, or "" if a comparison accepts both.
        text: str, the expression that `like` matches.
        table: int, number of the table of rows that stores it, or None for a column
            of the images themselves.
    """

    sql: str
    kind: str = ""
    text: str = ""
    table: int | None = None


class TableRow(NamedTuple):
    """A row of a user's table: captions of its image, and column name → value."""

    captions: list[str]
    values: dict[str, Any]


def as_text(value: Any) -> str | None:
    """Returns a cell as the text to store, or None for a value that isn't stored.

    NUL and lone surrogates, which no database stores, become U+FFFD.

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


def fold_case(text: str | None) -> str | None:
    """Returns text in lower case, with one form of the small sigma."""
    return None if text is None else text.lower().replace("ς", "σ")


def kind_of(values: Iterable[Any]) -> str | None:
    """Returns the kind of a column, or None if all its cells are blank.

    A number is an integer of at most 2^53, or a decimal number, without leading zeros,
    exponent or plus sign, that a float64 holds exactly as it is written.

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
    is_exact = decimal.Decimal(shortest) == decimal.Decimal(stripped)
    return DECIMAL if is_exact else TEXT


def combined_kind(kinds: Iterable[str | None]) -> str:
    """Returns the kind of a column that several tables have."""
    known_kinds = [kind for kind in kinds if kind in _KINDS]
    return max(known_kinds, key=_KINDS.index, default=TEXT)


def shown_value(text: str | None, kind: str) -> str | int | float | None:
    """Returns a stored cell as the value in a hit.

    A cell that isn't a number is returned unchanged, also in a column of numbers.

    >>> shown_value("5", "number"), shown_value("4.50", "decimal")
    (5, '4.50')
    >>> shown_value("n/a", "number")
    'n/a'
    """
    if text is None or kind != NUMBER:
        return text
    if not text.strip(" "):
        return None
    try:
        return int(text) if re.fullmatch("-?[0-9]+", text) else float(text)
    except ValueError:
        return text


def name_in_conditions(name: str, taken: Container[str]) -> str:
    """Returns the name of a table's column in conditions.

    It has only letters in lower case, digits and underscores, and is not in `taken`.

    >>> name_in_conditions("My Column!", ()), name_in_conditions("path", ("path_",))
    ('my_column', 'path_2')
    """
    plain = re.sub(r"\W+", "_", name.lower()).strip("_") or "column"
    if plain in _RESERVED:
        plain += "_"
    candidate = plain
    number = 1
    while candidate in taken or candidate in _RESERVED:
        number += 1
        candidate = f"{plain.rstrip('_')}_{number}"
    return candidate
