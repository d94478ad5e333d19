r"""Conditions on columns, such as `year >= 2020 and folder like '%Italy%'`.

A condition joins tests by `and`, `or`, `not` and parentheses. A test compares a column
with values or another column: `=`, `==`, `<>`, `!=`, `<`, `<=`, `>`, `>=`, `in (…)`,
`between … and …`, `like '…'` or `is null`. Strings and names are quoted as in SQL.
`like` ignores case. In a pattern, `\%` and `\_` match the characters `%` and `_`.
Numbers can only be compared with numbers, and text only with text.

sqlglot parses the condition, and writes SQL from new nodes. The SQL contains no part of
the user's text: names are looked up among the columns, and values are bound as
parameters. SQLite and PostgreSQL differ only in the SQL of the columns.

Searches in an index and selections from a scored corpus use these conditions.
"""

import difflib
import math
import re
from collections.abc import Callable, Mapping
from typing import ClassVar

from sqlglot import exp
from sqlglot.dialects.sqlite import SQLite
from sqlglot.errors import ParseError, TokenError
from sqlglot.parsers.sqlite import SQLiteParser

from align_keras.utils.condition_columns import (
    NUMBER,
    Column,
    Condition,
    Value,
)
from align_keras.utils.errors import InputError

MAX_CHARACTERS = 10_000
# Maximum number of comparisons in a condition. SQLite accepts expressions with a depth
# of 1,000. The depth of a chain of `or` is its length, and twice its length in the
# subquery for columns of tables.
MAX_TESTS = 300
# Maximum nesting of parentheses, and of `not`. If TensorFlow is imported first, its
# copy of SQLite is used, whose parser accepts 44 levels.
MAX_DEPTH = 30
# Maximum number of columns that an error message lists.
_LISTED_COLUMNS = 20
_EXAMPLE = "year >= 2020 and folder like '%Italy%'"
_KEYWORDS = ("AND", "OR", "NOT", "IN", "BETWEEN", "LIKE", "IS", "NULL")
_COMPARISONS = (exp.EQ, exp.NEQ, exp.LT, exp.LTE, exp.GT, exp.GTE)


class _Language(SQLite):
    """SQL of SQLite in which columns can have the names of other keywords."""

    class Tokenizer(SQLite.Tokenizer):
        KEYWORDS = {
            word: token
            for word, token in SQLite.Tokenizer.KEYWORDS.items()
            if word in _KEYWORDS or not word[0].isalpha()
        }

    class Parser(SQLiteParser):
        NO_PAREN_FUNCTION_PARSERS: ClassVar[dict] = {}


def read_condition(
    text: str,
    columns: Mapping[str, Column],
    folded: Callable[[str, bool], str],
    example: str = _EXAMPLE,
) -> Condition:
    """Converts a condition to SQL and parameters.

    Args:
        text: the condition.
        columns: name → column in SQL. A name in the condition matches regardless of
            case, unless several columns differ only in case.
        folded: function from SQL and a bool, True if the pattern is ASCII, to SQL for
            the same text in lower case.
        example: a valid condition for messages.

    Raises:
        InputError: if the condition is not of the form above, is too long or too
            deeply nested, or compares a number with text.
    """
    return _Writer(text, columns, folded, example).write()


