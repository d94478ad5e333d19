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
themselves. Of the user's text the SQL holds nothing: names are looked up among the
columns, and values are bound as parameters.
"""

import difflib
import math
import re
from collections.abc import Iterable
from typing import NamedTuple, NoReturn

from align_keras.utils.errors import InputError

# SQLite takes expressions 1,000 deep, and a chain of `or` is as deep as it is long.
MAX_CHARACTERS = 10_000
MAX_TESTS = 500
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


def parse_where(
    text: str, columns: Iterable[str]
) -> tuple[str, list[str | int | float]]:
    """Turns a condition into SQL and the parameters to bind, str, int and float.

    `columns` are the names that may occur; upper and lower case are the same in a name
    that only one has. Raises InputError for what the grammar lacks, with its place.

    >>> parse_where("year >= 2020 and not (camera = 'X')", ["year", "camera"])
    ('("year" >= ? AND NOT ("camera" = ?))', [2020, 'X'])
    """
    quoted = {name: _quoted(name) for name in columns}
    return _Parser(text, quoted).parse()


class _Token(NamedTuple):
    kind: str
    text: str  # As given.
    start: int


class _Parser:
    """Recursive descent; each method returns SQL and appends its parameters."""

    def __init__(self, text, columns):
        self.text, self.columns = text, columns
        self.parameters = []
        self.tests = self.depth = self.place = 0
        self.tokens = self._tokens()

    def parse(self):
        sql = self._condition()
        if self._next.kind != "end":
            self._fail("`and`, `or` or the end")
        return sql, self.parameters

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
        sql = self._chain("or", lambda: self._chain("and", self._one))
        self.depth -= 1
        return sql

    def _chain(self, word, part):
        parts = [part()]
        while self._take(word):
            parts.append(part())
        return parts[0] if len(parts) == 1 else f"({f' {word.upper()} '.join(parts)})"

    def _one(self):
        negations = 0
        while self._take("not"):
            negations += 1
        if self._take("("):
            sql = self._condition()
            self._expect(")")
        else:
            sql = self._test()
        # Two of them cancel out, of what is unknown too.
        return f"NOT ({sql})" if negations % 2 else sql

    def _test(self):
        self.tests += 1
        if self.tests > MAX_TESTS:
            raise InputError(
                f"where must have at most {MAX_TESTS} tests, received more; use "
                "`in (…)` for many values of one column."
            )
        column = self._column()
        if self._next.text in _COMPARISONS:
            sign = self._advance().text.replace("==", "=").replace("!=", "<>")
            return f"{column} {sign} {self._operand()}"
        if self._take("is"):
            negated = self._negation()
            self._expect("null")
            return f"{column} IS {negated}NULL"
        negated = self._negation()
        if self._take("in"):
            self._expect("(")
            values = [self._value()]
            while self._take(","):
                values.append(self._value())
            self._expect(")")
            return f"{column} {negated}IN ({', '.join(values)})"
        if self._take("between"):
            low = self._operand()
            self._expect("and")
            return f"{column} {negated}BETWEEN {low} AND {self._operand()}"
        if self._take("like"):
            pattern = self._pattern()
            return f"lower(CAST({column} AS TEXT)) {negated}LIKE {pattern} ESCAPE '\\'"
        signs = "" if negated else "a comparison such as `=`, or `is`, "
        self._fail(f"{signs}`in`, `between` or `like`")

    def _negation(self):
        return "NOT " if self._take("not") else ""

    def _operand(self):
        if self._is_column(self._next):
            return self._column("a column, a number or a 'string'")
        return self._value()

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
        return self.columns[name if name in self.columns else folded[0]]

    def _value(self):
        token = self._next
        if token.kind == "string":
            return self._bound(self._advance().text[1:-1].replace("''", "'"))
        if token.kind != "number":
            is_null = token.text.lower() == "null"
            self._fail("a number or a 'string'", "`is null` finds empty ones" * is_null)
        is_whole = re.fullmatch("[+-]?[0-9]{1,18}", token.text)
        number = int(token.text) if is_whole else float(token.text)
        if not math.isfinite(number):
            self._fail("a number that isn't infinite")
        self._advance()
        return self._bound(number)

    def _pattern(self):
        token = self._next
        if token.kind != "string":
            self._fail("a 'pattern'", "as in `folder like '%Italy%'`")
        if re.search(r"(?<!\\)(?:\\\\)*\\'$", token.text):
            self._fail("a pattern that doesn't end in one backslash", "double it")
        return f"lower({self._value()})"

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

    def _fail_at_character(self, start):
        character = self.text[start]
        remedy = f"close the quote {character}" if character in "'\"" else ""
        token = _Token("word", self.text[start : start + 20], start)
        self._fail("a column, a number, a 'string' or a sign", remedy, token)


_EXAMPLE = "write as in \"year >= 2020 and folder like '%Italy%'\""


def _quoted(name):
    return '"' + name.replace('"', '""') + '"'
