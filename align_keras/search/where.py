r"""Conditions on the columns of an index, `year >= 2020 and folder like '%Italy%'`.

    condition = all {"or" all}
    all       = one {"and" one}
    one       = "not" one | "(" condition ")" | test
    test      = column ("=" | "<>" | "!=" | "<" | "<=" | ">" | ">=") operand
              | column ["not"] "in" "(" value {"," value} ")"
              | column ["not"] "between" operand "and" operand
              | column ["not"] "like" string
              | column "is" ["not"] "null"
    operand   = value | column
    value     = number | string

Strings and names are quoted as in SQL. `like` ignores case, and `\%` and `\_` match
these characters themselves. The SQL contains no part of the user's text: names are
looked up among the columns, and values are bound as parameters. Numbers are compared
with numbers and text with text.
"""

import difflib
import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, NoReturn

from align_keras.search.columns import NUMBER, TEXT, Column
from align_keras.utils.errors import InputError

MAX_CHARACTERS = 10_000
# SQLite accepts expressions with a depth of 1,000. A chain of `or` is as deep as it is
# long, and twice as deep within the subquery for the columns of tables.
MAX_TESTS = 300
# TensorFlow brings its own SQLite, whose parser accepts 44 levels.
MAX_DEPTH = 30

_TOKEN = re.compile(
    r"""
    (?P<string>'(?:[^']|'')*')
    | (?P<quoted>"(?:[^"]|"")*")
    | (?P<number>[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)(?!\w)
    | (?P<word>[^\W\d]\w*)
    | (?P<sign><=|>=|<>|!=|==|[=<>(),])
    | (?P<unknown>\S)
    """,
    re.VERBOSE,
)
_COMPARISONS = ("=", "==", "<>", "!=", "<", "<=", ">", ">=")
_KEYWORDS = ("and", "or", "not", "in", "between", "like", "is", "null")
# Number of columns that an error message lists.
_LISTED_COLUMNS = 20
_EXAMPLE = "Write as in \"year >= 2020 and folder like '%Italy%'\""

Value = str | int | float


class Condition(NamedTuple):
    """A condition in SQL.

    Attributes:
        sql: str, with `?` for each parameter.
        parameters: list of str, int and float.
        tables: set of int, the tables of rows whose columns the condition names.
        holds_without_rows: bool, False if it can't hold for an image without rows,
            whose columns of tables are all null.
    """

    sql: str
    parameters: list[Value]
    tables: set[int]
    holds_without_rows: bool


class _Part(NamedTuple):
    """A part of a condition.

    Attributes:
        sql: str.
        outcomes: the values that it can have for an image without rows: True, False or
            None (unknown).
    """

    sql: str
    outcomes: frozenset[bool | None]


_ANY_OUTCOME: frozenset[bool | None] = frozenset([True, False, None])


def parse_where(text: str, columns: Iterable[str]) -> tuple[str, list[Value]]:
    """Turns a condition on columns of any kind into SQL and the parameters to bind.

    `columns` are the names that may occur. Raises as `read_condition`.

    >>> parse_where("year >= 2020 and not (camera = 'X')", ["year", "camera"])
    ('("year" >= ? AND NOT ("camera" = ?))', [2020, 'X'])
    """
    named = {name: Column(_quoted(name)) for name in columns}
    condition = read_condition(text, named)
    return condition.sql, condition.parameters


def read_condition(
    text: str,
    columns: Mapping[str, Column],
    folded: Callable[[str, bool], str] | None = None,
) -> Condition:
    """Turns a condition into SQL and the parameters to bind.

    Args:
        text: str, the condition.
        columns: dict, name that may occur → column in SQL. The case of a name does not
            matter where only one column has the name.
        folded: takes SQL and whether a pattern is ASCII, and returns SQL for the text
            in lower case.

    Raises:
        InputError: if the condition does not follow the grammar, with the position,
            or compares a number with text.
    """
    return _Parser(text, columns, folded or _lower).parse()


def _lower(sql: str, is_ascii: bool) -> str:
    return f"lower({sql})"


class _Token(NamedTuple):
    """A token of the condition.

    Attributes:
        kind: str, name of a group of `_TOKEN`, or "end".
        text: str, the token as the user wrote it.
        start: int, position of its first character.
    """

    kind: str
    text: str
    start: int


