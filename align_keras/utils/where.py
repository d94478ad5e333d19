r"""Parser of conditions on columns, such as `year >= 2020 and folder like '%Italy%'`.

    condition   = conjunction {"or" conjunction}
    conjunction = factor {"and" factor}
    factor      = "not" factor | "(" condition ")" | test
    test        = column ("=" | "<>" | "!=" | "<" | "<=" | ">" | ">=") operand
                | column ["not"] "in" "(" value {"," value} ")"
                | column ["not"] "between" operand "and" operand
                | column ["not"] "like" string
                | column "is" ["not"] "null"
    operand     = value | column
    value       = number | string

Strings and names are quoted as in SQL. `like` ignores case. In a pattern, `\%` and `\_`
match the characters `%` and `_`. Numbers can only be compared with numbers, and text
only with text.

Searches in an index and selections from a scored corpus use these conditions.

The generated SQL contains no part of the user's text. Names are looked up among the
columns, and values are bound as parameters.
"""

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, NoReturn

from align_keras.utils.errors import InputError

MAX_CHARACTERS = 10_000
# Maximum number of comparisons in a condition. SQLite accepts expressions with a depth
# of 1,000. The depth of a chain of `or` is its length, and twice its length in the
# subquery for columns of tables.
MAX_TESTS = 300
# Maximum nesting of parentheses. If TensorFlow is imported first, its copy of SQLite is
# used, whose parser accepts 44 levels.
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
# Maximum number of columns that an error message lists.
_LISTED_COLUMNS = 20
EXAMPLE = "year >= 2020 and folder like '%Italy%'"
# Kinds of columns.
NUMBER = "number"
TEXT = "text"

Value = str | int | float


class Column(NamedTuple):
    """SQL expressions of a column.

    Attributes:
        sql: str, expression for comparisons.
        kind: str, `NUMBER` or `TEXT`, or "" if the column can be compared with both.
        text: str, expression for `like`.
        is_cell: bool, True for a column of a user table, and False for a built-in
            column.
    """

    sql: str
    kind: str = ""
    text: str = ""
    is_cell: bool = False


class Condition(NamedTuple):
    """Condition in SQL.

    Attributes:
        sql: str, SQL with a `?` for each parameter.
        parameters: list of str, int and float.
        columns: set of str, names of the columns of the condition.
    """

    sql: str
    parameters: list[Value]
    columns: set[str]


def parse_where(text: str, columns: Iterable[str]) -> tuple[str, list[Value]]:
    """Converts a condition to SQL and parameters, without checks of the column kinds.

    Args:
        text: str, the condition.
        columns: iterable of str, names of the columns.

    Raises:
        InputError: as `read_condition`.

    >>> parse_where("year >= 2020 and not (camera = 'X')", ["year", "camera"])
    ('("year" >= ? AND NOT ("camera" = ?))', [2020, 'X'])
    """
    named = {name: Column(_quote(name)) for name in columns}
    condition = read_condition(text, named)
    return condition.sql, condition.parameters


def read_condition(
    text: str,
    columns: Mapping[str, Column],
    folded: Callable[[str, bool], str] | None = None,
    example: str = EXAMPLE,
) -> Condition:
    """Converts a condition to SQL and parameters.

    Args:
        text: str, the condition.
        columns: dict, name → column in SQL. A name in the condition matches regardless
            of case, unless several columns differ only in case.
        folded: function from SQL and a bool, True if the pattern is ASCII, to SQL for
            the same text in lower case.
        example: str, a valid condition for messages.

    Returns:
        `Condition`.

    Raises:
        InputError: if the condition does not follow the grammar, or compares a number
            with text. The message has the position of the error.
    """
    return _Parser(text, columns, folded or _lower, example).parse()


def _lower(sql: str, is_ascii: bool) -> str:
    return f"lower({sql})"


