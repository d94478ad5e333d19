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

Strings and names are quoted as in SQL; `like` ignores case, `\%` and `\_` stand for
themselves. The SQL holds nothing of the user's text: names are looked up among the
columns, and values are bound as parameters. Numbers are compared with numbers and text
with text.
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
# SQLite takes expressions 1,000 deep. A chain of `or` is as deep as it is long, and
# twice as deep within the subquery for the columns of tables.
MAX_TESTS = 300
# Beside TensorFlow, its SQLite is the one that runs, whose parser takes 44 levels.
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
_NAMES_SHOWN = 20


class Condition(NamedTuple):
    """A condition in SQL.

    Attributes:
        sql: str, with `?` in the place of each parameter.
        parameters: list of str, int and float.
        tables: set of int, the tables of rows whose columns it names.
        holds_without_rows: bool, False if it can't hold for an image without rows,
            whose columns of tables are all null.
    """

    sql: str
    parameters: list[str | int | float]
    tables: set[int]
    holds_without_rows: bool


class _Part(NamedTuple):
    """A part of a condition.

    Attributes:
        sql: str.
        outcomes: what it may be for an image without rows: True, False or None
            (unknown).
    """

    sql: str
    outcomes: frozenset[bool | None]


_ANY_OUTCOME = frozenset([True, False, None])