class _Parser:
    """Recursive descent parser of a condition.

    The methods of the grammar return SQL or a part of the condition. They add values to
    `parameters` in the order in which the SQL has their marks.
    """

    def __init__(
        self,
        text: str,
        columns: Mapping[str, Column],
        folded: Callable[[str, bool], str],
    ) -> None:
        self.text = text
        self.columns = columns
        self.folded = folded
        self.parameters: list[Value] = []
        self.tables: set[int] = set()
        self.num_tests = 0
        self.depth = 0
        self.position = 0
        self.tokens = self._tokenize()

    def parse(self) -> Condition:
        part = self._condition()
        if self._next.kind != "end":
            self._fail("`and`, `or` or the end")
        holds = True in part.outcomes
        return Condition(part.sql, self.parameters, self.tables, holds)

    def _tokenize(self) -> list[_Token]:
        if not isinstance(self.text, str) or not self.text.strip():
            self._fail("a condition", token=_Token("end", "", 0))
        if len(self.text) > MAX_CHARACTERS:
            raise InputError(
                f"where must have at most {MAX_CHARACTERS:,} characters. Received: "
                f"{len(self.text):,}. Make the condition shorter."
            )
        if re.search("[\0\ud800-\udfff]", self.text):
            raise InputError(
                f"where must be text without NUL and broken characters. Received: "
                f"{self.text!r:.200}. Type it again."
            )
        tokens = []
        for match in _TOKEN.finditer(self.text):
            kind = str(match.lastgroup)
            if kind == "unknown":
                self._fail_at_character(match.start())
            tokens.append(_Token(kind, match[0], match.start()))
        tokens.append(_Token("end", "", len(self.text)))
        return tokens

    # === Grammar ===

    def _condition(self) -> _Part:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise InputError(
                f"where must nest at most {MAX_DEPTH} parentheses and `not`. Received: "
                "more. Write the condition with fewer levels."
            )
        part = self._chain("or", self._all)
        self.depth -= 1
        return part

    def _all(self) -> _Part:
        return self._chain("and", self._one)

    def _chain(self, word: str, read_part: Callable[[], _Part]) -> _Part:
        """Reads parts that a word joins."""
        parts = [read_part()]
        while self._take(word):
            parts.append(read_part())
        if len(parts) == 1:
            return parts[0]
        outcomes = parts[0].outcomes
        for part in parts[1:]:
            outcomes = _joined_outcomes(word, outcomes, part.outcomes)
        sql = f" {word.upper()} ".join(part.sql for part in parts)
        return _Part(f"({sql})", outcomes)

    def _one(self) -> _Part:
        negations = 0
        while self._take("not"):
            negations += 1
        if self._take("("):
            part = self._condition()
            self._expect(")")
        else:
            part = self._test()
        # Two negations cancel out, also for an unknown outcome.
        if negations % 2 == 0:
            return part
        outcomes = frozenset(
            None if outcome is None else not outcome for outcome in part.outcomes
        )
        return _Part(f"NOT ({part.sql})", outcomes)

    def _test(self) -> _Part:
        self.num_tests += 1
        if self.num_tests > MAX_TESTS:
            raise InputError(
                f"where must have at most {MAX_TESTS} tests. Received: more. Use "
                "`in (…)` for many values of one column."
            )
        column = self._column()
        sql = column.sql
        # A test of a column of a table is unknown without a row.
        is_of_table = column.table is not None
        outcomes: frozenset[bool | None] = _ANY_OUTCOME
        if is_of_table:
            outcomes = frozenset([None])
        if self._next.text in _COMPARISONS:
            sign = self._advance().text.replace("==", "=").replace("!=", "<>")
            return _Part(f"{sql} {sign} {self._operand(column)}", outcomes)
        if self._take("is"):
            negation = self._negation()
            self._expect("null")
            if is_of_table:
                outcomes = frozenset([not negation])
            return _Part(f"{sql} IS {negation}NULL", outcomes)
        negation = self._negation()
        if self._take("in"):
            self._expect("(")
            values = [self._value(column)]
            while self._take(","):
                values.append(self._value(column))
            self._expect(")")
            return _Part(f"{sql} {negation}IN ({', '.join(values)})", outcomes)
        if self._take("between"):
            low = self._operand(column)
            self._expect("and")
            high = self._operand(column)
            return _Part(f"{sql} {negation}BETWEEN {low} AND {high}", outcomes)
        if self._take("like"):
            is_ascii = self._next.text.isascii()
            pattern = self.folded(self._pattern(), is_ascii)
            text = self.folded(f"CAST({column.text or sql} AS TEXT)", is_ascii)
            return _Part(f"{text} {negation}LIKE {pattern} ESCAPE '\\'", outcomes)
        comparisons = "" if negation else "a comparison such as `=`, or `is`, "
        self._fail(f"{comparisons}`in`, `between` or `like`")

    def _negation(self) -> str:
        return "NOT " if self._take("not") else ""

    def _operand(self, column: Column) -> str:
        """Reads a value or a column that `column` is compared with."""
        token = self._next
        if not self._is_column(token):
            return self._value(column)
        operand = self._column("a column, a number or a 'string'")
        if column.kind and operand.kind and column.kind != operand.kind:
            self._fail_to_compare(column, token)
        return operand.sql

    def _is_column(self, token: _Token) -> bool:
        is_name = token.kind == "word" and token.text.lower() not in _KEYWORDS
        return is_name or token.kind == "quoted"

    def _column(self, expected: str = "a column") -> Column:
        token = self._next
        if not self._is_column(token):
            self._fail("a column", f"Columns are {self._listed_columns()}")
        name = token.text
        if token.kind == "quoted":
            name = name[1:-1].replace('""', '"')
        if name not in self.columns:
            folded_name = name.lower()
            similar = [
                column for column in self.columns if column.lower() == folded_name
            ]
            if len(similar) != 1:
                self._fail_at_column(expected, name, similar, token)
            name = similar[0]
        self._advance()
        column = self.columns[name]
        if column.table is not None:
            self.tables.add(column.table)
        return column

    def _value(self, column: Column) -> str:
        """Reads a value that `column` is compared with, and returns its mark."""
        token = self._next
        if token.kind == "string":
            text = token.text[1:-1].replace("''", "'")
            value: Value = text
            if column.kind == NUMBER:
                value = self._number_in(text, column, token)
            self._advance()
            return self._bound(value)
        if token.kind != "number":
            is_null = token.text.lower() == "null"
            remedy = "`is null` finds empty cells" if is_null else ""
            self._fail("a number or a 'string'", remedy)
        if column.kind == TEXT:
            self._fail_to_compare(column, token)
        number = self._number(token.text)
        self._advance()
        return self._bound(number)

    def _number(self, text: str) -> int | float:
        is_whole = re.fullmatch("[+-]?[0-9]{1,18}", text)
        number = int(text) if is_whole else float(text)
        if not math.isfinite(number):
            self._fail("a finite number")
        return number

    def _number_in(self, text: str, column: Column, token: _Token) -> int | float:
        """Returns the number in a string that is compared with a column of numbers."""
        match = _TOKEN.fullmatch(text.strip())
        if match is None or match.lastgroup != "number":
            self._fail_to_compare(column, token)
        return self._number(text.strip())

    def _pattern(self) -> str:
        token = self._next
        if token.kind != "string":
            self._fail("a 'pattern'", "Write as in `folder like '%Italy%'`")
        if re.search(r"(?<!\\)(?:\\\\)*\\'$", token.text):
            self._fail("a pattern that doesn't end in one backslash", "Double it")
        return f"CAST({self._value(Column('', TEXT))} AS TEXT)"

    def _bound(self, value: Value) -> str:
        """Adds a parameter and returns its mark."""
        self.parameters.append(value)
        return "?"

    # === Tokens ===

    @property
    def _next(self) -> _Token:
        return self.tokens[self.position]

    def _advance(self) -> _Token:
        """Steps over the next token and returns it."""
        token = self._next
        self.position += 1
        return token

    def _take(self, text: str) -> bool:
        """Steps over a keyword or sign if it comes next, else returns False."""
        token = self._next
        is_next = token.kind in ("word", "sign") and token.text.lower() == text
        if is_next:
            self._advance()
        return is_next

    def _expect(self, text: str) -> None:
        if not self._take(text):
            self._fail(f"`{text}`")

    # === Errors ===

    def _listed_columns(self) -> str:
        names = sorted(self.columns)
        listed = ", ".join(names[:_LISTED_COLUMNS])
        if len(names) > _LISTED_COLUMNS:
            listed += f" and {len(names) - _LISTED_COLUMNS} more"
        return listed

    def _fail(
        self, expected: str, remedy: str = "", token: _Token | None = None
    ) -> NoReturn:
        token = token or self._next
        received = "the end" if token.kind == "end" else f"{token.text:.60}"
        if self.text:
            received += f" in {self.text!r:.200}"
        raise InputError(
            f"where must have {expected} at character {token.start + 1}. Received: "
            f"{received}. {remedy or _EXAMPLE}."
        )

    def _fail_at_column(
        self, expected: str, name: str, similar: list[str], token: _Token
    ) -> NoReturn:
        remedy = ""
        suggestions = similar or difflib.get_close_matches(name, self.columns, n=1)
        if suggestions:
            remedy += f"Did you mean {' or '.join(suggestions)}? "
        if token.kind == "quoted" or expected != "a column":
            remedy += "Write a string in single quotes. "
        remedy += f"Columns are {self._listed_columns()}"
        self._fail(expected, remedy, token)

    def _fail_to_compare(self, column: Column, token: _Token) -> NoReturn:
        name = next(name for name, one in self.columns.items() if one is column)
        if column.kind == NUMBER:
            rule = f"where must compare {name} with numbers, since it holds numbers."
            remedy = "Write a number without quotes."
        else:
            rule = f"where must compare {name} with text, since it holds text."
            remedy = "Write the text in single quotes."
        raise InputError(
            f"{rule} Received: {token.text:.60} at character {token.start + 1}. "
            f"{remedy}"
        )

    def _fail_at_character(self, start: int) -> NoReturn:
        character = self.text[start]
        remedy = f"Close the quote {character}" if character in "'\"" else ""
        token = _Token("word", self.text[start : start + 20], start)
        self._fail("a column, a number, a 'string' or a sign", remedy, token)


def _joined_outcomes(
    word: str, first: frozenset[bool | None], second: frozenset[bool | None]
) -> frozenset[bool | None]:
    """Returns the outcomes of two joined parts, in SQL's three-valued logic."""
    decisive = word == "or"
    outcomes: set[bool | None] = set()
    for pair in itertools.product(first, second):
        if decisive in pair:
            outcomes.add(decisive)
        else:
            outcomes.add(None if None in pair else not decisive)
    return frozenset(outcomes)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