def fold_case(text: str | None) -> str | None:
    """Returns text in lower case. The final form of the Greek sigma becomes σ."""
    return None if text is None else text.lower().replace("ς", "σ")


class _Token(NamedTuple):
    """Token of a condition.

    Attributes:
        kind: str, name of a group in `_TOKEN`, or "end".
        text: str, text of the token.
        start: int, position of its first character.
    """

    kind: str
    text: str
    start: int


class _Parser:
    """Recursive descent parser of a condition.

    The methods of the grammar return SQL or a `_Part`. They append values to
    `parameters` in the order of the `?` marks in the SQL.
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
        self.depth = 0
        self.position = 0
        self.tokens = self._tokenize()

    def parse(self) -> Condition:
        sql = self._condition()
        if self._next.kind != "end":
            self._fail("`and`, `or` or the end")
        return Condition(sql, self.parameters, self.used_columns)

    def _tokenize(self) -> list[_Token]:
        if not isinstance(self.text, str) or not self.text.strip():
            self._fail("a condition", token=_Token("end", "", 0))
        if len(self.text) > MAX_CHARACTERS:
            raise InputError(
                f"`where` must have at most {MAX_CHARACTERS:,} characters. Received: "
                f"{len(self.text):,} characters. Shorten the condition."
            )
        if re.search("[\0\ud800-\udfff]", self.text):
            raise InputError(
                "`where` must not contain NUL or invalid characters. Received: "
                f"{self.text!r:.200}. Type the condition again."
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

    def _condition(self) -> str:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise InputError(
                f"`where` must have at most {MAX_DEPTH} levels of parentheses. "
                "Received: more levels. Write the condition with fewer levels."
            )
        sql = self._chain("or", self._conjunction)
        self.depth -= 1
        return sql

    def _conjunction(self) -> str:
        return self._chain("and", self._factor)

    def _chain(self, word: str, read_part: Callable[[], str]) -> str:
        """Reads one or more parts that are joined by `and` or `or`."""
        parts = [read_part()]
        while self._take(word):
            parts.append(read_part())
        if len(parts) == 1:
            return parts[0]
        sql = f" {word.upper()} ".join(parts)
        return f"({sql})"

    def _factor(self) -> str:
        negations = 0
        while self._take("not"):
            negations += 1
        if self._take("("):
            sql = self._condition()
            self._expect(")")
        else:
            sql = self._test()
        # Two negations cancel out, even if the outcome is unknown.
        return sql if negations % 2 == 0 else f"NOT ({sql})"

    def _test(self) -> str:
        self.num_tests += 1
        if self.num_tests > MAX_TESTS:
            raise InputError(
                f"`where` must have at most {MAX_TESTS} comparisons. Received: more "
                "comparisons. Use `in (…)` for many values of one column."
            )
        column = self._column()
        sql = column.sql
        if self._next.text in _COMPARISONS:
            sign = self._advance().text.replace("==", "=").replace("!=", "<>")
            return f"{sql} {sign} {self._operand(column)}"
        if self._take("is"):
            negation = self._negation()
            self._expect("null")
            return f"{sql} IS {negation}NULL"
        negation = self._negation()
        if self._take("in"):
            self._expect("(")
            values = [self._value(column)]
            while self._take(","):
                values.append(self._value(column))
            self._expect(")")
            return f"{sql} {negation}IN ({', '.join(values)})"
        if self._take("between"):
            low = self._operand(column)
            self._expect("and")
            high = self._operand(column)
            return f"{sql} {negation}BETWEEN {low} AND {high}"
        if self._take("like"):
            is_ascii = self._next.text.isascii()
            pattern = self.folded(self._pattern(), is_ascii)
            text = self.folded(f"CAST({column.text or sql} AS TEXT)", is_ascii)
            return f"{text} {negation}LIKE {pattern} ESCAPE '\\'"
        comparisons = "" if negation else "a comparison such as `=`, or `is`, "
        self._fail(f"{comparisons}`in`, `between` or `like`")

    def _negation(self) -> str:
        return "NOT " if self._take("not") else ""

    def _operand(self, column: Column) -> str:
        """Reads the value or column that `column` is compared with, and returns SQL."""
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
            self._fail("a column", f"Columns are {self._list_columns()}")
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
        self.used_columns.add(name)
        return self.columns[name]

    def _value(self, column: Column) -> str:
        """Reads the value that `column` is compared with, and returns its `?` mark."""
        token = self._next
        if token.kind == "string":
            text = token.text[1:-1].replace("''", "'")
            value: Value = text
            if column.kind == NUMBER:
                value = self._number_in(text, column, token)
            self._advance()
            return self._bind(value)
        if token.kind != "number":
            is_null = token.text.lower() == "null"
            remedy = "Use `is null` for empty cells" if is_null else ""
            self._fail("a number or a 'string'", remedy)
        if column.kind == TEXT:
            self._fail_to_compare(column, token)
        number = self._number(token.text)
        self._advance()
        return self._bind(number)

    def _number(self, text: str) -> int | float:
        is_whole = re.fullmatch("[+-]?[0-9]{1,18}", text)
        number = int(text) if is_whole else float(text)
        if not math.isfinite(number):
            self._fail("a finite number")
        return number

    def _number_in(self, text: str, column: Column, token: _Token) -> int | float:
        """Returns the number in a quoted string, for a column of numbers."""
        match = _TOKEN.fullmatch(text.strip())
        if match is None or match.lastgroup != "number":
            self._fail_to_compare(column, token)
        return self._number(text.strip())

    def _pattern(self) -> str:
        token = self._next
        if token.kind != "string":
            self._fail("a 'pattern'", "Example: `folder like '%Italy%'`")
        if re.search(r"(?<!\\)(?:\\\\)*\\'$", token.text):
            self._fail(
                "a pattern that doesn't end in one backslash", "Double the backslash"
            )
        return f"CAST({self._value(Column('', TEXT))} AS TEXT)"

    def _bind(self, value: Value) -> str:
        """Appends a parameter and returns its `?` mark."""
        self.parameters.append(value)
        return "?"

    # === Tokens ===

    @property
    def _next(self) -> _Token:
        return self.tokens[self.position]

    def _advance(self) -> _Token:
        """Moves past the next token and returns it."""
        token = self._next
        self.position += 1
        return token

    def _take(self, text: str) -> bool:
        """Moves past a keyword or sign and returns True if it is the next token."""
        token = self._next
        is_next = token.kind in ("word", "sign") and token.text.lower() == text
        if is_next:
            self._advance()
        return is_next

    def _expect(self, text: str) -> None:
        if not self._take(text):
            self._fail(f"`{text}`")

    # === Errors ===

    def _list_columns(self) -> str:
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
            f"`where` must have {expected} at character {token.start + 1}. Received: "
            f"{received}. {remedy or self._quoted_example()}."
        )

    def _quoted_example(self) -> str:
        return f'Example: "{self.example}"'

    def _fail_at_column(
        self, expected: str, name: str, similar: list[str], token: _Token
    ) -> NoReturn:
        remedy = ""
        suggestions = similar or difflib.get_close_matches(name, self.columns, n=1)
        if suggestions:
            remedy += f"Did you mean {' or '.join(suggestions)}? "
        if token.kind == "quoted" or expected != "a column":
            remedy += "Write a string in single quotes. "
        remedy += f"Columns are {self._list_columns()}"
        self._fail(expected, remedy, token)

    def _fail_to_compare(self, column: Column, token: _Token) -> NoReturn:
        name = next(name for name, other in self.columns.items() if other is column)
        if column.kind == NUMBER:
            rule = f"`where` must compare {name}, a column of numbers, with numbers."
            remedy = "Write a number without quotes."
        else:
            rule = f"`where` must compare {name}, a column of text, with text."
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


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