class _Writer:
    """Converts the parsed nodes of a condition to new nodes.

    The methods append values to `parameters` in the order of the `?` marks in the SQL.
    """

    def __init__(
        self,
        text: str,
        columns: Mapping[str, Column],
        folded: Callable[[str, bool], str],
        example: str,
    ) -> None:
        self.text = text
        self.columns = columns
        self.folded = folded
        self.example = example
        self.used_columns: set[str] = set()
        self.parameters: list[Value] = []
        self.num_tests = 0

    def write(self) -> Condition:
        try:
            node = self._condition(self._parse(), 0, 0)
            sql = exp.Paren(this=node).sql("sqlite")
        except RecursionError:
            raise self._too_deep() from None
        return Condition(sql, self.parameters, self.used_columns)

    def _parse(self) -> exp.Expr:
        if len(self.text) > MAX_CHARACTERS or re.search("[\0\ud800-\udfff]", self.text):
            raise InputError(
                f"`where` must have at most {MAX_CHARACTERS:,} valid characters. "
                f"Received: {len(self.text):,} characters, {self.text!r:.200}."
            )
        try:
            nodes = _Language().parse_into(exp.Condition, self.text)
        except (ParseError, TokenError) as error:
            received = f"{self.text!r:.200}"
            mistakes = getattr(error, "errors", None)
            if mistakes:
                received += f", with a mistake at {mistakes[0]['highlight']!r:.60}"
            raise self._error("be a condition", received) from None
        if len(nodes) != 1 or nodes[0] is None:
            raise self._error("be one condition", f"{self.text!r:.200}")
        return nodes[0]

    # === Nodes ===

    def _condition(self, node: exp.Expr, parentheses: int, negations: int) -> exp.Expr:
        if max(parentheses, negations) > MAX_DEPTH:
            raise self._too_deep()
        if isinstance(node, exp.And | exp.Or):
            parts = [
                self._condition(part, parentheses, negations)
                for part in node.flatten(unnest=False)
            ]
            join = exp.and_ if isinstance(node, exp.And) else exp.or_
            return join(*parts, copy=False)
        if isinstance(node, exp.Not):
            condition = self._condition(node.this, parentheses, negations + 1)
            return exp.Not(this=condition)
        if isinstance(node, exp.Paren):
            condition = self._condition(node.this, parentheses + 1, negations)
            return exp.Paren(this=condition)
        return self._test(node)

    def _test(self, node: exp.Expr) -> exp.Expr:
        self.num_tests += 1
        if self.num_tests > MAX_TESTS:
            raise InputError(
                f"`where` must have at most {MAX_TESTS} comparisons. Received: more "
                "comparisons. Use `in (…)` for many values of one column."
            )
        if isinstance(node, _COMPARISONS):
            name, column = self._column(node.this)
            value = self._operand(node.expression, name)
            return type(node)(this=column, expression=value)
        if isinstance(node, exp.Is) and isinstance(node.expression, exp.Null):
            _, column = self._column(node.this)
            return exp.Is(this=column, expression=exp.Null())
        if isinstance(node, exp.In) and node.expressions:
            name, column = self._column(node.this)
            values = [self._value(value, name) for value in node.expressions]
            return exp.In(this=column, expressions=values)
        if isinstance(node, exp.Between) and not node.args.get("symmetric"):
            name, column = self._column(node.this)
            low = self._operand(node.args["low"], name)
            high = self._operand(node.args["high"], name)
            return exp.Between(this=column, low=low, high=high)
        if isinstance(node, exp.Like):
            return self._like(node)
        raise self._error(
            "have comparisons with `=`, `<>`, `<`, `>`, `in`, `between`, `like` or `is "
            "null`",
            self._sql(node),
        )

    def _like(self, node: exp.Like) -> exp.Expr:
        pattern = node.expression
        if not isinstance(pattern, exp.Literal) or not pattern.is_string:
            raise self._error("have a 'pattern' after `like`", self._sql(pattern))
        # SQLite and PostgreSQL reject a pattern that ends in one backslash.
        if re.search(r"(?<!\\)(?:\\\\)*\\$", pattern.this):
            raise self._error(
                "have a pattern that doesn't end in one backslash",
                self._sql(pattern),
                "Double the backslash.",
            )
        is_ascii = pattern.this.isascii()
        name, _ = self._column(node.this)
        text = self.folded(f"CAST({self.columns[name].text} AS TEXT)", is_ascii)
        self.parameters.append(pattern.this)
        like = exp.Like(
            this=_raw_sql(text),
            expression=_raw_sql(self.folded("CAST(? AS TEXT)", is_ascii)),
        )
        test = exp.Escape(this=like, expression=exp.Literal.string("\\"))
        return exp.Not(this=test) if node.args.get("negate") else test

    def _operand(self, node: exp.Expr, name: str) -> exp.Expr:
        """Converts the value or column that a column is compared with."""
        if not isinstance(node, exp.Column):
            return self._value(node, name)
        other, operand = self._column(node)
        if self.columns[other].kind != self.columns[name].kind:
            raise self._kind_error(name, node)
        return operand

    def _column(self, node: exp.Expr) -> tuple[str, exp.Expr]:
        """Returns the name of a column, and its SQL."""
        if not isinstance(node, exp.Column) or node.table:
            raise self._error(
                "have a column in front of each comparison",
                self._sql(node),
                f"Columns are {self._list_columns()}.",
            )
        name = node.name
        if name not in self.columns:
            similar = [
                column for column in self.columns if column.lower() == name.lower()
            ]
            if len(similar) != 1:
                raise self._column_error(name, similar)
            name = similar[0]
        self.used_columns.add(name)
        return name, _raw_sql(self.columns[name].sql)

    def _value(self, node: exp.Expr, name: str) -> exp.Expr:
        """Adds the value that a column is compared with to the parameters."""
        literal = node.this if isinstance(node, exp.Neg) else node
        if not isinstance(literal, exp.Literal):
            raise self._error(
                "have a number or a 'string' in each comparison",
                self._sql(node),
                "Use `is null` for empty cells.",
            )
        value: Value | None = None
        if self.columns[name].kind == NUMBER:
            number = _number(literal.this)
            if number is not None:
                value = number if literal is node else -number
        elif literal.is_string and literal is node:
            value = literal.this
        if value is None:
            raise self._kind_error(name, node)
        self.parameters.append(value)
        return exp.Placeholder()

    # === Errors ===

    def _error(self, rule: str, received: str, remedy: str = "") -> InputError:
        return InputError(
            f"`where` must {rule}. Received: {received}. "
            + (remedy or f'Example: "{self.example}".')
        )

    def _too_deep(self) -> InputError:
        return InputError(
            f"`where` must have at most {MAX_DEPTH} levels of parentheses. Received: "
            "more levels. Write the condition with fewer levels."
        )

    def _column_error(self, name: str, similar: list[str]) -> InputError:
        suggestions = similar or difflib.get_close_matches(name, self.columns, n=1)
        remedy = f"Did you mean {' or '.join(suggestions)}? " if suggestions else ""
        return self._error(
            "have names of columns, and strings in single quotes",
            f"the name {name:.60}",
            f"{remedy}Columns are {self._list_columns()}.",
        )

    def _kind_error(self, name: str, node: exp.Expr) -> InputError:
        if self.columns[name].kind == NUMBER:
            rule = f"`where` must compare {name}, a column of numbers, with numbers."
            remedy = "Write a number without quotes."
        else:
            rule = f"`where` must compare {name}, a column of text, with text."
            remedy = "Write the text in single quotes."
        return InputError(f"{rule} Received: {self._sql(node)}. {remedy}")

    def _list_columns(self) -> str:
        names = sorted(self.columns)
        listed = ", ".join(names[:_LISTED_COLUMNS])
        if len(names) > _LISTED_COLUMNS:
            listed += f" and {len(names) - _LISTED_COLUMNS} more"
        return listed

    def _sql(self, node: exp.Expr) -> str:
        return f"{node.sql('sqlite'):.60}"


def _raw_sql(sql: str) -> exp.Expr:
    """Returns a node that is written as the SQL of a column."""
    return exp.Var(this=sql)


def _number(text: str) -> int | float | None:
    """Returns the finite number in a literal, or None."""
    try:
        number = (
            int(text) if re.fullmatch(" *[+-]?[0-9]{1,18} *", text) else float(text)
        )
    except ValueError:
        return None
    return number if math.isfinite(number) else None
