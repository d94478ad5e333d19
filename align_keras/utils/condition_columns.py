"""Columns that conditions compare. This module does not import the parser."""

from typing import NamedTuple

# Kinds of columns.
NUMBER = "number"
TEXT = "text"

Value = str | int | float


class Column(NamedTuple):
    """SQL expressions of a column.

    Attributes:
        sql: expression for comparisons.
        kind: `NUMBER` or `TEXT`.
        text: expression for `like`.
        is_cell: True for a column of a user table, and False for a built-in column.
    """

    sql: str
    kind: str
    text: str
    is_cell: bool = False


class Condition(NamedTuple):
    """Condition in SQL.

    Attributes:
        sql: SQL with a `?` for each parameter.
        parameters: values of the parameters.
        columns: names of the columns of the condition.
    """

    sql: str
    parameters: list[Value]
    columns: set[str]


def fold_case(text: str | None) -> str | None:
    """Returns text in lower case. The final form of the Greek sigma becomes σ."""
    return None if text is None else text.lower().replace("ς", "σ")