def parse_where(
    text: str, columns: Iterable[str]
) -> tuple[str, list[str | int | float]]:
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
        columns: dict, names that may occur and what they are in SQL. Upper and lower
            case are the same in a name that only one has.
        folded: takes SQL and whether a pattern is ASCII; returns SQL for the text in
            lower case.

    Raises:
        InputError: for what the grammar lacks, with its place, and for a number that is
            compared with text.
    """
    return _Parser(text, columns, folded or _lower).parse()


def _lower(sql, is_ascii):
    return f"lower({sql})"


class _Token(NamedTuple):
    kind: str
    text: str  # As given.
    start: int


class _Parser:
    """Recursive descent. Methods return SQL, or a part, and append its parameters."""

    def __init__(self, text, columns, folded):
        self.text, self.columns, self.folded = text, columns, folded
        self.parameters = []
        self.tables = set()
        self.tests = self.depth = self.place = 0
        self.tokens = self._tokens()

    def parse(self):
        part = self._condition()
        if self._next.kind != "end":
            self._fail("`and`, `or` or the end")
        holds = True in part.outcomes
        return Condition(part.sql, self.parameters, self.tables, holds)

    def _tokens(self):
        self.tokens = [_Token("end", "", 0)]  # What _fail points at.
        if not isinstance(self.text, str) or not self.text.strip():
            self._fail("a condition")
        if len(self.text) > MAX_CHARACTERS:
            raise InputError(
                f"where must have at most {MAX_CHARACTERS:,} characters, received "
                f"{len(self.text):,}; make the condition shorter."
            )
        if re.search("[\0\ud800-\udfff]", self.text):
            raise InputError(
                f"where must be text without NUL and broken characters, received "
                f"{self.text!r:.200}; type it again."
            )
        tokens = []
        for match in _TOKEN.finditer(self.text):
            if match.lastgroup == "unknown":
                self._fail_at_character(match.start())
            tokens.append(_Token(match.lastgroup, match[0], match.start()))
        return [*tokens, _Token("end", "", len(self.text))]

    # === Grammar ===

    def _condition(self):
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise InputError(
                f"where must nest at most {MAX_DEPTH} parentheses and `not`, received "
                "more; write the condition flatter."
            )
        part = self._chain("or", lambda: self._chain("and", self._one))
        self.depth -= 1
        return part

    def _chain(self, word: str, read_part: Callable[[], _Part]) -> _Part:
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
        # Two of them cancel out, of what is unknown too.
        if negations % 2 == 0:
            return part
        outcomes = frozenset(
            None if outcome is None else not outcome for outcome in part.outcomes
        )
        return _Part(f"NOT ({part.sql})", outcomes)

    def _test(self) -> _Part:
        self.tests += 1
        if self.tests > MAX_TESTS:
            raise InputError(
                f"where must have at most {MAX_TESTS} tests, received more; use "
                "`in (…)` for many values of one column."
            )
        column = self._column()
        sql = column.sql
        # A test of a column of a table is unknown without a row.
        is_of_table = column.table is not None
        outcomes = frozenset([None]) if is_of_table else _ANY_OUTCOME
        if self._next.text in _COMPARISONS:
            sign = self._advance().text.replace("==", "=").replace("!=", "<>")
            return _Part(f"{sql} {sign} {self._operand(column)}", outcomes)
        if self._take("is"):
            negated = self._negation()
            self._expect("null")
            if is_of_table:
                outcomes = frozenset([not negated])
            return _Part(f"{sql} IS {negated}NULL", outcomes)
        negated = self._negation()
        if self._take("in"):
            self._expect("(")
            values = [self._value(column)]
            while self._take(","):
                values.append(self._value(column))
            self._expect(")")
            return _Part(f"{sql} {negated}IN ({', '.join(values)})", outcomes)
        if self._take("between"):
            low = self._operand(column)
            self._expect("and")
            high = self._operand(column)
            return _Part(f"{sql} {negated}BETWEEN {low} AND {high}", outcomes)
        if self._take("like"):
            is_ascii = self._next.text.isascii()
            pattern = self.folded(self._pattern(), is_ascii)
            text = self.folded(f"CAST({column.text or sql} AS TEXT)", is_ascii)
            return _Part(f"{text} {negated}LIKE {pattern} ESCAPE '\\'", outcomes)
        signs = "" if negated else "a comparison such as `=`, or `is`, "
        self._fail(f"{signs}`in`, `between` or `like`")

    def _negation(self):
        return "NOT " if self._take("not") else ""

    def _operand(self, column):
        token = self._next
        if not self._is_column(token):
            return self._value(column)
        operand = self._column("a column, a number or a 'string'")
        if column.kind and operand.kind and column.kind != operand.kind:
            self._fail_to_compare(column, token)
        return operand.sql

    def _is_column(self, token):
        is_name = token.kind == "word" and token.text.lower() not in _KEYWORDS
        return is_name or token.kind == "quoted"

    def _column(self, expected="a column"):
        token, name = self._next, self._next.text
        if not self._is_column(token):
            self._fail("a column", f"columns are {self._known()}")
        if token.kind == "quoted":
            name = name[1:-1].replace('""', '"')
        folded = [known for known in self.columns if known.lower() == name.lower()]
        if name not in self.columns and len(folded) != 1:
            self._fail_at_column(expected, name, folded, token)
        self._advance()
        column = self.columns[name if name in self.columns else folded[0]]
        if column.table is not None:
            self.tables.add(column.table)
        return column

    def _value(self, column):
        """The mark of a value to compare a column with."""
        token = self._next
        if token.kind == "string":
            value = token.text[1:-1].replace("''", "'")
            if column.kind == NUMBER:
                value = self._number_in(value, column, token)
            self._advance()
            return self._bound(value)
        if token.kind != "number":
            is_null = token.text.lower() == "null"
            self._fail("a number or a 'string'", "`is null` finds empty ones" * is_null)
        if column.kind == TEXT:
            self._fail_to_compare(column, token)
        number = self._number(token.text)
        self._advance()
        return self._bound(number)

    def _number(self, text):
        is_whole = re.fullmatch("[+-]?[0-9]{1,18}", text)
        number = int(text) if is_whole else float(text)
        if not math.isfinite(number):
            self._fail("a number that isn't infinite")
        return number

    def _number_in(self, text, column, token):
        """The number in a string that a column of numbers is compared with."""
        match = _TOKEN.fullmatch(text.strip())
        if match is None or match.lastgroup != "number":
            self._fail_to_compare(column, token)
        return self._number(text.strip())

    def _pattern(self):
        token = self._next
        if token.kind != "string":
            self._fail("a 'pattern'", "as in `folder like '%Italy%'`")
        if re.search(r"(?<!\\)(?:\\\\)*\\'$", token.text):
            self._fail("a pattern that doesn't end in one backslash", "double it")
        return f"CAST({self._value(Column('', TEXT))} AS TEXT)"

    def _bound(self, value):
        self.parameters.append(value)
        return "?"

    # === Tokens ===

    @property
    def _next(self):
        return self.tokens[self.place]

    def _advance(self):
        self.place += 1
        return self.tokens[self.place - 1]

    def _take(self, text):
        """Whether a keyword or sign comes next, and steps over it."""
        found = self._next.kind in ("word", "sign") and self._next.text.lower() == text
        self.place += found
        return found

    def _expect(self, text):
        if not self._take(text):
            self._fail(f"`{text}`")

    # === Errors ===

    def _known(self):
        names = sorted(self.columns)
        more = f" and {len(names) - _NAMES_SHOWN} more" * (len(names) > _NAMES_SHOWN)
        return ", ".join(names[:_NAMES_SHOWN]) + more

    def _fail(self, expected, remedy="", token=None) -> NoReturn:
        token = token or self._next
        found = "the end" if token.kind == "end" else f"{token.text:.60}"
        raise InputError(
            f"where must have {expected} at character {token.start + 1}, received "
            f"{found}"
            + (f" in {self.text!r:.200}" if self.text else "")
            + f"; {remedy or _EXAMPLE}."
        )

    def _fail_at_column(self, expected, name, folded, token):
        near = folded or difflib.get_close_matches(name, self.columns, n=1)
        meant = f"did you mean {' or '.join(near)}? " if near else ""
        if token.kind == "quoted" or expected != "a column":
            meant += "a string stands in single quotes; "
        self._fail(expected, f"{meant}columns are {self._known()}", token)

    def _fail_to_compare(self, column, token) -> NoReturn:
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

    def _fail_at_character(self, start):
        character = self.text[start]
        remedy = f"close the quote {character}" if character in "'\"" else ""
        token = _Token("word", self.text[start : start + 20], start)
        self._fail("a column, a number, a 'string' or a sign", remedy, token)


_EXAMPLE = "write as in \"year >= 2020 and folder like '%Italy%'\""


def _joined_outcomes(
    word: str, first: frozenset[bool | None], second: frozenset[bool | None]
) -> frozenset[bool | None]:
    """Returns what `and` or `or` of two parts may be, in SQL's three-valued logic."""
    decisive = word == "or"
    outcomes: set[bool | None] = set()
    for pair in itertools.product(first, second):
        if decisive in pair:
            outcomes.add(decisive)
        else:
            outcomes.add(None if None in pair else not decisive)
    return frozenset(outcomes)


def _quoted(name):
    return '"' + name.replace('"', '""') + '"'
